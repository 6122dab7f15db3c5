// Races: two accesses, at least one of them a write, without a known order.
#include <cstdio>

#include "faults.h"
#include "memory.h"

namespace emulation {

static void fault_race(const char* what, const Stamp& earlier, u64 address, const void* place) {
  const Description element = describe_element(address);
  char who[48] = "several threads";
  if (earlier.thread != SEVERAL) snprintf(who, sizeof who, "thread %u", earlier.thread);
  fault({"race", place, element.memory}, "%s %s, not ordered after %s of block %u", what, element.text, who,
        earlier.block - 1);
}

static void require_order(const Stamp& earlier, const char* what, u64 address, const void* place) {
  if (earlier && !happened_before(earlier)) fault_race(what, earlier, address, place);
}

// Merges a read with an earlier one by the same block. It replaces that one if the two are ordered.
static void merge_read(Stamp& earlier, const Stamp& now) {
  if (earlier && earlier.block_epoch == now.block_epoch && earlier.thread != now.thread &&
      !happened_before(earlier)) {
    const u32 warp = earlier.warp == now.warp ? now.warp : SEVERAL;
    earlier = now;
    earlier.thread = SEVERAL;
    earlier.warp = warp;
  } else {
    earlier = now;
  }
}

static void note_read(Granule& granule, const Stamp& now) {
  if (!granule.read || granule.read.block == now.block) {
    merge_read(granule.read, now);
    return;
  }
  for (Stamp& other : granule.by_others) {
    if (other.block == now.block) {
      merge_read(other, now);
      return;
    }
  }
  granule.by_others.push_back(now);
}

static void note_atomic(Granule& granule, const Stamp& now) {
  for (Stamp& other : granule.atomics) {
    if (other.block == now.block && other.thread == now.thread) {
      other = now;
      return;
    }
  }
  granule.atomics.push_back(now);
}

static void require_reads_over(const Granule& granule, const char* what, u64 address, const void* place) {
  require_order(granule.read, what, address, place);
  for (const Stamp& read : granule.by_others) require_order(read, what, address, place);
}

void check_race(Granule& granule, u64 address, AccessKind kind, const void* place) {
  const bool atomic = kind == ATOMIC_READ || kind == ATOMIC_WRITE;
  const bool write = kind == WRITE || kind == ATOMIC_WRITE;
  const char* what = atomic ? "an atomic access to" : write ? "a write to" : "a read of";
  require_order(granule.write, what, address, place);
  if (!atomic) {
    for (const Stamp& earlier : granule.atomics) require_order(earlier, what, address, place);
  }
  if (write) require_reads_over(granule, atomic ? what : "a write, after a read, to", address, place);
  const Stamp now = stamp_now();
  if (atomic) {
    note_atomic(granule, now);
  } else if (write) {
    granule.write = now;
    granule.read = Stamp();
    granule.by_others.clear();
    granule.atomics.clear();
  } else {
    note_read(granule, now);
  }
}

}  // namespace emulation
