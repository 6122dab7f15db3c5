// cudaStream*, cudaEvent*: order and waits.
#include "streams.h"

#include <chrono>
#include <map>
#include <set>

#include "api.h"
#include "captures.h"
#include "log.h"

namespace driver {

static std::set<Stream*> streams;
static std::set<Event*> events;

const std::set<Stream*>& live_streams() { return streams; }

static Stream* legacy_stream(int device) {
  static std::vector<Stream> made;
  if (made.empty()) {
    for (int each = 0; each < device_count(); ++each) made.push_back({each, false});
  }
  return &made[device];
}

bool is_legacy(cudaStream_t handle) { return handle == nullptr || handle == cudaStreamLegacy; }

static Stream* per_thread_stream() {
  static thread_local std::map<int, Stream*> made;  // by device
  Stream*& stream = made[current_device()];
  if (!stream) {
    stream = new Stream{current_device(), true};
    streams.insert(stream);
  }
  return stream;
}

Stream* find_stream(cudaStream_t handle) {
  if (is_legacy(handle)) return legacy_stream(current_device());
  if (handle == cudaStreamPerThread) return per_thread_stream();
  Stream* stream = reinterpret_cast<Stream*>(handle);
  return streams.count(stream) ? stream : nullptr;
}

static Event* find_event(cudaEvent_t handle) {
  Event* event = reinterpret_cast<Event*>(handle);
  return events.count(event) ? event : nullptr;
}

static std::vector<TaskPtr> before_next(const Stream* stream, bool legacy) {
  std::vector<TaskPtr> before{stream->last};
  if (stream->waits_for_legacy) before.push_back(legacy_stream(stream->device)->last);
  if (!legacy) return before;
  for (const Stream* other : streams) {
    if (other->waits_for_legacy && other->device == stream->device) before.push_back(other->last);
  }
  return before;
}

cudaError_t queue(cudaStream_t handle, Step step, TaskPtr* last) {
  Stream* stream = find_stream(handle);
  if (!stream || stream->device != current_device()) return failed(cudaErrorInvalidResourceHandle);
  if (stream->recording) {
    if (stream->recording->invalid) return failed(cudaErrorStreamCaptureInvalidated);
    stream->follows.insert(stream->recording->steps.size());
    stream->recording->steps.push_back(std::move(step));
    return cudaSuccess;
  }
  if (const cudaError_t error = check_legacy(handle)) return error;
  if (step.kind != GRAPH) write_log({"launch", handle, nullptr, step.kind, step.name});
  std::vector<TaskPtr> before = before_next(stream, is_legacy(handle));
  if (last) before.push_back(*last);
  stream->last = queue_task(stream->device, std::move(step.work), before);
  if (step.rest) stream->last = queue_task(stream->device, std::move(step.rest), {stream->last});
  if (last) *last = stream->last;
  return is_broken() ? failed(cudaErrorLaunchFailure) : cudaSuccess;
}

static double now() {
  const auto since = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double, std::milli>(since).count();
}

static cudaError_t new_stream(cudaStream_t* out, unsigned flags) {
  Stream* stream = new Stream{current_device(), !(flags & cudaStreamNonBlocking)};
  streams.insert(stream);
  *out = reinterpret_cast<cudaStream_t>(stream);
  return cudaSuccess;
}

static cudaError_t wait_for(Stream* stream, cudaStream_t handle) {
  if (stream->recording) return invalidate(stream->recording, cudaErrorStreamCaptureUnsupported);
  if (const cudaError_t error = check_legacy(handle)) return error;
  write_log({"synchronize", handle, nullptr, "", ""});
  for (const TaskPtr& task : before_next(stream, is_legacy(handle))) run_task(task);
  return is_broken() ? failed(cudaErrorLaunchFailure) : cudaSuccess;
}

}  // namespace driver

using namespace driver;

cudaError_t cudaStreamCreate(cudaStream_t* out) {
  BEGIN_CALL;
  return new_stream(out, 0);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* out, unsigned flags) {
  BEGIN_CALL;
  return new_stream(out, flags);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* out, unsigned flags, int) {
  BEGIN_CALL;
  return new_stream(out, flags);
}

// Stricter than CUDA: a thread that captures can't destroy a stream. The Stream is never freed, so handles
// stay unique.
cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  BEGIN_CALL;
  Stream* stream = find_stream(handle);
  if (!stream || is_legacy(handle) || handle == cudaStreamPerThread) {
    return failed(cudaErrorInvalidResourceHandle);
  }
  if (const cudaError_t error = check_unsafe_call()) return error;
  streams.erase(stream);  // what it queued still runs
  stream->last = nullptr;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  BEGIN_CALL;
  Stream* stream = find_stream(handle);
  if (!stream) return failed(cudaErrorInvalidResourceHandle);
  return wait_for(stream, handle);
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  BEGIN_CALL;
  Stream* stream = find_stream(handle);
  if (!stream) return failed(cudaErrorInvalidResourceHandle);
  if (stream->recording) return invalidate(stream->recording, cudaErrorStreamCaptureUnsupported);
  if (const cudaError_t error = check_legacy(handle)) return error;
  for (const TaskPtr& task : before_next(stream, is_legacy(handle))) {
    if (!task || task->done) continue;
    ask_for(task);
    return cudaErrorNotReady;
  }
  return cudaSuccess;
}

