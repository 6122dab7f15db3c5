// The memory that a kernel may access, and what the checker knows about each granule of it.
#pragma once

#include <cstddef>

#include "threads.h"

namespace emulation {

enum AccessKind { READ, WRITE, ATOMIC_READ, ATOMIC_WRITE };

// Faults if the running thread may not make this access, or if it races with another.
void check_access(const void* address, size_t bytes, AccessKind kind, const void* place);
// Records an access to shared memory by an instruction of the kernel, if the launch asks for a trace.
void trace_access(const void* address, size_t bytes, AccessKind kind, const void* place);

enum Permission : unsigned char {
  READABLE = 1,
  WRITABLE = 2,
  SHARED = 4,     // a read before any write is a fault
  IN_FLIGHT = 8,  // an asynchronous copy will write it
};

// Accesses to a granule that a later one must be ordered after.
struct Granule {
  unsigned char permission = 0;
  Stamp write;
  Stamp read;                    // by one block, as most often only one reads
  std::vector<Stamp> by_others;  // reads by further blocks
  std::vector<Stamp> atomics;    // the last one of each thread
};

// Null for memory outside of arguments and shared arrays.
Granule* granule_at(u64 address);
u64 granule_size_at(u64 address);
void set_permission(u64 first, u64 bytes, u32 granule_size, unsigned char permission);
void clear_permission(u64 first, u64 bytes);
// Faults if the access races with an earlier one, and records it for later ones.
void check_race(Granule& granule, u64 address, AccessKind kind, const void* place);

// The description of an address in a message.
struct Description {
  const char* memory;
  char text[256];
};
// "element 3 of row 2 of 'gates'".
Description describe_element(u64 address);
// "8 bytes after the end of row 2 of 'gates'", the nearest memory.
Description describe_distance(u64 address, size_t bytes);

void register_arguments();
void register_shared(u64 first, u64 bytes, u32 element_size, const char* name);
void forget_shared(u64 first);
void release_shared_memory(Block& block);
void forget_releases();
// At the end of a launch.
void forget_memory();

}  // namespace emulation
