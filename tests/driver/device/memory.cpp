// cudaMalloc, cudaHostAlloc, cudaMemcpy*, cudaMemset*: memory and copies.
#include "memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

#include "api.h"
#include "captures.h"

namespace driver {

static const size_t PAGE = 4096;
static const size_t ARENA = size_t(1) << 40;  // bytes of addresses. Memory is taken when it is first written
static const size_t MOST_AT_ONCE = size_t(1) << 33;

// A device's addresses. Those of freed memory are never reused, so touching it crashes.
struct Arena {
  uintptr_t first = 0, next = 0;
  std::map<uintptr_t, size_t> live;  // requested bytes, by address
  size_t bytes = 0;                  // of all live allocations
  int unlocked = 0;
};

static std::map<uintptr_t, size_t> pinned;

static Arena& arena_of(int device) {
  static std::vector<Arena> made(device_count());
  Arena& arena = made[device];
  if (!arena.first) {
    void* taken = mmap(nullptr, ARENA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    arena.first = arena.next = reinterpret_cast<uintptr_t>(taken);
  }
  return arena;
}

static size_t whole_pages(size_t bytes) { return (bytes + PAGE - 1) / PAGE * PAGE; }

// DRIVER_GUARD=1 hides memory from the host. That takes time in each call.
static bool is_guarded() {
  static const bool guarded = getenv("DRIVER_GUARD") && *getenv("DRIVER_GUARD") == '1';
  return guarded;
}

static void protect(const Arena& arena, int access) {
  uintptr_t begin = 0, end = 0;  // one call protects adjacent allocations
  for (const auto& [address, bytes] : arena.live) {
    if (address != end) {
      if (end) mprotect(reinterpret_cast<void*>(begin), end - begin, access);
      begin = address;
    }
    end = address + whole_pages(bytes ? bytes : 1);
  }
  if (end) mprotect(reinterpret_cast<void*>(begin), end - begin, access);
}

Unlocked::Unlocked(int device) : device(device) {
  if (device >= 0 && !arena_of(device).unlocked++ && is_guarded())
    protect(arena_of(device), PROT_READ | PROT_WRITE);
}

Unlocked::~Unlocked() {
  if (device >= 0 && !--arena_of(device).unlocked && is_guarded()) protect(arena_of(device), PROT_NONE);
}

int device_of(const void* pointer) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  for (int device = 0; device < device_count(); ++device) {
    const Arena& arena = arena_of(device);
    if (address >= arena.first && address < arena.first + ARENA) return device;
  }
  return -1;
}

static size_t allocations = 0;
static size_t most_bytes = ~size_t(0);

static size_t bytes_on_all() {
  size_t sum = 0;
  for (int device = 0; device < device_count(); ++device) sum += arena_of(device).bytes;
  return sum;
}

static void* allocate(int device, size_t bytes) {
  Arena& arena = arena_of(device);
  const size_t size = whole_pages(bytes ? bytes : 1);
  const bool fits = bytes <= MOST_AT_ONCE && arena.next + size <= arena.first + ARENA;
  if (!fits || bytes_on_all() + bytes > most_bytes) return nullptr;
  void* memory = reinterpret_cast<void*>(arena.next);
  arena.live[arena.next] = bytes;
  arena.next += size;
  arena.bytes += bytes;
  ++allocations;
  const Unlocked unlocked(device);
  mprotect(memory, size, PROT_READ | PROT_WRITE);
  memset(memory, 0xFF, size);  // NaN
  return memory;
}

static bool release(void* pointer) {
  const int device = device_of(pointer);
  Arena& arena = arena_of(device);
  const auto found = arena.live.find(reinterpret_cast<uintptr_t>(pointer));
  if (found == arena.live.end()) return false;
  const size_t size = whole_pages(found->second ? found->second : 1);
  mmap(pointer, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  arena.bytes -= found->second;
  arena.live.erase(found);
  return true;
}

static bool is_within(const std::map<uintptr_t, size_t>& blocks, const void* pointer, size_t bytes) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  auto after = blocks.upper_bound(address);
  if (after == blocks.begin()) return false;
  const auto& [begin, size] = *--after;
  return address + bytes <= begin + size;
}

bool is_pinned(const void* pointer) { return is_within(pinned, pointer, 1); }

bool may_touch(int device, const void* pointer, size_t bytes) {
  const int owner = device_of(pointer);
  if (owner < 0) return is_within(pinned, pointer, bytes);
  return owner == device && is_within(arena_of(device).live, pointer, bytes);
}

// The rows of bytes of a copy. A pitch is the distance between the starts of rows.
struct Rows {
  char* to;
  size_t to_pitch;
  const char* from;
  size_t from_pitch, width, height;

