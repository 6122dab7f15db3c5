// Shared by all functions of the API: one lock, the current device, and errors.
#pragma once

#include <cuda_runtime_api.h>

#include <mutex>
#include <string>

namespace driver {

// Held during each call. Python is never called meanwhile.
extern std::recursive_mutex lock;
typedef std::lock_guard<std::recursive_mutex> Locked;

const unsigned MULTIPROCESSORS = 132;  // of an H100 or H200
int device_count();
int current_device();

// Remembers an error for cudaGetLastError, and returns it.
cudaError_t failed(cudaError_t error);

// Makes every later call fail, as after a kernel's fault on a GPU. The error's text says why.
void break_context(const std::string& why);
bool is_broken();

}  // namespace driver

// Begins a function of the runtime: takes the lock, and fails if the context is broken.
#define BEGIN_CALL                           \
  const driver::Locked locked(driver::lock); \
  if (driver::is_broken()) return driver::failed(cudaErrorLaunchFailure)
