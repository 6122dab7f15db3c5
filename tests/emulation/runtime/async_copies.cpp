// cp.async: a copy arrives only when it is waited for. Until then, an access to its target is a fault.
#include <cstring>

#include "faults.h"
#include "memory.h"

namespace emulation {

static const size_t BYTES = 16;

static void require_alignment(const void* address, const void* place) {
  const u64 number = reinterpret_cast<u64>(address);
  if (number % BYTES == 0) return;
  const Description element = describe_element(number);
  fault({"misaligned", place, element.memory}, "%zu bytes at %s need an address that is a multiple of %zu",
        BYTES, element.text, BYTES);
}

static void mark_in_flight(const char* shared, bool in_flight) {
  if (!launch->check) return;
  const u64 begin = reinterpret_cast<u64>(shared);
  for (u64 address = begin; address < begin + BYTES; address += granule_size_at(address)) {
    Granule& granule = *granule_at(address);
    granule.permission = in_flight ? granule.permission | IN_FLIGHT : granule.permission & ~IN_FLIGHT;
  }
}

void copy_async(void* shared, const void* global, int bytes) {
  const void* place = __builtin_return_address(0);
  require_alignment(shared, place);
  require_alignment(global, place);
  if (bytes < 0 || bytes > static_cast<int>(BYTES)) {
    fault({"cp.async", place, ""}, "a copy of %d bytes, not of 0 to 16", bytes);
  }
  if (bytes) check_access(global, static_cast<size_t>(bytes), READ, place);
  trace_access(shared, BYTES, WRITE, place);
  check_access(shared, BYTES, WRITE, place);
  memset(shared, 0xFF, BYTES);
  mark_in_flight(static_cast<char*>(shared), true);
  const AsyncCopy copy = {static_cast<char*>(shared), static_cast<const char*>(global), bytes,
                          running->copy_group, place};
  running->copies.push_back(copy);
}

void copy_async_commit() { ++running->copy_group; }

static void finish(const AsyncCopy& copy, const void* place) {
  mark_in_flight(copy.shared, false);
  check_access(copy.shared, BYTES, WRITE, place);
  memset(copy.shared, 0, BYTES);
  if (copy.bytes) memcpy(copy.shared, copy.global, static_cast<size_t>(copy.bytes));
}

void copy_async_wait(int groups_in_flight) {
  const void* place = __builtin_return_address(0);
  std::vector<AsyncCopy> remaining;
  for (const AsyncCopy& copy : running->copies) {
    const bool awaited = copy.group + groups_in_flight < running->copy_group;
    if (awaited) {
      finish(copy, place);
    } else {
      remaining.push_back(copy);
    }
  }
  running->copies.swap(remaining);
}

void read_matrix_row(void* to, const void* row) {
  const void* place = __builtin_return_address(0);
  require_alignment(row, place);
  trace_access(row, BYTES, READ, place);
  check_access(row, BYTES, READ, place);
  memcpy(to, row, BYTES);
}

}  // namespace emulation
