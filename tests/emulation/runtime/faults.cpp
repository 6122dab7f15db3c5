#include "faults.h"

#include <dlfcn.h>

#include <cstdarg>
#include <cstdio>

#include "scheduler.h"

namespace emulation {

static const char* library_of(const void* address) {
  Dl_info info;
  return address && dladdr(address, &info) ? static_cast<const char*>(info.dli_fbase) : nullptr;
}

static const char* kernels_library() { return library_of(reinterpret_cast<const void*>(launch->kernel)); }

bool is_in_kernels_library(const void* address) { return library_of(address) == kernels_library(); }

unsigned long long place_in_kernel(const void* place) {
  return is_in_kernels_library(place) ? static_cast<const char*>(place) - kernels_library() : 0;
}

static void record(const Fault& fault, const char* format, va_list values) {
  if (launch->kind[0]) return;
  snprintf(launch->kind, sizeof launch->kind, "%s", fault.kind);
  const size_t length = sizeof launch->text;
  int written = vsnprintf(launch->text, length, format, values);
  if (written < 0 || written >= static_cast<int>(length)) written = length - 1;
  if (running) {
    const uint3 block = running->block->index, thread = running->index;
    snprintf(launch->text + written, length - written, " [block (%u, %u, %u), thread (%u, %u, %u)]", block.x,
             block.y, block.z, thread.x, thread.y, thread.z);
  }
  snprintf(launch->memory, sizeof launch->memory, "%s", fault.memory ? fault.memory : "");
  launch->place = place_in_kernel(fault.place);
}

void report(const Fault& fault, const char* format, ...) {
  va_list values;
  va_start(values, format);
  record(fault, format, values);
  va_end(values);
}

void fault(const Fault& fault, const char* format, ...) {
  va_list values;
  va_start(values, format);
  record(fault, format, values);
  va_end(values);
  abandon_launch();
}

}  // namespace emulation