  void copy() const {
    for (size_t row = 0; row < height; ++row) memmove(to + row * to_pitch, from + row * from_pitch, width);
  }
  size_t bytes_to() const { return height ? (height - 1) * to_pitch + width : 0; }
  size_t bytes_from() const { return height ? (height - 1) * from_pitch + width : 0; }
};

static bool is_kind(cudaMemcpyKind kind, const Rows& rows) {
  const bool from = device_of(rows.from) >= 0, to = device_of(rows.to) >= 0;
  switch (kind) {
    case cudaMemcpyHostToHost:
      return !from && !to;
    case cudaMemcpyHostToDevice:
      return !from && to;
    case cudaMemcpyDeviceToHost:
      return from && !to;
    case cudaMemcpyDeviceToDevice:
      return from && to;
    default:
      return true;
  }
}

// Returns whether a copy may touch these bytes. Only copies may touch pageable memory of the host.
static bool is_alive(const void* pointer, size_t bytes) {
  const int device = device_of(pointer);
  if (device < 0 && !is_pinned(pointer)) return pointer != nullptr;
  return may_touch(device, pointer, bytes);
}

// Copies in a stream's order. Pageable memory is read at once, and has been written on return, as CuPy
// expects. Pinned memory is read and written when the stream gets there.
static cudaError_t copy(const char* what, const Rows& rows, cudaMemcpyKind kind, cudaStream_t stream) {
  if (!rows.width || !rows.height) return cudaSuccess;
  if (!is_kind(kind, rows)) return failed(cudaErrorInvalidMemcpyDirection);
  if (!is_alive(rows.to, rows.bytes_to()) || !is_alive(rows.from, rows.bytes_from())) {
    return failed(cudaErrorInvalidValue);
  }
  const int from = device_of(rows.from), to = device_of(rows.to);
  const Stream* on = find_stream(stream);
  const bool recorded = on && on->recording;
  Rows moved = rows;
  const auto staged = std::make_shared<std::vector<char>>();
  if (from < 0 && !is_pinned(rows.from) && !recorded) {
    staged->assign(rows.from, rows.from + rows.bytes_from());
    moved.from = staged->data();
  }
  const Work work = [moved, staged, from, to] {
    const Unlocked source(from), target(to);
    moved.copy();
  };
  if (const cudaError_t error = queue(stream, {what, "", work})) return error;
  const bool waits = to < 0 && !is_pinned(rows.to) && !recorded;
  return waits ? cudaStreamSynchronize(stream) : cudaSuccess;
}

static Rows flat(void* to, const void* from, size_t bytes) {
  return {static_cast<char*>(to), bytes, static_cast<const char*>(from), bytes, bytes, 1};
}

}  // namespace driver

using namespace driver;

cudaError_t cudaMalloc(void** out, size_t bytes) {
  BEGIN_CALL;
  if (const cudaError_t error = check_unsafe_call()) return error;
  *out = allocate(current_device(), bytes);
  return *out ? cudaSuccess : failed(cudaErrorMemoryAllocation);
}

cudaError_t cudaFree(void* pointer) {
  BEGIN_CALL;
  if (!pointer) return cudaSuccess;
  if (const cudaError_t error = check_unsafe_call()) return error;
  if (device_of(pointer) < 0) return failed(cudaErrorInvalidValue);
  run_all(device_of(pointer));  // like CUDA, which waits before it frees
  return release(pointer) ? cudaSuccess : failed(cudaErrorInvalidValue);
}

