// Memory of devices and pinned memory of the host.
#pragma once

#include <cstddef>
#include <cstdint>

namespace driver {

// While one lives, a device's memory can be read and written: a task of it runs. With DRIVER_GUARD=1 the
// host, or another device, that touches it at other times crashes, as on a machine with GPUs. For a device of
// -1, the host, it does nothing.
class Unlocked {
 public:
  explicit Unlocked(int device);
  ~Unlocked();
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

 private:
  int device;
};

// The device that an address belongs to, or -1 for memory of the host.
int device_of(const void* pointer);
bool is_pinned(const void* pointer);

// Whether a device may touch all bytes: they are in one live allocation of it, or of pinned memory.
bool may_touch(int device, const void* pointer, size_t bytes);

}  // namespace driver
