// cudaStream*Capture*: captures.
#include "captures.h"

#include <set>

#include "api.h"

namespace driver {

static std::set<RecordingPtr> recordings;  // of captures that haven't ended

cudaError_t invalidate(const RecordingPtr& recording, cudaError_t error) {
  recording->invalid = true;
  return failed(error);
}

cudaError_t check_unsafe_call() {
  for (const RecordingPtr& recording : recordings) {
    const bool forbids = recording->mode == cudaStreamCaptureModeGlobal ||
                         (recording->mode == cudaStreamCaptureModeThreadLocal &&
                          recording->thread == std::this_thread::get_id());
    if (forbids) return invalidate(recording, cudaErrorStreamCaptureUnsupported);
  }
  return cudaSuccess;
}

// Returns the capture of a blocking stream of the current device, or null.
static RecordingPtr blocking_recording() {
  for (const Stream* stream : live_streams()) {
    if (stream->waits_for_legacy && stream->device == current_device() && stream->recording) {
      return stream->recording;
    }
  }
  return nullptr;
}

// Work on the legacy stream waits for blocking streams, and they wait for it. A capture can't record that.
cudaError_t check_legacy(cudaStream_t handle) {
  const RecordingPtr recording = is_legacy(handle) ? blocking_recording() : nullptr;
  return recording ? invalidate(recording, cudaErrorStreamCaptureImplicit) : cudaSuccess;
}

cudaError_t join_capture(Stream* stream, cudaStream_t handle, const Event& event) {
  const RecordingPtr& recording = event.recording;
  if (stream->recording && stream->recording != recording) {
    return invalidate(stream->recording, cudaErrorStreamCaptureMerge);
  }
  if (!recordings.count(recording)) return failed(cudaErrorCapturedEvent);  // the capture has ended
  if (is_legacy(handle)) return invalidate(recording, cudaErrorStreamCaptureImplicit);
  if (recording->invalid) return failed(cudaErrorStreamCaptureInvalidated);
  if (!stream->recording) stream->follows.clear();
  stream->recording = recording;
  stream->follows.insert(event.follows.begin(), event.follows.end());
  return cudaSuccess;
}

}  // namespace driver

using namespace driver;

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  BEGIN_CALL;
  Stream* stream = find_stream(handle);
  if (!stream) return failed(cudaErrorInvalidResourceHandle);
  if (is_legacy(handle)) return failed(cudaErrorStreamCaptureUnsupported);
  if (stream->recording) return failed(cudaErrorIllegalState);
  stream->recording = std::make_shared<Recording>(Recording{{}, std::this_thread::get_id(), mode});
  stream->began_capture = true;
  stream->follows.clear();
  recordings.insert(stream->recording);
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  BEGIN_CALL;
  const Stream* stream = find_stream(handle);
  if (!stream) return failed(cudaErrorInvalidResourceHandle);
  *status = cudaStreamCaptureStatusNone;
  if (is_legacy(handle) && blocking_recording()) return failed(cudaErrorStreamCaptureImplicit);
  if (!stream->recording) return cudaSuccess;
  *status = stream->recording->invalid ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

// Ends the capture of a stream, and of all streams that have joined it.
static cudaError_t end_capture(Stream* stream, RecordingPtr* out) {
  if (!stream->recording) return failed(cudaErrorIllegalState);
  if (!stream->began_capture) return failed(cudaErrorStreamCaptureUnmatched);
  *out = stream->recording;
  if ((*out)->mode != cudaStreamCaptureModeRelaxed && (*out)->thread != std::this_thread::get_id()) {
    return failed(cudaErrorStreamCaptureWrongThread);
  }
  for (Stream* other : live_streams()) {
    if (other->recording == *out) other->recording = nullptr;
  }
  stream->began_capture = false;
  recordings.erase(*out);
  if ((*out)->invalid) return failed(cudaErrorStreamCaptureInvalidated);
  const bool joined = stream->follows.size() == (*out)->steps.size();
  return joined ? cudaSuccess : failed(cudaErrorStreamCaptureUnjoined);
}

// For tests: ends all captures, and returns how many there were.
extern "C" int driver_end_captures() {
  const Locked locked(lock);
  const int count = static_cast<int>(recordings.size());
  for (Stream* stream : live_streams()) {
    stream->recording = nullptr;
    stream->began_capture = false;
  }
  recordings.clear();
  return count;
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* out) {
  BEGIN_CALL;
  *out = nullptr;
  Stream* stream = find_stream(handle);
  if (!stream) return failed(cudaErrorInvalidResourceHandle);
  RecordingPtr recording;
  if (const cudaError_t error = end_capture(stream, &recording)) return error;
  *out = new_graph(recording);
  return cudaSuccess;
}
