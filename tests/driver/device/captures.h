// What captures forbid, and which streams join them.
#pragma once

#include "streams.h"

namespace driver {

// Makes a capture fail at its end. Returns the error.
cudaError_t invalidate(const RecordingPtr& recording, cudaError_t error);

// Called by functions that may wait or allocate. If a capture forbids those, invalidates it and returns an
// error.
cudaError_t check_unsafe_call();

// If this is the legacy stream, and a blocking stream captures, invalidates the capture and returns an error.
cudaError_t check_legacy(cudaStream_t handle);

// Makes a stream wait for an event of a capture. The stream joins the capture.
cudaError_t join_capture(Stream* stream, cudaStream_t handle, const Event& event);

}  // namespace driver
