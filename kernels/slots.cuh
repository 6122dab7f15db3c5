// Checks slots that are on the device. Those that can't be stepped are reported, and count as -1.
#pragma once

#include "primitives.cuh"

// What is wrong with a slot, numbered like PROBLEMS in fusedlstm/slots.py.
enum Problem { OUT_OF_RANGE, RELEASED, TWICE };

// Counts a problem, and records a slot that has it.
DEVICE void report(u64* problems, Problem problem, i64 slot) {
  atomicAdd(problems + 2 * problem, 1ull);
  atomicExch(problems + 2 * problem + 1, (u64)slot);
}

// The data to check slots with, and where to report problems.
struct Audit {
  const unsigned char* live;  // (capacity,), 0 or 1
  u64* claims;                // (capacity,): the last tick that a slot was stepped in
  i64 tick;                   // of this step; 32 bits would run out in a day
  u64* problems;              // (3, 2): the count of each kind, and one slot
};

// The slot of a row if it may be stepped, else -1. The first row that claims a slot in this tick gets it.
DEVICE int checked(i64 slot, i64 capacity, const Audit& audit) {
  const u64 tick = audit.tick;
  if (slot == -1) return -1;
  if (slot < 0 || slot >= capacity) {
    report(audit.problems, OUT_OF_RANGE, slot);
  } else if (!audit.live[slot]) {
    report(audit.problems, RELEASED, slot);
  } else if (atomicExch(audit.claims + slot, tick) == tick) {
    report(audit.problems, TWICE, slot);
  } else {
    return (int)slot;
  }
  return -1;
}
