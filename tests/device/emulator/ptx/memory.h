// The emulator's twin of csrc/cuda/ptx/memory.h: every access goes through the machine, which knows the line it is from.
#pragma once

#include "cuda/scalar.h"
#include "device.h"

MMK_NAMESPACE_BEGIN

template <class T>
struct Global {
  T* pointer;

  /// On the number, not on the pointer: kernels step from pointers to nothing, too.
  MMK_DEVICE Global operator+(int64_t elements) const {
    return {reinterpret_cast<T*>(reinterpret_cast<uint64_t>(pointer) + static_cast<uint64_t>(elements) * sizeof(T))};
  }
  MMK_DEVICE explicit operator bool() const { return pointer != nullptr; }
  MMK_DEVICE bool aligned16() const { return reinterpret_cast<uint64_t>(pointer) % 16 == 0; }
};

template <class T>
MMK_DEVICE Global<T> global(void* pointer) {
  return {static_cast<T*>(pointer)};
}
template <class T>
MMK_DEVICE Global<const T> global(const void* pointer) {
  return {static_cast<const T*>(pointer)};
}

struct Shared {
  uint32_t address;

  MMK_DEVICE Shared operator+(uint32_t bytes) const { return {address + bytes}; }
  MMK_DEVICE Shared operator^(uint32_t bits) const { return {address ^ bits}; }
};

MMK_DEVICE Shared shared_memory() { return {emulator::machine.shared_base()}; }

// ---- global ----

template <class T>
MMK_DEVICE T load(Global<const T> from, emulator::Site site = emulator::here()) {
  static_assert(sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8, "what the real one can load");
  T value;
  emulator::machine.global_read(&value, from.pointer, sizeof(T), site);
  return value;
}

MMK_DEVICE float load_written(Global<float> from, emulator::Site site = emulator::here()) {
  float value;
  emulator::machine.global_read(&value, from.pointer, sizeof(float), site);
  return value;
}

template <class T>
MMK_DEVICE Words<4> load16(Global<const T> from, emulator::Site site = emulator::here()) {
  Words<4> value;
  emulator::machine.global_read(&value, from.pointer, 16, site);
  return value;
}

template <class T>
MMK_DEVICE void store(Global<T> to, T value, emulator::Site site = emulator::here()) {
  static_assert(sizeof(T) == 2 || sizeof(T) == 4, "elements of 2 or 4 bytes");
  emulator::machine.global_write(to.pointer, &value, sizeof(T), site);
}

template <class T>
MMK_DEVICE void store16(Global<T> to, Words<4> w, emulator::Site site = emulator::here()) {
  emulator::machine.global_write(to.pointer, &w, 16, site);
}

// ---- shared ----

template <class T>
MMK_DEVICE T load(Shared from, emulator::Site site = emulator::here()) {
  static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16, "2, 4, 8 or 16 bytes");
  T value;
  emulator::machine.shared_read(&value, from.address, sizeof(T), site);
  return value;
}

template <class T>
MMK_DEVICE void store(Shared to, T value, emulator::Site site = emulator::here()) {
  static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16, "2, 4, 8 or 16 bytes");
  emulator::machine.shared_write(to.address, &value, sizeof(T), site);
}

// ---- asynchronous copies, global to shared ----

template <class T>
MMK_DEVICE void copy16_async(Shared to, Global<const T> from, bool inside, emulator::Site site = emulator::here()) {
  emulator::machine.copy_async(to.address, from.pointer, inside, site);
}

MMK_DEVICE void commit_copies() { emulator::machine.commit_copies(); }

template <int pending>
MMK_DEVICE void wait_copies() {
  emulator::machine.wait_copies(pending);
}

MMK_NAMESPACE_END
