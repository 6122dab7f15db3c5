// What code is here, and how Python makes a kernel of it.
#pragma once

#include <cstddef>

namespace emulation {
struct Launch;
}

namespace driver {

// Code: the magic bytes, the length of a description, a colon, the description, and a last byte.
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

// Finds a function of code by its name. Python's; returns whether there is one.
typedef int (*FindKernel)(const char* description, size_t length, const char* name, Kernel* out);

}  // namespace driver
