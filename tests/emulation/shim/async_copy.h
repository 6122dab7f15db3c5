// cp.async: copies from global to shared memory that are complete when they have been waited for.
#pragma once

#include "language.h"

// Copies 16 bytes, or writes 16 zeros where there is nothing valid to copy.
EMULATED void copy_async_16(void* shared, const void* global, bool valid) {
  emulation::copy_async(shared, global, valid);
}
EMULATED void copy_async_commit() { emulation::copy_async_commit(); }
// Waits until at most N of the thread's latest groups are in flight.
template <int N> EMULATED void copy_async_wait() { emulation::copy_async_wait(N); }
