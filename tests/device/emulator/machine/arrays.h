// Global memory: the arrays that a launch was handed.
//
// A kernel never gets a real address. Bits 48 and up hold a mark and the number of the array, which makes an address
// that no process has: whoever dereferences it stops with a fault. Arithmetic on it stays within the array, so that an
// access past one array's end is seen even where another array stands there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "shadow.h"

namespace emulator {

struct Array {
  std::string name;
  uintptr_t begin = 0;
  size_t bytes = 0;
  bool written = false;  // whether a kernel may
  size_t region = 0;
};

/// Memory under arrays that overlap (views of one buffer), with what the race detector knows of it.
struct Region {
  uintptr_t begin = 0, end = 0;
  Shadow shadow;
};

/// An address that a kernel was handed, taken apart. `array` is nullptr where it is none of ours.
struct Translated {
  Array* array = nullptr;
  char* real = nullptr;
};

class Arrays {
 public:
  static constexpr size_t kMost = 127;

  /// The address under which kernels know the array.
  void* add(std::string name, void* begin, size_t bytes, bool written);
  /// Forgets the arrays added after there were `count`.
  void forget(size_t count);
  size_t count() const { return arrays_.size(); }
  const Array& operator[](size_t i) const { return arrays_[i]; }
  uint64_t address(size_t i) const;

  /// A launch begins: finds which arrays share memory.
  void begin();
  Translated translate(const void* address);
  Region& region(const Array& array) { return regions_[array.region]; }

 private:
  std::vector<Array> arrays_;
  std::vector<Region> regions_;
};

}  // namespace emulator