cudaError_t cudaStreamGetFlags(cudaStream_t handle, unsigned* flags) {
  BEGIN_CALL;
  const Stream* stream = find_stream(handle);
  if (!stream) return failed(cudaErrorInvalidResourceHandle);
  *flags = is_legacy(handle) || stream->waits_for_legacy ? cudaStreamDefault : cudaStreamNonBlocking;
  return cudaSuccess;
}

cudaError_t cudaStreamGetDevice(cudaStream_t handle, int* device) {
  BEGIN_CALL;
  const Stream* stream = find_stream(handle);
  if (!stream) return failed(cudaErrorInvalidResourceHandle);
  *device = stream->device;
  return cudaSuccess;
}

cudaError_t cudaStreamGetPriority(cudaStream_t, int* priority) {
  *priority = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  BEGIN_CALL;
  for (const Stream* stream : streams) {
    if (stream->recording && stream->device == current_device()) {
      return invalidate(stream->recording, cudaErrorStreamCaptureUnsupported);
    }
  }
  write_log({"synchronize", nullptr, nullptr, "", "device"});
  run_all(current_device());
  return is_broken() ? failed(cudaErrorLaunchFailure) : cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t waited, unsigned) {
  BEGIN_CALL;
  Stream* stream = find_stream(handle);
  const Event* event = find_event(waited);
  if (!stream || !event) return failed(cudaErrorInvalidResourceHandle);
  if (event->recording) return join_capture(stream, handle, *event);
  if (stream->recording) return invalidate(stream->recording, cudaErrorStreamCaptureIsolation);
  if (const cudaError_t error = check_legacy(handle)) return error;
  write_log({"wait", handle, waited, "", ""});
  std::vector<TaskPtr> before = before_next(stream, is_legacy(handle));
  before.push_back(event->task);
  stream->last = queue_task(stream->device, nullptr, before);
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* out, unsigned flags) {
  BEGIN_CALL;
  Event* event = new Event{current_device(), !(flags & cudaEventDisableTiming)};
  events.insert(event);
  *out = reinterpret_cast<cudaEvent_t>(event);
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* out) { return cudaEventCreateWithFlags(out, 0); }

cudaError_t cudaEventDestroy(cudaEvent_t handle) {
  BEGIN_CALL;
  Event* event = find_event(handle);
  if (!event) return failed(cudaErrorInvalidResourceHandle);
  events.erase(event);  // the Event is never freed, as a task may still set its time
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t on) {
  BEGIN_CALL;
  Event* event = find_event(handle);
  Stream* stream = find_stream(on);
  if (!event || !stream || event->device != stream->device) return failed(cudaErrorInvalidResourceHandle);
  event->recording = stream->recording;
  event->follows = stream->follows;
  if (stream->recording) {
    return stream->recording->invalid ? failed(cudaErrorStreamCaptureInvalidated) : cudaSuccess;
  }
  if (const cudaError_t error = check_legacy(on)) return error;
  write_log({"record", on, handle, "", ""});
  stream->last = queue_task(
      stream->device, [event] { event->milliseconds = now(); }, before_next(stream, is_legacy(on)));
  event->task = stream->last;
  event->stream = on;
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
  BEGIN_CALL;
  const Event* event = find_event(handle);
  if (!event) return failed(cudaErrorInvalidResourceHandle);
  if (event->recording) return failed(cudaErrorCapturedEvent);
  if (const cudaError_t error = check_unsafe_call()) return error;
  if (!event->task || event->task->done) return cudaSuccess;
  ask_for(event->task);
  return cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  BEGIN_CALL;
  const Event* event = find_event(handle);
  if (!event) return failed(cudaErrorInvalidResourceHandle);
  if (event->recording) return failed(cudaErrorCapturedEvent);
  if (const cudaError_t error = check_unsafe_call()) return error;
  write_log({"synchronize", event->stream, nullptr, "", ""});
  run_task(event->task);
  return is_broken() ? failed(cudaErrorLaunchFailure) : cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t first, cudaEvent_t last) {
  BEGIN_CALL;
  const Event *begin = find_event(first), *end = find_event(last);
  if (!begin || !end || !begin->has_time || !end->has_time || !begin->task || !end->task) {
    return failed(cudaErrorInvalidResourceHandle);
  }
  if (!begin->task->done || !end->task->done) return failed(cudaErrorNotReady);
  *milliseconds = static_cast<float>(end->milliseconds - begin->milliseconds);
  return cudaSuccess;
}
