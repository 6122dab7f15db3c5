#include "scheduler.h"

#include <algorithm>
#include <deque>

#include "faults.h"
#include "memory.h"

namespace emulation {

Thread* running;

// After so many rounds in which threads only spin and nothing changes, the launch is deadlocked.
static const u32 HOPELESS_ROUNDS = 2000;

static Fiber main_fiber;
static std::vector<std::unique_ptr<Fiber>> idle_fibers;
static std::vector<std::unique_ptr<Block>> active;
static std::deque<Thread*> ready;
static std::vector<Thread*> spinning;
static u64 progress, progress_seen;
static u32 idle_rounds;
static u64 random_state;
static bool abandoned;

static u32 random_below(u64 bound) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return static_cast<u32>((random_state >> 16) % bound);
}

void make_ready(Thread* thread) { ready.push_back(thread); }

void wait_for_turn() { running->fiber->switch_to(main_fiber); }

void yield() {
  make_ready(running);
  wait_for_turn();
}

void yield_after_meeting() {
  if (launch->order != FIRST_COMES_FIRST) yield();
}

void yield_spin(const void* place) {
  running->spins_at = place;
  running->polls = 0;
  spinning.push_back(running);
  wait_for_turn();
}

void yield_spin() { yield_spin(__builtin_return_address(0)); }

void maybe_preempt() {
  if (launch->preempt && random_below(launch->preempt) == 0) yield();
}

void note_progress() { ++progress; }

void abandon_launch() {
  abandoned = true;
  wait_for_turn();
  __builtin_unreachable();
}

// Faults if the running thread ends while others wait for it, or with unawaited copies.
static void require_nothing_waits() {
  const Thread& thread = *running;
  const Block& block = *thread.block;
  if (!thread.copies.empty()) {
    fault({"unfinished copy", thread.copies.front().place},
          "a thread ends before it has waited for its asynchronous copies");
  }
  const auto barrier = block.barriers.find(0);
  if (barrier != block.barriers.end() && !barrier->second.waiting.empty()) {
    fault({"divergent barrier", barrier->second.place},
          "a thread ends while %zu others of its block wait at __syncthreads",
          barrier->second.waiting.size());
  }
  for (const PendingCollective& one : block.warps[thread.warp].pending) {
    if (one.mask >> thread.lane & 1) {
      fault({"wrong mask", one.place}, "a lane ends while others of the mask %08x wait for it", one.mask);
    }
  }
}

// Runs one thread after the other, as a fiber outlives its threads.
static void run_threads() {
  for (;;) {
    launch->kernel(launch->arguments);
    require_nothing_waits();
    Thread& thread = *running;
    Block& block = *thread.block;
    --block.live;
    block.warps[thread.warp].alive &= ~(1u << thread.lane);
    thread.finished = true;
    note_progress();
    wait_for_turn();
  }
}

static void start_block(u32 number) {
  const u32* grid = launch->grid;
  const u32* size = launch->block;
  auto block = std::make_unique<Block>();
  block->number = number;
  block->index = uint3{number % grid[0], number / grid[0] % grid[1], number / grid[0] / grid[1]};
  block->live = size[0] * size[1] * size[2];
  block->threads.resize(block->live);
  block->warps.resize((block->live + 31) / 32);
  for (u32 i = 0; i < block->live; ++i) {
    Thread& thread = block->threads[i];
    thread.block = block.get();
    thread.number = i;
    thread.warp = i / 32;
    thread.lane = i % 32;
    thread.index = uint3{i % size[0], i / size[0] % size[1], i / size[0] / size[1]};
    block->warps[thread.warp].alive |= 1u << thread.lane;
  }
  // Queue the threads behind all others, at the end of the queue farthest from the next turn.
  std::vector<Thread*> threads;
  for (Thread& thread : block->threads) threads.push_back(&thread);
  const bool last_first = launch->order == LAST_COMES_FIRST;
  ready.insert(last_first ? ready.begin() : ready.end(), threads.begin(), threads.end());
  active.push_back(std::move(block));
}

