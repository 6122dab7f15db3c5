// A launch, as launch.py requests it and the rest of the runtime reads it.
#pragma once

#include <cstdint>

typedef uint32_t u32;
typedef uint64_t u64;

namespace emulation {

// Memory that an argument covers: `count` rows of `row_bytes`, `stride` bytes apart.
struct Extent {
  u64 first, row_bytes, stride, count;
  u32 element_size;
  u32 granule;  // bytes that are checked together, a divisor of every address and size in the allocation
  int argument;
  int writable;
};

// Which of the ready threads runs next, and which block starts next.
enum ScheduleOrder { FIRST_COMES_FIRST, LAST_COMES_FIRST, AT_RANDOM };

// An access to shared memory by one thread, as trace.py reads it.
struct SharedAccess {
  u64 place;  // a return address in the kernel, relative to the shared library
  u64 address;
  u32 block, thread;
  u32 bytes, writes;
};

struct Launch {
  void (*kernel)(void** arguments);
  void** arguments;
  u32 grid[3], block[3];
  u64 dynamic_shared_bytes;
  int check;
  int order;
  u32 preempt;  // one in so many accesses ends the turn, or none if 0
  u32 co_resident;
  u64 seed;
  const Extent* extents;
  u64 extent_count;
  const char* const* argument_names;
  // Shared memory is traced if there is room for it. `traced` counts all accesses, even those without room.
  SharedAccess* trace;
  u64 trace_room, traced;
  // The result. If `kind` is not empty, it is a fault.
  char kind[64];
  char text[1024];
  char memory[64];  // the name of the argument or shared array concerned
  u64 place;        // a return address in the kernel, relative to the shared library, or 0
  u64 thread_switches, checked_accesses;
};

extern Launch* launch;

}  // namespace emulation

// Runs a launch to its end or its first fault.
extern "C" void emulation_launch(emulation::Launch* request);
