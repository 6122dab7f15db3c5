// Memory of devices, and pinned memory of the host.
#pragma once

#include <cstddef>
#include <cstdint>

namespace driver {

// While one of these lives, a task may touch a device's memory. With DRIVER_GUARD=1 the process crashes if
// the host or another device touches it at other times. Does nothing for -1, the host.
class Unlocked {
 public:
  explicit Unlocked(int device);
  ~Unlocked();
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

 private:
  int device;
};

// Returns the device that an address belongs to, or -1 for the host.
int device_of(const void* pointer);
bool is_pinned(const void* pointer);

// Returns whether these bytes are in one live allocation of this device, or of pinned memory.
bool may_touch(int device, const void* pointer, size_t bytes);

}  // namespace driver
