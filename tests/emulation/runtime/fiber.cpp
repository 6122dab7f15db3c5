// The first switch to a fiber uses makecontext. All others use _longjmp, which makes no system call, unlike
// swapcontext.
#include "fiber.h"

#include <ucontext.h>

#include <cstdlib>

namespace emulation {

Fiber::Fiber(void (*entry)()) : stack_(static_cast<char*>(aligned_alloc(4096, STACK_BYTES))), entry_(entry) {
  if (!stack_) abort();
}

Fiber::~Fiber() { free(stack_); }

void Fiber::switch_to(Fiber& other) {
  if (_setjmp(state_)) return;
  if (!other.entry_) _longjmp(other.state_, 1);
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = other.stack_;
  context.uc_stack.ss_size = STACK_BYTES;
  context.uc_link = nullptr;
  makecontext(&context, other.entry_, 0);
  other.entry_ = nullptr;
  setcontext(&context);
}

}  // namespace emulation
