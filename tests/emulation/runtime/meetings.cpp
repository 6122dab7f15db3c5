// Barriers of a block, and collectives of a warp.
#include "faults.h"
#include "scheduler.h"

namespace emulation {

static void release(Barrier& barrier) {
  for (Thread* thread : barrier.waiting) {
    if (thread != running) make_ready(thread);
  }
  barrier.waiting.clear();
  note_progress();
}

// Shares what any thread of the block knows with all of them, and ends their epoch.
static void end_epoch(Block& block) {
  if (!launch->check) return;
  ++block.epoch;
  for (Thread& thread : block.threads) {
    if (thread.known.empty()) continue;
    block.known.add(thread.known);
    thread.known.clear();
  }
}

void block_barrier(int line) {
  const void* place = __builtin_return_address(0);
  Block& block = *running->block;
  if (block.live != block.threads.size()) {
    fault({"divergent barrier", place}, "__syncthreads when %zu threads of the block have ended",
          block.threads.size() - block.live);
  }
  Barrier& barrier = block.barriers[0];
  if (!barrier.waiting.empty() && barrier.line != line) {
    fault({"divergent barrier", place},
          "__syncthreads of line %d, while others of the block wait at that of line %d", line, barrier.line);
  }
  barrier.line = line;
  barrier.place = place;
  barrier.waiting.push_back(running);
  if (barrier.waiting.size() < block.live) {
    wait_for_turn();
    return;
  }
  release(barrier);
  end_epoch(block);
  yield_after_meeting();
}

void named_barrier(int id, int threads) {
  const void* place = __builtin_return_address(0);
  if (id < 1 || id > 15 || threads < 32 || threads % 32) {
    fault({"wrong barrier", place}, "barrier %d of %d threads: wanted barrier 1 to 15, and whole warps", id,
          threads);
  }
  Barrier& barrier = running->block->barriers[id];
  barrier.place = place;
  barrier.waiting.push_back(running);
  if (barrier.waiting.size() < static_cast<size_t>(threads)) {
    wait_for_turn();
    return;
  }
  if (launch->check) exchange_knowledge(barrier.waiting);
  release(barrier);
  yield_after_meeting();
}

static PendingCollective& pending_collective(Warp& warp, unsigned mask, Collective function,
                                             const void* place) {
  for (PendingCollective& one : warp.pending) {
    if (one.mask == mask) return one;
    if (one.mask & mask) {
      fault({"wrong mask", place}, "the mask %08x overlaps %08x, of lanes that wait in another collective",
            mask, one.mask);
    }
  }
  warp.pending.push_back({mask, 0, function, place});
  return warp.pending.back();
}

// Orders memory as __syncwarp does. For a whole warp, ending an epoch costs less than exchanging knowledge.
static void order_memory(Warp& warp, const std::vector<Thread*>& threads, unsigned mask) {
  if (mask != warp.alive) {
    exchange_knowledge(threads);
    return;
  }
  ++warp.epoch;
  Knowledge all;
  for (const Thread* thread : threads) all.add(thread->known);
  if (all.empty()) return;
  for (Thread* thread : threads) thread->known.add(all);
}

void warp_collective(unsigned mask, Collective function, void* part, bool orders_memory) {
  const void* place = __builtin_return_address(0);
  Block& block = *running->block;
  Warp& warp = block.warps[running->warp];
  const u32 lane = running->lane;
  if (!(mask >> lane & 1)) {
    fault({"wrong mask", place}, "the mask %08x does not name the lane that calls", mask);
  }
  if (mask & ~warp.alive) {
    fault({"wrong mask", place},
          "the mask %08x names lanes that have ended or never existed. Live lanes are %08x", mask,
          warp.alive);
  }
  PendingCollective& meeting = pending_collective(warp, mask, function, place);
  if (meeting.function != function) {
    fault({"divergent collective", place}, "lanes of one warp are at different collectives");
  }
  meeting.arrived |= 1u << lane;
  warp.parts[lane] = part;
  if (meeting.arrived != mask) {
    wait_for_turn();
    return;
  }
  warp.pending.erase(warp.pending.begin() + (&meeting - warp.pending.data()));
  function(warp.parts, mask);
  note_progress();
  std::vector<Thread*> threads;
  for (u32 i = 0; i < 32; ++i) {
    if (mask >> i & 1) threads.push_back(&block.threads[running->warp * 32 + i]);
  }
  if (orders_memory && launch->check) order_memory(warp, threads, mask);
  for (Thread* thread : threads) {
    if (thread != running) make_ready(thread);
  }
  yield_after_meeting();
}

}  // namespace emulation
