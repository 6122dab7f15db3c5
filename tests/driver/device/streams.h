// Streams, events, and what captures record.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tasks.h"

namespace driver {

// The kind of a graph's steps when it is launched. The log has one entry for the whole graph. Kinds are
// compared by address, so this needs one address in all files.
inline const char* const GRAPH = "graph";

// Work to queue on a stream. Its kind is "kernel", "memcpy", "memcpy2D", "memset", "matmul" or GRAPH. Only
// kernels have a name.
struct Step {
  const char* kind;
  std::string name;
  Work work;
  Work rest = nullptr;  // an optional second part: other streams' work may run before it
};

// The work that a capture has recorded.
struct Recording {
  std::vector<Step> steps;
  std::thread::id thread;
  cudaStreamCaptureMode mode;
  bool invalid = false;
};
typedef std::shared_ptr<Recording> RecordingPtr;

struct Stream {
  int device;
  bool waits_for_legacy;  // and the legacy stream waits for it: a blocking stream
  TaskPtr last = nullptr;
  RecordingPtr recording = nullptr;  // null unless the stream captures
  bool began_capture = false;
  std::set<size_t> follows = {};  // the steps of the capture that its next step follows
};

struct Event {
  int device;
  bool has_time;
  TaskPtr task = nullptr;            // null for an event that was never recorded
  RecordingPtr recording = nullptr;  // null unless it was last recorded in a capture
  std::set<size_t> follows = {};     // the steps of the capture that it follows
  cudaStream_t stream = nullptr;     // where it was recorded
  double milliseconds = 0;
};

// Returns the stream of a handle, or null if there is none.
Stream* find_stream(cudaStream_t handle);
bool is_legacy(cudaStream_t handle);

// Returns all streams but the legacy ones.
const std::set<Stream*>& live_streams();

// Queues work on a stream, or records it if the stream captures. If `last` is given, the work also runs after
// that task, and `last` becomes the work's task.
cudaError_t queue(cudaStream_t stream, Step step, TaskPtr* last = nullptr);

// Makes a graph of recorded work.
cudaGraph_t new_graph(const RecordingPtr& recording);

}  // namespace driver
