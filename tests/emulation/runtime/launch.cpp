#include "launch.h"

#include "memory.h"
#include "scheduler.h"

namespace emulation {

Launch* launch;

uint3 thread_index() { return running->index; }
uint3 block_index() { return running->block->index; }
dim3 block_size() { return dim3(launch->block[0], launch->block[1], launch->block[2]); }
dim3 grid_size() { return dim3(launch->grid[0], launch->grid[1], launch->grid[2]); }
int lane() { return running->lane; }

}  // namespace emulation

void emulation_launch(emulation::Launch* request) {
  using namespace emulation;
  launch = request;
  register_arguments();
  run_blocks();
  forget_memory();
  launch = nullptr;
}
