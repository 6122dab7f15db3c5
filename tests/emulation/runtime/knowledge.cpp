#include "knowledge.h"

#include <algorithm>

#include "threads.h"

namespace emulation {

static u32 the_time = 1;

static void raise(u32& known, u32 to) { known = std::max(known, to); }

bool Knowledge::covers(const Stamp& stamp) const {
  const u32 block = stamp.block - 1;
  if (block < blocks_.size() && stamp.block_epoch < blocks_[block]) return true;
  const auto warp = warps_.find(Member(block, stamp.warp));
  if (warp != warps_.end() && stamp.warp_epoch < warp->second) return true;
  const auto thread = threads_.find(Member(block, stamp.thread));
  return thread != threads_.end() && stamp.time <= thread->second;
}

void Knowledge::add(const Knowledge& other) {
  if (blocks_.size() < other.blocks_.size()) blocks_.resize(other.blocks_.size());
  for (size_t i = 0; i < other.blocks_.size(); ++i) raise(blocks_[i], other.blocks_[i]);
  for (const auto& warp : other.warps_) raise(warps_[warp.first], warp.second);
  for (const auto& thread : other.threads_) raise(threads_[thread.first], thread.second);
}

void Knowledge::add_block(u32 block, u32 epochs_before) {
  if (blocks_.size() <= block) blocks_.resize(block + 1);
  raise(blocks_[block], epochs_before);
}

void Knowledge::add_warp(u32 block, u32 warp, u32 epochs_before) {
  raise(warps_[Member(block, warp)], epochs_before);
}

void Knowledge::add_thread(u32 block, u32 thread, u32 until) {
  raise(threads_[Member(block, thread)], until);
}

bool happened_before(const Stamp& stamp) {
  const Block& block = *running->block;
  if (stamp.block == block.number + 1) {
    if (stamp.thread == running->number || stamp.block_epoch < block.epoch) return true;
    if (stamp.warp == running->warp && stamp.warp_epoch < block.warps[stamp.warp].epoch) return true;
  }
  return block.known.covers(stamp) || running->known.covers(stamp);
}

Stamp stamp_now() {
  const Block& block = *running->block;
  Stamp stamp;
  stamp.block = block.number + 1;
  stamp.thread = running->number;
  stamp.warp = running->warp;
  stamp.block_epoch = block.epoch;
  stamp.warp_epoch = block.warps[running->warp].epoch;
  stamp.time = the_time;
  return stamp;
}

// Everything that a thread knows and did. The clock moves on, so that its later accesses aren't included.
static Knowledge knowledge_of(const Thread& thread) {
  const Block& block = *thread.block;
  Knowledge all = block.known;
  all.add(thread.known);
  all.add_block(block.number, block.epoch);
  all.add_warp(block.number, thread.warp, block.warps[thread.warp].epoch);
  all.add_thread(block.number, thread.number, the_time++);
  return all;
}

Knowledge knowledge_to_release() { return knowledge_of(*running); }

void exchange_knowledge(const std::vector<Thread*>& threads) {
  Knowledge all;
  for (const Thread* thread : threads) all.add(knowledge_of(*thread));
  for (Thread* thread : threads) thread->known.add(all);
}

}  // namespace emulation
