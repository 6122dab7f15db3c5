// What was asked of the driver, for tests to read.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

namespace driver {

// One call: a step's kind, "graph", "record", "wait" or a wait of the host; its stream; and its event, or its name.
struct Entry {
  std::string kind;
  cudaStream_t stream;
  cudaEvent_t event;
  std::string name;
};

void write_log(const Entry& entry);

}  // namespace driver