static void end_block(Block* block) {
  release_shared_memory(*block);
  const auto found =
      std::find_if(active.begin(), active.end(), [=](const auto& one) { return one.get() == block; });
  active.erase(found);
}

static void give_turn(Thread* thread) {
  if (!thread->fiber) {
    if (idle_fibers.empty()) idle_fibers.push_back(std::make_unique<Fiber>(run_threads));
    thread->fiber = std::move(idle_fibers.back());
    idle_fibers.pop_back();
  }
  ++launch->thread_switches;
  running = thread;
  main_fiber.switch_to(*thread->fiber);
  running = nullptr;
  if (thread->finished) idle_fibers.push_back(std::move(thread->fiber));
}

static Thread* next_ready() {
  if (launch->order == AT_RANDOM) std::swap(ready[random_below(ready.size())], ready.back());
  const bool first = launch->order == FIRST_COMES_FIRST;
  Thread* thread = first ? ready.front() : ready.back();
  first ? ready.pop_front() : ready.pop_back();
  return thread;
}

static void report_deadlock() {
  for (const auto& block : active) {
    for (const auto& entry : block->barriers) {
      const Barrier& barrier = entry.second;
      if (barrier.waiting.empty()) continue;
      report({"deadlock", barrier.place}, "%zu of the %u live threads of block %u wait at barrier %d",
             barrier.waiting.size(), block->live, block->number, entry.first);
      return;
    }
    for (size_t warp = 0; warp < block->warps.size(); ++warp) {
      for (const PendingCollective& one : block->warps[warp].pending) {
        report({"deadlock", one.place},
               "lanes %08x of the mask %08x wait for the others in warp %zu of block %u", one.arrived,
               one.mask, warp, block->number);
        return;
      }
    }
  }
  report({"deadlock"}, "threads wait, and none can run");
}

// Gives the spinning threads another round. Returns false if no thread is left, or none can make progress.
static bool wake_spinning() {
  if (spinning.empty()) {
    if (!active.empty()) report_deadlock();
    return false;
  }
  idle_rounds = progress == progress_seen ? idle_rounds + 1 : 0;
  progress_seen = progress;
  if (idle_rounds > HOPELESS_ROUNDS) {
    report({"deadlock", spinning.front()->spins_at},
           "%zu threads spin and nothing changes, with %zu of %u blocks co-resident", spinning.size(),
           active.size(), launch->grid[0] * launch->grid[1] * launch->grid[2]);
    return false;
  }
  ready.assign(spinning.begin(), spinning.end());
  spinning.clear();
  return true;
}

// The blocks' numbers in starting order, which CUDA leaves unspecified.
static std::vector<u32> starting_order() {
  std::vector<u32> numbers(launch->grid[0] * launch->grid[1] * launch->grid[2]);
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<u32>(i);
  if (launch->order == LAST_COMES_FIRST) std::reverse(numbers.begin(), numbers.end());
  if (launch->order == AT_RANDOM) {
    for (size_t i = numbers.size(); i > 1; --i) std::swap(numbers[i - 1], numbers[random_below(i)]);
  }
  return numbers;
}

void run_blocks() {
  random_state = launch->seed * 0x9E3779B97F4A7C15ull + 88172645463325252ull;
  abandoned = false;
  idle_rounds = 0;
  const std::vector<u32> numbers = starting_order();
  size_t started = 0;
  while (!abandoned) {
    while (started < numbers.size() && active.size() < launch->co_resident) start_block(numbers[started++]);
    if (ready.empty() && !wake_spinning()) break;
    Thread* thread = next_ready();
    give_turn(thread);
    if (thread->finished && thread->block->live == 0) end_block(thread->block);
  }
  while (!active.empty()) end_block(active.back().get());
  ready.clear();
  spinning.clear();
}

}  // namespace emulation
