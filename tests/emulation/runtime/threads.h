// CUDA's threads, warps and blocks while they run.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "fiber.h"
#include "knowledge.h"
#include "launch.h"
#include "runtime.h"

namespace emulation {

struct Block;

// A cp.async that has not been waited for.
struct AsyncCopy {
  char* shared;
  const char* global;
  int bytes;  // at most 16, and zeros fill the rest
  u32 group;
  const void* place;
};

struct Thread {
  Block* block;
  u32 number;  // in the block
  u32 warp, lane;
  uint3 index;
  bool finished = false;
  std::unique_ptr<Fiber> fiber;  // from its first turn until it finishes
  u32 polls = 0;                 // atomic accesses since it last let others run
  const void* spins_at = nullptr;
  u32 copy_group = 0;
  std::vector<AsyncCopy> copies;
  Knowledge known;
  Knowledge read_relaxed;  // becomes known at the next fence
  Knowledge fenced;        // released by a relaxed write: everything up to the last fence
};

struct PendingCollective {
  u32 mask, arrived;
  Collective function;
  const void* place;
};

struct Warp {
  u32 alive = 0;
  u32 epoch = 1;
  void* parts[32];
  std::vector<PendingCollective> pending;  // their masks are disjoint
};

struct Barrier {
  std::vector<Thread*> waiting;
  int line;
  const void* place;
};

// An array of shared memory, on its own pages.
struct SharedArray {
  char* memory;
  size_t bytes;
};

struct Block {
  u32 number;
  uint3 index;
  u32 live;  // threads that have not finished
  u32 epoch = 1;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::map<int, Barrier> barriers;
  std::map<const void*, SharedArray> shared;
  size_t shared_bytes = 0;
  Knowledge known;  // by all of its threads
};

// The thread whose turn it is, or null while the scheduler runs.
extern Thread* running;

}  // namespace emulation
