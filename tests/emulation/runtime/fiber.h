// Stacks to run on, and switches between them.
#pragma once

#include <csetjmp>
#include <cstddef>

namespace emulation {

class Fiber {
 public:
  static const size_t STACK_BYTES = 64 << 10;

  // Runs on the program's own stack.
  Fiber() {}
  // Runs on a new stack. The first switch to it calls `entry`, which must not return.
  explicit Fiber(void (*entry)());
  ~Fiber();
  Fiber(const Fiber&) = delete;

  // Runs the other fiber, and returns when something switches back to this one.
  void switch_to(Fiber& other);
  bool owns(const void* address) const { return address >= stack_ && address < stack_ + STACK_BYTES; }

 private:
  char* stack_ = nullptr;
  void (*entry_)() = nullptr;  // until it has been called
  jmp_buf state_;
};

}  // namespace emulation
