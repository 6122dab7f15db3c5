// The turns of threads.
#pragma once

#include "threads.h"

namespace emulation {

// Lets a waiting thread run again.
void make_ready(Thread* thread);
// Ends the running thread's turn until something makes it ready again.
void wait_for_turn();
// Ends the running thread's turn and queues it for the next.
void yield();
// Ends the turn of a thread that waits in a loop at `place`, until all other ready threads have had theirs.
void yield_spin(const void* place);
// Yields if the schedule shuffles threads after they meet.
void yield_after_meeting();
// Yields at random if the schedule preempts.
void maybe_preempt();
// Notes an event that a spinning thread may wait for.
void note_progress();
// Ends the launch. No thread gets another turn.
[[noreturn]] void abandon_launch();

// Runs all blocks of the launch.
void run_blocks();

}  // namespace emulation
