// How a fault ends a launch and reaches Python.
#pragma once

namespace emulation {

struct Fault {
  const char* kind;
  const void* place = nullptr;   // a return address in the kernel
  const char* memory = nullptr;  // the name of the argument or shared array concerned
};

// Records a fault. Only the launch's first is kept.
void report(const Fault& fault, const char* format, ...) __attribute__((format(printf, 2, 3)));
// Reports a fault of the running thread and ends the launch.
[[noreturn]] void fault(const Fault& fault, const char* format, ...) __attribute__((format(printf, 2, 3)));

// Whether an address is in the running kernel's library: its code, constants and static variables.
bool is_in_kernels_library(const void* address);
// A return address in the kernel, relative to its library; 0 for others.
unsigned long long place_in_kernel(const void* place);

}  // namespace emulation
