// Happens-before: which accesses a thread, a block or an atomic variable knows to have happened.
//
// Barriers count epochs: a block's at __syncthreads, a warp's at __syncwarp; whatever lies in an earlier
// epoch is known to all who passed the barrier. Releases and fences read a clock: whoever acquires from one
// knows all that the releasing thread did until then. An access is stamped with all of them.
#pragma once

#include <map>
#include <utility>
#include <vector>

#include "launch.h"

namespace emulation {

// Stands for several threads or warps where a stamp is about more than one.
const u32 SEVERAL = 0xffffffffu;

struct Stamp {
  u32 block = 0;  // its number + 1; 0 for an access that never was
  u32 thread, warp, block_epoch, warp_epoch, time;
  explicit operator bool() const { return block != 0; }
};

class Knowledge {
 public:
  bool covers(const Stamp& stamp) const;
  void add(const Knowledge& other);
  void add_block(u32 block, u32 epochs_before);
  void add_warp(u32 block, u32 warp, u32 epochs_before);
  void add_thread(u32 block, u32 thread, u32 until);
  bool empty() const { return blocks_.empty() && warps_.empty() && threads_.empty(); }
  void clear() { *this = Knowledge(); }

 private:
  typedef std::pair<u32, u32> Member;  // of a block: its number, and that of the warp or thread
  std::vector<u32> blocks_;            // by the block's number
  std::map<Member, u32> warps_;
  std::map<Member, u32> threads_;
};

// Whether the running thread knows that this access is over.
bool happened_before(const Stamp& stamp);
// The stamp of an access that the running thread makes now.
Stamp stamp_now();
// What the running thread can tell others now.
Knowledge knowledge_to_release();
// Makes all that each of these threads has done known to each of them.
struct Thread;
void exchange_knowledge(const std::vector<Thread*>& threads);

}  // namespace emulation
