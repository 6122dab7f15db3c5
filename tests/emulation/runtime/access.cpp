// Checks every access of a kernel: whether the kernel may access this memory in this way.
#include "faults.h"
#include "memory.h"
#include "scheduler.h"

namespace emulation {

// Lower addresses are offsets from a null pointer, as no memory is ever mapped there.
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
  fault({"out of bounds", place, nearest.memory}, "a %zu-byte %s %s", bytes, verb(kind), nearest.text);
}

static void check_permission(const Granule& granule, u64 address, AccessKind kind, const void* place) {
  const bool writes = kind == WRITE || kind == ATOMIC_WRITE, reads = kind != WRITE;
  const char *fault_kind = nullptr, *why = nullptr;
  if (writes && !(granule.permission & WRITABLE)) {
    fault_kind = "write through const", why = "the kernel takes as const";
  } else if (granule.permission & IN_FLIGHT) {
    fault_kind = "copy in flight", why = "an asynchronous copy is on its way to";
  } else if (reads && (granule.permission & SHARED) && !granule.write && granule.atomics.empty()) {
    fault_kind = "uninitialised", why = "nothing has been written to";
  }
  if (!fault_kind) return;
  const Description element = describe_element(address);
  fault({fault_kind, place, element.memory}, "a %s of %s, which %s", verb(kind), element.text, why);
}

void check_access(const void* pointer, size_t bytes, AccessKind kind, const void* place) {
  if (!running || !launch->check || running->fiber->owns(pointer)) return;
  ++launch->checked_accesses;
  const u64 begin = reinterpret_cast<u64>(pointer);
  for (u64 address = begin; address < begin + bytes;) {
    Granule* granule = granule_at(address);
    if (!granule) {
      if (is_in_kernels_library(pointer)) return;
      fault_outside(begin, bytes, kind, place);
    }
    check_permission(*granule, address, kind, place);
    if (granule->permission & WRITABLE) check_race(*granule, address, kind, place);
    const u64 size = granule_size_at(address);
    address += size - address % size;
  }
  maybe_preempt();
}

void trace_access(const void* pointer, size_t bytes, AccessKind kind, const void* place) {
  if (!running || !launch->trace || running->fiber->owns(pointer)) return;
  const u64 address = reinterpret_cast<u64>(pointer);
  const Granule* granule = granule_at(address);
  if (!granule || !(granule->permission & SHARED)) return;
  const u64 number = launch->traced++;
  if (number >= launch->trace_room) return;
  launch->trace[number] = {place_in_kernel(place),  address,      running->block->number, running->number,
                           static_cast<u32>(bytes), kind == WRITE};
}

}  // namespace emulation
