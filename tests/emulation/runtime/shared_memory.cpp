// The shared memory of a block. It starts as NaN, and arrays are kept apart, so that overruns show.
#include <cstdlib>
#include <cstring>

#include "faults.h"
#include "memory.h"

namespace emulation {

static const size_t ALIGNMENT = 1024;  // the checker's page size, so that arrays don't share a page
static const size_t MOST_BYTES = 227 << 10;

static void* new_array(const void* key, const char* name, size_t element_size, size_t bytes,
                       const void* place) {
  Block& block = *running->block;
  block.shared_bytes += bytes;
  if (block.shared_bytes > MOST_BYTES) {
    fault({"too much shared memory", place}, "%zu bytes with '%s': a block has at most %zu",
          block.shared_bytes, name, MOST_BYTES);
  }
  const size_t whole = (bytes / ALIGNMENT + 1) * ALIGNMENT;
  char* memory = static_cast<char*>(aligned_alloc(ALIGNMENT, whole));
  if (!memory) abort();
  memset(memory, 0xFF, whole);
  block.shared[key] = {memory, bytes};
  register_shared(reinterpret_cast<u64>(memory), bytes, element_size, name);
  return memory;
}

void* shared_array(const void* key, const char* name, size_t element_size, size_t count) {
  const auto found = running->block->shared.find(key);
  if (found != running->block->shared.end()) return found->second.memory;
  return new_array(key, name, element_size, element_size * count, __builtin_return_address(0));
}

void* dynamic_shared_array(const char* name, size_t element_size) {
  const auto found = running->block->shared.find(nullptr);
  if (found != running->block->shared.end()) return found->second.memory;
  return new_array(nullptr, name, element_size, launch->dynamic_shared_bytes, __builtin_return_address(0));
}

void release_shared_memory(Block& block) {
  for (auto& entry : block.shared) {
    forget_shared(reinterpret_cast<u64>(entry.second.memory));
    free(entry.second.memory);
  }
  block.shared.clear();
}

}  // namespace emulation
