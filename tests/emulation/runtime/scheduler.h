// Whose turn it is.
#pragma once

#include "threads.h"

namespace emulation {

// Lets a thread that waited run again.
void make_ready(Thread* thread);
// Ends the running thread's turn; it has another once something makes it ready.
void wait_for_turn();
// Ends the running thread's turn and queues it for the next.
void yield();
// Ends the running thread's turn until all others that can run have had theirs; it waits in a loop at this
// place.
void yield_spin(const void* place);
// Yields where the schedule wants threads shuffled after they met.
void yield_after_meeting();
// Yields at random, where the schedule preempts.
void maybe_preempt();
// Something happened that a spinning thread may wait for.
void note_progress();
// Ends the launch: no thread has another turn.
[[noreturn]] void abandon_launch();

// Runs all blocks of the launch.
void run_blocks();

}  // namespace emulation
