// Slots that come from a device are checked there: those that can't be stepped are reported, and are as -1.
#pragma once

#include "primitives.cuh"

// What is wrong with a slot: numbered as PROBLEMS in fusedlstm/slots.py.
enum Problem { OUT_OF_RANGE, RELEASED, TWICE };

// Counts a problem, and keeps the slot of one that has it.
DEVICE void report(unsigned long long* problems, Problem problem, i64 slot) {
  atomicAdd(problems + 2 * problem, 1ull);
  atomicExch(problems + 2 * problem + 1, (unsigned long long)slot);
}

// The slot of a row if it may be stepped, else -1. The first that claims a slot in this tick has it.
DEVICE int checked(i64 slot, i64 capacity, const unsigned char* live, unsigned long long* claims,
                   unsigned long long tick, unsigned long long* problems) {
  if (slot == -1) return -1;
  if (slot < 0 || slot >= capacity) {
    report(problems, OUT_OF_RANGE, slot);
  } else if (!live[slot]) {
    report(problems, RELEASED, slot);
  } else if (atomicExch(claims + slot, tick) == tick) {
    report(problems, TWICE, slot);
  } else {
    return (int)slot;
  }
  return -1;
}
