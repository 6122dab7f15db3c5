// Every access of a kernel: whether it is to memory that it was given, and for this kind of access.
#include "faults.h"
#include "memory.h"
#include "scheduler.h"

namespace emulation {

// Below this no memory ever is: the address began as a null pointer.
static const u64 NULL_PAGE = 4096;

static const char* verb(AccessKind kind) {
  switch (kind) {
    case READ:
      return "read";
    case WRITE:
      return "write";
    default:
      return "atomic access";
  }
}

static void fault_outside(u64 address, size_t bytes, AccessKind kind, const void* place) {
  if (address < NULL_PAGE) {
    fault({"null pointer", place}, "a %zu-byte %s at address %llu", bytes, verb(kind),
          static_cast<unsigned long long>(address));
  }
  const Description nearest = describe_distance(address, bytes);
  fault({"out of bounds", place, nearest.argument}, "a %zu-byte %s %s", bytes, verb(kind), nearest.text);
}

static void check_permission(const Granule& granule, u64 address, AccessKind kind, const void* place) {
  if ((kind == WRITE || kind == ATOMIC_WRITE) && !(granule.permission & WRITABLE)) {
    const Description element = describe_element(address);
    fault({"write through const", place, element.argument}, "a write to %s, which the kernel takes as const",
          element.text);
  }
  if (granule.permission & IN_FLIGHT) {
    fault({"copy in flight", place}, "a %s of %s, to which an asynchronous copy is in flight", verb(kind),
          describe_element(address).text);
  }
  const bool reads = kind != WRITE;
  if (reads && (granule.permission & SHARED) && !granule.write && granule.atomics.empty()) {
    fault({"uninitialised", place}, "a %s of %s, which nothing has been written to", verb(kind),
          describe_element(address).text);
  }
}

void check_access(const void* pointer, size_t bytes, AccessKind kind, const void* place) {
  if (!running || !launch->check || running->fiber->owns(pointer)) return;
  ++launch->checked_accesses;
  const u64 begin = reinterpret_cast<u64>(pointer);
  for (u64 address = begin; address < begin + bytes;) {
    Granule* granule = granule_at(address);
    if (!granule) {
      if (is_in_this_library(pointer)) return;
      fault_outside(begin, bytes, kind, place);
    }
    check_permission(*granule, address, kind, place);
    if (granule->permission & WRITABLE) check_race(*granule, address, kind, place);
    const u64 size = granule_size_at(address);
    address += size - address % size;
  }
  maybe_preempt();
}

}  // namespace emulation
