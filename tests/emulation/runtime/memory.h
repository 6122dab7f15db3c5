// The memory that a kernel may touch, and what the checker knows about each granule of it.
#pragma once

#include <cstddef>

#include "threads.h"

namespace emulation {

enum AccessKind { READ, WRITE, ATOMIC_READ, ATOMIC_WRITE };

// Faults where the running thread may not make this access, or races with another's.
void check_access(const void* address, size_t bytes, AccessKind kind, const void* place);

enum Permission : unsigned char {
  READABLE = 1,
  WRITABLE = 2,
  SHARED = 4,     // so that a read before any write is a fault
  IN_FLIGHT = 8,  // an asynchronous copy will write it
};

// Accesses to a granule that a later one must be ordered after.
struct Granule {
  unsigned char permission = 0;
  Stamp write;
  Stamp read;                    // by one block, and most often there is only one
  std::vector<Stamp> by_others;  // reads by further blocks
  std::vector<Stamp> atomics;    // the last of each thread
};

// Null where no argument and no shared memory is.
Granule* granule_at(u64 address);
u64 granule_size_at(u64 address);
void set_permission(u64 first, u64 bytes, u32 granule_size, unsigned char permission);
void clear_permission(u64 first, u64 bytes);
// Faults where the access races with one before it, and notes it for those to come.
void check_race(Granule& granule, u64 address, AccessKind kind, const void* place);

// How an address is called in a message.
struct Description {
  const char* memory;
  char text[256];
};
// "element 3 of row 2 of 'gates'".
Description describe_element(u64 address);
// "8 bytes after the end of row 2 of 'gates'", which is the nearest.
Description describe_distance(u64 address, size_t bytes);

void register_arguments();
void register_shared(u64 first, u64 bytes, u32 element_size, const char* name);
void forget_shared(u64 first);
void release_shared_memory(Block& block);
void forget_releases();
// At the end of a launch.
void forget_memory();

}  // namespace emulation
