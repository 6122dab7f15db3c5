// What the emulated language (../shim) asks of the runtime. All of it is about the running thread.
#pragma once

#include <vector_types.h>

#include <cstddef>

namespace emulation {

uint3 thread_index();
uint3 block_index();
dim3 block_size();
dim3 grid_size();
int lane();

// The same memory for every thread of a block; `key` tells the arrays of a kernel apart.
void* shared_array(const void* key, const char* name, size_t element_size, size_t count);
void* dynamic_shared_array(const char* name, size_t element_size);

void block_barrier(int line);
void named_barrier(int id, int threads);
// Gives all other threads a turn, of a thread that waits for one of them.
void yield_spin();

// Every lane of the mask brings `part`; the last to arrive runs the function on the parts of all, by lane.
typedef void (*Collective)(void** parts, unsigned mask);
void warp_collective(unsigned mask, Collective function, void* part, bool orders_memory);

// A synchronizing atomic read is an acquire and such a write a release; relaxed ones order memory by fences.
enum Order { RELAXED, SYNCHRONIZING };
void atomic_access(const void* address, size_t bytes, bool write);
void atomic_read_done(const void* address, Order order);
void atomic_write_done(const void* address, Order order, bool changed);
// A write that hasn't read: who reads it learns nothing of what others had released there.
void atomic_store_done(const void* address, Order order, bool changed);
void fence();

void copy_async(void* shared, const void* global, int bytes);
void copy_async_commit();
void copy_async_wait(int groups_in_flight);

// The 16 bytes of one row for ldmatrix.
void read_matrix_row(void* to, const void* row);

}  // namespace emulation
