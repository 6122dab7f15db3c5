// Atomics and fences. Plain operations are atomic here, as one OS thread runs everything. The calls tell the
// runtime which thread learns of whose writes.
#pragma once

#include "language.h"

namespace emulation {

template <class T> UNCHECKED T unchecked_load(const T* from) { return *from; }
template <class T> UNCHECKED void unchecked_store(T* to, T value) { *to = value; }

template <class T, class Next> EMULATED T atomic_update(T* at, Order order, Next next) {
  atomic_access(at, sizeof(T), true);
  const T old = unchecked_load(at), value = next(old);
  unchecked_store(at, value);
  atomic_read_done(at, order);
  atomic_write_done(at, order, value != old);
  return old;
}

template <class T> EMULATED T atomic_load(const T* from, Order order) {
  atomic_access(from, sizeof(T), false);
  const T value = unchecked_load(from);
  atomic_read_done(from, order);
  return value;
}

}  // namespace emulation

template <class T> EMULATED T atomicAdd(T* at, T value) {
  return emulation::atomic_update(at, emulation::RELAXED, [=](T old) { return T(old + value); });
}
template <class T> EMULATED T atomicMax(T* at, T value) {
  return emulation::atomic_update(at, emulation::RELAXED, [=](T old) { return old < value ? value : old; });
}
template <class T> EMULATED T atomicMin(T* at, T value) {
  return emulation::atomic_update(at, emulation::RELAXED, [=](T old) { return value < old ? value : old; });
}
template <class T> EMULATED T atomicExch(T* at, T value) {
  return emulation::atomic_update(at, emulation::RELAXED, [=](T) { return value; });
}
template <class T> EMULATED T atomicCAS(T* at, T expected, T value) {
  return emulation::atomic_update(at, emulation::RELAXED,
                                  [=](T old) { return old == expected ? value : old; });
}

// atom.inc.acq_rel of scope gpu, which wraps to 0.
template <class T> EMULATED T arrive(T* at, T count) {
  return emulation::atomic_update(at, emulation::SYNCHRONIZING,
                                  [=](T old) { return old + 1 < count ? T(old + 1) : T(0); });
}

// ld.acquire, ld.relaxed, red.release.add and st.release, all of scope gpu.
template <class T> EMULATED T load_acquire(const T* from) {
  return emulation::atomic_load(from, emulation::SYNCHRONIZING);
}
template <class T> EMULATED T load_relaxed(const T* from) {
  return emulation::atomic_load(from, emulation::RELAXED);
}
template <class T> EMULATED void store_relaxed(T* at, T value) {
  emulation::atomic_access(at, sizeof(T), true);
  const bool changed = emulation::unchecked_load(at) != value;
  emulation::unchecked_store(at, value);
  emulation::atomic_store_done(at, emulation::RELAXED, changed);
}
template <class T> EMULATED void add_release(T* at, T value) {
  emulation::atomic_access(at, sizeof(T), true);
  emulation::unchecked_store(at, T(emulation::unchecked_load(at) + value));
  emulation::atomic_write_done(at, emulation::SYNCHRONIZING, value != 0);
}
template <class T> EMULATED void store_release(T* at, T value) {
  emulation::atomic_access(at, sizeof(T), true);
  const bool changed = emulation::unchecked_load(at) != value;
  emulation::unchecked_store(at, value);
  emulation::atomic_store_done(at, emulation::SYNCHRONIZING, changed);
}

EMULATED void __threadfence() { emulation::fence(); }
// Orders nothing here, to catch kernels that rely on it between blocks.
EMULATED void __threadfence_block() {}
