// The format of code, and the interface to Python, which makes kernels of it.
#pragma once

#include <cstddef>

namespace emulation {
struct Launch;
}

namespace driver {

// Code is these bytes, the length of a description, a colon, the description, and IMAGE_END.
#define IMAGE_MAGIC \
  "\x7f"            \
  "ELF of the fake driver "
const char IMAGE_END = '\0';

// An emulated kernel. Mirrored in kernels.py.
struct Kernel {
  void (*run)(void** arguments);
  void (*launch)(emulation::Launch*);
  int parameters;
  int sizes[64];  // bytes of each parameter
};

// Python's function that finds a kernel by its name. Returns whether there is one.
typedef int (*FindKernel)(const char* description, size_t length, const char* name, Kernel* out);

}  // namespace driver
