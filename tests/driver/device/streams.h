// Streams, events and captures.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tasks.h"

namespace driver {

// What a graph's launch is, which has an entry of its own in the log.
const char* const GRAPH = "graph";

// Work that a stream queues, and what it is: "kernel" with its name, "memcpy", "memcpy2D", "memset" or
// "matmul".
struct Step {
  const char* kind;
  std::string name;
  Work work;
  Work rest = nullptr;  // the second part of some work: other streams' work may come before it
};

// What a capture recorded.
struct Recording {
  std::vector<Step> steps;
  std::thread::id thread;
  cudaStreamCaptureMode mode;
  bool invalid = false;
};
typedef std::shared_ptr<Recording> RecordingPtr;

struct Stream {
  int device;
  bool waits_for_legacy;  // and the legacy stream for it
  TaskPtr last = nullptr;
  RecordingPtr recording = nullptr;  // of a stream that captures
  bool began_capture = false;
  std::set<size_t> follows = {};  // the steps of the capture that its next step follows
};

struct Event {
  int device;
  bool has_time;
  TaskPtr task = nullptr;            // null for an event that nobody recorded
  RecordingPtr recording = nullptr;  // of an event that was recorded in a capture
  std::set<size_t> follows = {};     // the steps of the capture that it follows
  cudaStream_t stream = nullptr;     // where it was recorded
  double milliseconds = 0;
};

// The stream of a handle, or null for one that isn't alive.
Stream* find_stream(cudaStream_t handle);
bool is_legacy(cudaStream_t handle);

// All streams but the legacy ones.
const std::set<Stream*>& live_streams();

// Queues work on a stream, or records it if the stream captures. If `last` is given, the work follows that
// task, and then is it.
cudaError_t queue(cudaStream_t stream, Step step, TaskPtr* last = nullptr);

// Makes a graph of what a capture recorded.
cudaGraph_t new_graph(const RecordingPtr& recording);

}  // namespace driver
