// A log of calls, which tests read.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

namespace driver {

// A call. Its kind is "launch", "graph", "record", "wait", or "synchronize" if the host waits for a stream or
// for a device.
struct Entry {
  std::string kind;
  cudaStream_t stream;
  void* handle;      // of the event or graph
  std::string step;  // the kind of the launched step: "kernel", "matmul", "memcpy", "memcpy2D" or "memset"
  std::string name;  // of the kernel, or "device" if the host waits for one
};

void write_log(const Entry& entry);

}  // namespace driver