// For CuPy's allocator that gives each array its own memory. Returns null in a capture, or if there is not
// enough.
extern "C" void* driver_allocate(void*, size_t bytes, int device) {
  const Locked locked(lock);
  return check_unsafe_call() ? nullptr : allocate(device, bytes);
}

extern "C" void driver_release(void*, void* pointer, int) {
  const Locked locked(lock);
  release(pointer);
}

// For tests: the number of allocations so far, the live bytes of a device, and a limit on those of all
// devices.
extern "C" size_t driver_allocations() { return allocations; }
extern "C" size_t driver_bytes(int device) { return arena_of(device).bytes; }
extern "C" void driver_limit(size_t bytes) { most_bytes = bytes; }

cudaError_t cudaHostAlloc(void** out, size_t bytes, unsigned) {
  BEGIN_CALL;
  if (const cudaError_t error = check_unsafe_call()) return error;
  const size_t size = whole_pages(bytes ? bytes : 1);
  if (posix_memalign(out, PAGE, size)) return failed(cudaErrorMemoryAllocation);
  pinned[reinterpret_cast<uintptr_t>(*out)] = bytes;
  memset(*out, 0xFF, size);  // NaN
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void* pointer) {
  BEGIN_CALL;
  if (!pointer) return cudaSuccess;
  if (const cudaError_t error = check_unsafe_call()) return error;
  if (!pinned.erase(reinterpret_cast<uintptr_t>(pointer))) return failed(cudaErrorInvalidValue);
  for (int device = 0; device < device_count(); ++device) run_all(device);
  free(pointer);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  BEGIN_CALL;
  *total = size_t(1) << 34;
  *free = *total - arena_of(current_device()).bytes;
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* out, const void* pointer) {
  BEGIN_CALL;
  const int device = device_of(pointer);
  void* there = const_cast<void*>(pointer);
  memset(out, 0, sizeof *out);
  out->device = device < 0 ? -2 : device;
  if (device >= 0) {
    out->type = cudaMemoryTypeDevice, out->devicePointer = there;
  } else if (is_pinned(pointer)) {
    out->type = cudaMemoryTypeHost, out->devicePointer = out->hostPointer = there, out->device = 0;
  }
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  BEGIN_CALL;
  return copy("memcpy", flat(to, from, bytes), kind, stream);
}

// Waits only where CUDA's documentation says so. A copy from device to device may run later, and a copy from
// pageable memory may arrive later.
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  BEGIN_CALL;
  if (const cudaError_t error = check_unsafe_call()) return error;
  if (const cudaError_t error = copy("memcpy", flat(to, from, bytes), kind, nullptr)) return error;
  return device_of(to) < 0 || is_pinned(from) ? cudaStreamSynchronize(nullptr) : cudaSuccess;
}

cudaError_t cudaMemcpyPeerAsync(void* to, int to_device, const void* from, int from_device, size_t bytes,
                                cudaStream_t stream) {
  BEGIN_CALL;
  if (device_of(to) != to_device || device_of(from) != from_device) return failed(cudaErrorInvalidValue);
  return copy("memcpy", flat(to, from, bytes), cudaMemcpyDeviceToDevice, stream);
}

cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  BEGIN_CALL;
  if (width > to_pitch || width > from_pitch) return failed(cudaErrorInvalidPitchValue);
  return copy("memcpy2D",
              {static_cast<char*>(to), to_pitch, static_cast<const char*>(from), from_pitch, width, height},
              kind, stream);
}

cudaError_t cudaMemsetAsync(void* pointer, int value, size_t bytes, cudaStream_t stream) {
  BEGIN_CALL;
  if (!bytes) return cudaSuccess;
  if (!may_touch(current_device(), pointer, bytes)) return failed(cudaErrorInvalidValue);
  return queue(stream, {"memset", "", [=] { memset(pointer, value, bytes); }});
}

cudaError_t cudaMemset(void* pointer, int value, size_t bytes) {
  return cudaMemsetAsync(pointer, value, bytes, nullptr);
}
