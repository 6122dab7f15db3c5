// What was asked of the driver, for tests to read.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

namespace driver {

// One call: "launch", "graph", "record", "wait" or "synchronize", where the host waits for a stream or for
// all.
struct Entry {
  std::string kind;
  cudaStream_t stream;
  void* handle;      // of an event or a graph
  std::string step;  // what was launched: "kernel", "matmul", "memcpy", "memcpy2D" or "memset"
  std::string name;  // of a kernel
};

void write_log(const Entry& entry);

}  // namespace driver
