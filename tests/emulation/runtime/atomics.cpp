// The ordering of memory by atomic accesses and fences.
#include <unordered_map>

#include "memory.h"
#include "scheduler.h"

namespace emulation {

// After so many atomic accesses, a thread is taken to be waiting in a loop, and yields.
static const u32 MOST_POLLS = 64;

// The knowledge released at an address, and the last thread to do so.
struct Released {
  Knowledge knowledge;
  const Thread* by;
};
static std::unordered_map<const void*, Released> released;

static void release(const void* address, const Knowledge& knowledge) {
  Released& there = released[address];
  there.knowledge.add(knowledge);
  there.by = running;
}

void atomic_access(const void* address, size_t bytes, bool write) {
  const void* place = __builtin_return_address(0);
  check_access(address, bytes, write ? ATOMIC_WRITE : ATOMIC_READ, place);
  if (++running->polls > MOST_POLLS) yield_spin(place);
}

void atomic_read_done(const void* address, Order order) {
  if (!launch->check) return;
  const auto found = released.find(address);
  if (found == released.end()) return;
  (order == SYNCHRONIZING ? running->known : running->read_relaxed).add(found->second.knowledge);
}

void atomic_write_done(const void* address, Order order, bool changed) {
  if (changed) note_progress();
  if (!launch->check) return;
  if (order == SYNCHRONIZING) {
    release(address, knowledge_to_release());
  } else if (!running->fenced.empty()) {
    release(address, running->fenced);
  }
}

void atomic_store_done(const void* address, Order order, bool changed) {
  const auto found = released.find(address);
  if (found != released.end() && found->second.by != running) released.erase(found);
  atomic_write_done(address, order, changed);
}

void fence() {
  if (!launch->check) return;
  running->known.add(running->read_relaxed);
  running->fenced = knowledge_to_release();
}

void forget_releases() { released.clear(); }

}  // namespace emulation
