// cp.async: copies from global to shared memory, which complete when they are waited for.
#pragma once

#include "language.h"

// Copies the first `bytes` of 16 bytes, and fills the rest with zeros. 0 doesn't read.
EMULATED void copy_async_16(void* shared, const void* global, int bytes, bool wanted = true) {
  if (wanted) emulation::copy_async(shared, global, bytes);
}
EMULATED void copy_async_commit() { emulation::copy_async_commit(); }
// Waits until at most N of the thread's latest groups are in flight.
template <int N> EMULATED void copy_async_wait() { emulation::copy_async_wait(N); }
