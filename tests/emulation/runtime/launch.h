// One launch, as launch.py asks for it and as the rest of the runtime reads it.
#pragma once

#include <cstdint>

typedef uint32_t u32;
typedef uint64_t u64;

namespace emulation {

// Memory that an argument covers: `count` rows of `row_bytes`, `stride` bytes apart.
struct Extent {
  u64 first, row_bytes, stride, count;
  u32 element_size;
  u32 granule;  // bytes that are checked together; divides every address and size in the allocation
  int argument;
  int writable;
};

// Which of the ready threads runs next, and which block starts next.
enum ScheduleOrder { FIRST_COMES_FIRST, LAST_COMES_FIRST, AT_RANDOM };

struct Launch {
  void (*kernel)(void** arguments);
  void** arguments;
  u32 grid[3], block[3];
  u64 dynamic_shared_bytes;
  int check;
  int order;
  u32 preempt;  // one access in so many gives another thread the turn; 0 for none
  u32 co_resident;
  u64 seed;
  const Extent* extents;
  u64 extent_count;
  const char* const* argument_names;
  // What came of it: a fault where `kind` is not empty.
  char kind[64];
  char text[1024];
  char memory[64];  // the name of the argument or shared array that it is about
  u64 place;        // a return address in the kernel, relative to the shared library; 0 where there is none
  u64 thread_switches, checked_accesses;
};

extern Launch* launch;

}  // namespace emulation

// Runs a launch to its end or its first fault.
extern "C" void emulation_launch(emulation::Launch* request);
