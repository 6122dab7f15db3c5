// The runtime's functions for the emulated language (../shim). All act for the running thread.
#pragma once

#include <vector_types.h>

#include <cstddef>

namespace emulation {

uint3 thread_index();
uint3 block_index();
dim3 block_size();
dim3 grid_size();
int lane();

// Returns the same memory to every thread of a block. `key` identifies the array in its kernel.
void* shared_array(const void* key, const char* name, size_t element_size, size_t count);
void* dynamic_shared_array(const char* name, size_t element_size);

void block_barrier(int line);
void named_barrier(int id, int threads);
// Gives all other threads a turn, as the running thread waits for one of them.
void yield_spin();

// Every lane of the mask passes `part`. The last to arrive calls the function with the parts of all, by lane.
typedef void (*Collective)(void** parts, unsigned mask);
void warp_collective(unsigned mask, Collective function, void* part, bool orders_memory);

// A synchronizing read is an acquire, and a synchronizing write a release. Relaxed ones need fences.
enum Order { RELAXED, SYNCHRONIZING };
void atomic_access(const void* address, size_t bytes, bool write);
void atomic_read_done(const void* address, Order order);
void atomic_write_done(const void* address, Order order, bool changed);
// For a write without a read. Its readers learn nothing that others had released there.
void atomic_store_done(const void* address, Order order, bool changed);
void fence();

void copy_async(void* shared, const void* global, int bytes);
void copy_async_commit();
void copy_async_wait(int groups_in_flight);

// The 16 bytes of one row for ldmatrix.
void read_matrix_row(void* to, const void* row);

}  // namespace emulation
