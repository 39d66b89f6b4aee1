// The emulator's twin of csrc/cuda/ptx/matrix.h, where the layouts are described.
//
// multiply_add: products of 16-bit numbers are exact in fp32 (but for those of BFloat16 beyond its range); they are added
// to c one by one, k ascending, each sum rounded to fp32. The tensor core adds several at once, in an order and with a
// rounding of its own: results differ in their last bits.
#pragma once

#include <array>
#include <cstring>
#include <type_traits>

#include "convert.h"
#include "memory.h"

namespace emulator {

struct Rows {
  uint32_t address;
  uint32_t* word;
};

template <bool transposed>
inline void read_matrices(uint32_t (&word)[4], uint32_t address, Site site) {
  machine.check_row(address, site);
  Rows mine{address, word};
  machine.collective(Op::kLoadMatrices, &mine, site, [site](void** slot) {
    std::array<uint32_t, 32> rows;
    for (int lane = 0; lane < kWarpSize; ++lane) rows[lane] = static_cast<Rows*>(slot[lane])->address;
    machine.count_rows(rows, site);
    uint16_t matrix[kWarpSize][8];
    for (int row = 0; row < kWarpSize; ++row) std::memcpy(matrix[row], machine.read_row(rows[row], site), 16);
    for (int lane = 0; lane < kWarpSize; ++lane) {
      const int group = lane / 4, pair = lane % 4 * 2;
      for (int i = 0; i < 4; ++i) {
        const uint16_t (*m)[8] = matrix + 8 * i;
        const uint32_t low = transposed ? m[pair][group] : m[group][pair];
        const uint32_t high = transposed ? m[pair + 1][group] : m[group][pair + 1];
        static_cast<Rows*>(slot[lane])->word[i] = low | high << 16;
      }
    }
  });
}

struct Operands {
  float* c;
  const uint32_t* a;
  uint32_t b[2];
};

template <class T>
inline void widen_all(const uint16_t* from, float* to, int count) {
  for (int i = 0; i < count; ++i) {
    to[i] = std::is_same_v<T, mmkernels::Half> ? widen_half(from[i]) : float_from(static_cast<uint32_t>(from[i]) << 16);
  }
}

template <class T>
inline void matrix_product(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Site site) {
  Operands mine{c, a, {b0, b1}};
  machine.collective(Op::kMultiplyAdd, &mine, site, [](void** slot) {
    ++machine.stats().matrix_products;
    uint16_t a_bits[16][16], b_bits[16][8];
    float a[16][16], b[16][8], c[16][8];
    for (int lane = 0; lane < kWarpSize; ++lane) {
      const Operands& own = *static_cast<Operands*>(slot[lane]);
      const int group = lane / 4, pair = lane % 4 * 2;
      for (int i = 0; i < 4; ++i) {
        for (int j = 0; j < 2; ++j) {
          a_bits[group + i % 2 * 8][pair + j + i / 2 * 8] = static_cast<uint16_t>(own.a[i] >> 16 * j);
        }
        c[group + i / 2 * 8][pair + i % 2] = own.c[i];
      }
      for (int i = 0; i < 2; ++i) {
        for (int j = 0; j < 2; ++j) b_bits[pair + j + i * 8][group] = static_cast<uint16_t>(own.b[i] >> 16 * j);
      }
    }
    widen_all<T>(&a_bits[0][0], &a[0][0], 16 * 16);
    widen_all<T>(&b_bits[0][0], &b[0][0], 16 * 8);
    for (int m = 0; m < 16; ++m) {
      for (int k = 0; k < 16; ++k) {
        for (int n = 0; n < 8; ++n) c[m][n] += a[m][k] * b[k][n];
      }
    }
    for (int lane = 0; lane < kWarpSize; ++lane) {
      const int group = lane / 4, pair = lane % 4 * 2;
      for (int i = 0; i < 4; ++i) {
        static_cast<Operands*>(slot[lane])->c[i] = canonical(c[group + i / 2 * 8][pair + i % 2]);
      }
    }
  });
}

}  // namespace emulator

MMK_NAMESPACE_BEGIN

MMK_DEVICE void load_matrices(uint32_t (&word)[4], Shared row, emulator::Site site = emulator::here()) {
  emulator::read_matrices<false>(word, row.address, site);
}

MMK_DEVICE void load_matrices_transposed(uint32_t (&word)[4], Shared row, emulator::Site site = emulator::here()) {
  emulator::read_matrices<true>(word, row.address, site);
}

/// For Half and BFloat16.
template <class T>
MMK_DEVICE void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                         emulator::Site site = emulator::here()) {
  for (float& x : c) x = 0.0f;
  emulator::matrix_product<T>(c, a, b0, b1, site);
}
template <class T>
MMK_DEVICE void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                             emulator::Site site = emulator::here()) {
  static_assert(std::is_same_v<T, Half> || std::is_same_v<T, BFloat16>, "operands of 16 bits");
  emulator::matrix_product<T>(c, a, b0, b1, site);
}

MMK_NAMESPACE_END
