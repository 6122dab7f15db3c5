// Devices, versions and errors.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "api.h"

namespace driver {

std::recursive_mutex lock;
static thread_local int device_of_thread = 0;
static thread_local cudaError_t last_error = cudaSuccess;
static std::string why_broken;

int device_count() {
  static const int count = getenv("DRIVER_DEVICES") ? atoi(getenv("DRIVER_DEVICES")) : 2;
  return count;
}

int current_device() { return device_of_thread; }
cudaError_t failed(cudaError_t error) { return last_error = error; }
bool is_broken() { return !why_broken.empty(); }

void break_context(const std::string& why) {
  if (is_broken()) return;
  why_broken = why;
  fprintf(stderr, "fake driver: %s\n", why.c_str());
}

// The attributes of an H100 or H200 that CuPy and the package read. Others are 0.
static int attribute(cudaDeviceAttr name) {
  switch (name) {
    case cudaDevAttrComputeCapabilityMajor:
      return 9;
    case cudaDevAttrComputeCapabilityMinor:
      return 0;
    case cudaDevAttrMultiProcessorCount:
      return MULTIPROCESSORS;
    case cudaDevAttrWarpSize:
      return 32;
    case cudaDevAttrMaxThreadsPerBlock:
      return 1024;
    case cudaDevAttrMaxGridDimX:
      return 2147483647;
    case cudaDevAttrMaxGridDimY:
      return 65535;
    case cudaDevAttrMaxGridDimZ:
      return 65535;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      return 48 << 10;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      return 227 << 10;
    case cudaDevAttrUnifiedAddressing:
      return 1;
    default:
      return 0;
  }
}

}  // namespace driver

using namespace driver;

cudaError_t cudaGetDeviceCount(int* count) {
  *count = device_count();
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = current_device();
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= device_count()) return failed(cudaErrorInvalidDevice);
  device_of_thread = device;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr name, int device) {
  if (device < 0 || device >= device_count()) return failed(cudaErrorInvalidDevice);
  *value = attribute(name);
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* out, int device) {
  if (device < 0 || device >= device_count()) return failed(cudaErrorInvalidDevice);
  memset(out, 0, sizeof *out);
  strcpy(out->name, "fake GPU");
  out->totalGlobalMem = size_t(1) << 34;
  out->major = attribute(cudaDevAttrComputeCapabilityMajor);
  out->minor = attribute(cudaDevAttrComputeCapabilityMinor);
  out->multiProcessorCount = MULTIPROCESSORS;
  out->warpSize = 32;
  out->sharedMemPerBlock = 48 << 10;
  out->sharedMemPerBlockOptin = 227 << 10;
  out->maxThreadsPerBlock = 1024;
  return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
  *can = 0;
  return cudaSuccess;
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

cudaError_t cudaPeekAtLastError() { return last_error; }

// The names that the package, CuPy and the tests compare. Other errors are named by their number.
const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidPitchValue:
      return "cudaErrorInvalidPitchValue";
    case cudaErrorInvalidMemcpyDirection:
      return "cudaErrorInvalidMemcpyDirection";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle:
      return "cudaErrorInvalidResourceHandle";
    case cudaErrorIllegalState:
      return "cudaErrorIllegalState";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated:
      return "cudaErrorStreamCaptureInvalidated";
    case cudaErrorStreamCaptureMerge:
      return "cudaErrorStreamCaptureMerge";
    case cudaErrorStreamCaptureUnmatched:
      return "cudaErrorStreamCaptureUnmatched";
    case cudaErrorStreamCaptureUnjoined:
      return "cudaErrorStreamCaptureUnjoined";
    case cudaErrorStreamCaptureIsolation:
      return "cudaErrorStreamCaptureIsolation";
    case cudaErrorStreamCaptureImplicit:
      return "cudaErrorStreamCaptureImplicit";
    case cudaErrorStreamCaptureWrongThread:
      return "cudaErrorStreamCaptureWrongThread";
    case cudaErrorCapturedEvent:
      return "cudaErrorCapturedEvent";
    default:
      break;
  }
  static thread_local char text[32];
  snprintf(text, sizeof text, "cudaError %d", error);
  return text;
}

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorLaunchFailure ? why_broken.c_str() : "raised by the fake driver";
}

// Called by the stubs of functions that the fake driver lacks.
extern "C" int driver_lacks(const char* name) {
  fprintf(stderr, "fake driver: %s was called, but the driver lacks it (see tests/driver/README.md)\n", name);
  return 999;
}
