// Happens-before: which accesses a thread, a block or an atomic variable knows to have happened.
//
// Barriers count epochs, a block's at __syncthreads and a warp's at __syncwarp. All threads that passed a
// barrier know the accesses of earlier epochs. Releases and fences read a clock. A thread that acquires knows
// all that the releasing thread did until then. Each access is stamped with the epochs and the clock.
#pragma once

#include <map>
#include <utility>
#include <vector>

#include "launch.h"

namespace emulation {

// In a stamp, stands for more than one thread or warp.
const u32 SEVERAL = 0xffffffffu;

struct Stamp {
  u32 block = 0;  // its number + 1, or 0 for no access
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
  typedef std::pair<u32, u32> Member;  // the numbers of a block, and of its warp or thread
  std::vector<u32> blocks_;            // by the block's number
  std::map<Member, u32> warps_;
  std::map<Member, u32> threads_;
};

// Whether the running thread knows that this access has happened.
bool happened_before(const Stamp& stamp);
// The stamp of an access that the running thread makes now.
Stamp stamp_now();
// The knowledge that the running thread can release now.
Knowledge knowledge_to_release();
// Makes everything that these threads have done known to all of them.
struct Thread;
void exchange_knowledge(const std::vector<Thread*>& threads);

}  // namespace emulation
