// What may happen during a capture.
#pragma once

#include "streams.h"

namespace driver {

// Makes a capture fail when it ends. Returns the error.
cudaError_t invalidate(const RecordingPtr& recording, cudaError_t error);

// Fails, and invalidates the capture, where a capture forbids calls that may wait or allocate.
cudaError_t check_unsafe_call();

// Fails, and invalidates the capture, if this is the legacy stream and a blocking stream captures.
cudaError_t check_legacy(cudaStream_t handle);

// Lets a stream wait for an event of a capture, which the stream joins.
cudaError_t join_capture(Stream* stream, cudaStream_t handle, const Event& event);

}  // namespace driver
