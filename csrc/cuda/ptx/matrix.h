// The tensor core: fragments of 16-bit operands from shared memory, and their product.
//
// Layouts (PTX ISA, "Matrix fragments for mma.m16n8k16"): with group = lane / 4 and pair = 2 (lane % 4),
//   A (16 x 16): word 0 holds row group, columns pair and pair + 1; word 1 row group + 8; words 2 and 3 the same rows,
//                columns 8 more
//   B (16 x 8):  word 0 holds rows pair and pair + 1 of column group; word 1 rows 8 more
//   C (16 x 8):  numbers 0 and 1 are row group, columns pair and pair + 1; 2 and 3 row group + 8
#pragma once

#include "memory.h"

MMK_NAMESPACE_BEGIN

/// Four 8 x 8 matrices of 16-bit numbers. Lanes 8 i .. 8 i + 7 give the addresses (multiples of 16) of the rows of
/// matrix i; word i of a lane is then row group, columns pair and pair + 1 of matrix i.
MMK_DEVICE void load_matrices(uint32_t (&word)[4], Shared row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3])
               : "r"(row.address));
}

/// The same with every matrix transposed: word i is rows pair and pair + 1, column group.
MMK_DEVICE void load_matrices_transposed(uint32_t (&word)[4], Shared row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3])
               : "r"(row.address));
}

/// c = a b, and c += a b, accumulated in fp32.
template <class T>
MMK_DEVICE void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <class T>
MMK_DEVICE void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

#define MMK_MULTIPLY(T, name)                                                                        \
  template <>                                                                                        \
  MMK_DEVICE void multiply<T>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {     \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." name "." name                              \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"          \
                 : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3])                                    \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.0f));         \
  }                                                                                                  \
  template <>                                                                                        \
  MMK_DEVICE void multiply_add<T>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." name "." name                              \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"              \
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                    \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                    \
  }

MMK_MULTIPLY(Half, "f16")
MMK_MULTIPLY(BFloat16, "bf16")
#undef MMK_MULTIPLY

MMK_NAMESPACE_END
