// Global and shared memory. There is no other way to either: kernels hold these handles and never dereference a pointer,
// so that the emulator sees every access.
#pragma once

#include "../scalar.h"
#include "device.h"

MMK_NAMESPACE_BEGIN

/// A pointer into global memory.
template <class T>
struct Global {
  T* pointer;

  MMK_DEVICE Global operator+(int64_t elements) const { return {pointer + elements}; }
  MMK_DEVICE explicit operator bool() const { return pointer != nullptr; }
  /// Whether 16 bytes can be read or written at once from here.
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

/// A byte address in the shared memory of the block.
struct Shared {
  uint32_t address;

  MMK_DEVICE Shared operator+(uint32_t bytes) const { return {address + bytes}; }
  MMK_DEVICE Shared operator^(uint32_t bits) const { return {address ^ bits}; }
};

/// The dynamic shared memory of the block, aligned to 1024 bytes.
MMK_DEVICE Shared shared_memory() {
  extern __shared__ __align__(1024) unsigned char mmk_shared_memory[];
  return {static_cast<uint32_t>(__cvta_generic_to_shared(mmk_shared_memory))};
}

// ---- global ----

/// One element; the kernel must not write what it reads so.
template <class T>
MMK_DEVICE T load(Global<const T> from) {
  if constexpr (sizeof(T) == 1) {
    uint32_t bits;
    asm volatile("ld.global.nc.u8 %0, [%1];" : "=r"(bits) : "l"(from.pointer));
    return bits_as<T>(static_cast<uint8_t>(bits));
  } else if constexpr (sizeof(T) == 2) {
    uint16_t bits;
    asm volatile("ld.global.nc.b16 %0, [%1];" : "=h"(bits) : "l"(from.pointer));
    return bits_as<T>(bits);
  } else if constexpr (sizeof(T) == 4) {
    uint32_t bits;
    asm volatile("ld.global.nc.b32 %0, [%1];" : "=r"(bits) : "l"(from.pointer));
    return bits_as<T>(bits);
  } else {
    uint64_t bits;
    asm volatile("ld.global.nc.b64 %0, [%1];" : "=l"(bits) : "l"(from.pointer));
    return bits_as<T>(bits);
  }
}

/// A number that this kernel, or one before it, wrote.
MMK_DEVICE float load_written(Global<float> from) {
  float x;
  asm volatile("ld.global.f32 %0, [%1];" : "=f"(x) : "l"(from.pointer) : "memory");
  return x;
}

/// 16 bytes from an address that is a multiple of 16.
template <class T>
MMK_DEVICE Words<4> load16(Global<const T> from) {
  Words<4> w;
  asm volatile("ld.global.nc.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(w.word[0]), "=r"(w.word[1]), "=r"(w.word[2]), "=r"(w.word[3])
               : "l"(from.pointer));
  return w;
}

template <class T>
MMK_DEVICE void store(Global<T> to, T value) {
  if constexpr (sizeof(T) == 2) {
    asm volatile("st.global.b16 [%0], %1;" ::"l"(to.pointer), "h"(bits_as<uint16_t>(value)) : "memory");
  } else {
    static_assert(sizeof(T) == 4, "elements of 2 or 4 bytes");
    asm volatile("st.global.b32 [%0], %1;" ::"l"(to.pointer), "r"(bits_as<uint32_t>(value)) : "memory");
  }
}

/// 16 bytes to an address that is a multiple of 16.
template <class T>
MMK_DEVICE void store16(Global<T> to, Words<4> w) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to.pointer), "r"(w.word[0]), "r"(w.word[1]),
               "r"(w.word[2]), "r"(w.word[3])
               : "memory");
}

// ---- shared ----

template <class T>
MMK_DEVICE T load(Shared from) {
  if constexpr (sizeof(T) == 2) {
    uint16_t bits;
    asm volatile("ld.shared.b16 %0, [%1];" : "=h"(bits) : "r"(from.address));
    return bits_as<T>(bits);
  } else if constexpr (sizeof(T) == 4) {
    uint32_t bits;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(bits) : "r"(from.address));
    return bits_as<T>(bits);
  } else if constexpr (sizeof(T) == 8) {
    Words<2> w;
    asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(w.word[0]), "=r"(w.word[1]) : "r"(from.address));
    return bits_as<T>(w);
  } else {
    static_assert(sizeof(T) == 16, "2, 4, 8 or 16 bytes");
    Words<4> w;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(w.word[0]), "=r"(w.word[1]), "=r"(w.word[2]), "=r"(w.word[3])
                 : "r"(from.address));
    return bits_as<T>(w);
  }
}

template <class T>
MMK_DEVICE void store(Shared to, T value) {
  if constexpr (sizeof(T) == 2) {
    asm volatile("st.shared.b16 [%0], %1;" ::"r"(to.address), "h"(bits_as<uint16_t>(value)) : "memory");
  } else if constexpr (sizeof(T) == 4) {
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(to.address), "r"(bits_as<uint32_t>(value)) : "memory");
  } else if constexpr (sizeof(T) == 8) {
    const Words<2> w = bits_as<Words<2>>(value);
    asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(to.address), "r"(w.word[0]), "r"(w.word[1]) : "memory");
  } else {
    static_assert(sizeof(T) == 16, "2, 4, 8 or 16 bytes");
    const Words<4> w = bits_as<Words<4>>(value);
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to.address), "r"(w.word[0]), "r"(w.word[1]),
                 "r"(w.word[2]), "r"(w.word[3])
                 : "memory");
  }
}

// ---- asynchronous copies, global to shared ----

/// Starts a copy of 16 bytes between addresses that are multiples of 16; zeros arrive where `inside` is false, and
/// nothing is read.
template <class T>
MMK_DEVICE void copy16_async(Shared to, Global<const T> from, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to.address), "l"(from.pointer),
               "r"(inside ? 16 : 0)
               : "memory");
}

/// Ends a group of copies of this thread.
MMK_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until all but the `pending` latest groups of this thread have landed; a barrier shows them to other threads.
template <int pending>
MMK_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

MMK_NAMESPACE_END
