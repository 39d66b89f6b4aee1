// What happens to a logit between the product and the softmax, and to a weight behind it: softcap, bias, mask, dropout.
#pragma once

#include "../../core/philox.h"
#include "product.h"
#include "visible.h"

MMK_NAMESPACE_BEGIN

/// One element of a bias part of any stored type.
MMK_DEVICE float load_as(const void* data, DType dtype, int64_t index) {
  if (dtype == DType::kFloat32) return load(global<float>(data) + index);
  if (dtype == DType::kFloat16) return widen(load(global<Half>(data) + index));
  return widen(load(global<BFloat16>(data) + index));
}

/// Lengths of packed sequences are not known on the host: what is too short for them is read at its end, and never left.
/// Nothing here depends on the size alone: the compiler would make it at the kernel's start, and keep it in registers.
template <class Index>
MMK_DEVICE Index nearest_index(Index index, int64_t size) {
  return larger<Index>(smaller<Index>(index + 1, static_cast<Index>(size)), 1) - 1;
}

/// The bias of one row: what of its address does not depend on the key.
struct RowBias {
  int64_t first[2];
  int64_t entry;  // of a table, for key 0
};
MMK_DEVICE RowBias row_bias(const BiasView& b, int batch, int head, int query) {
  RowBias row;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int64_t at = nearest_index(query, b.size[i][2]);
    row.first[i] = batch * b.stride[i][0] + head * b.stride[i][1] + at * b.stride[i][2];
  }
  if (b.kind == BiasKind::kRelative) row.first[0] = head * b.stride[0][1];
  row.entry = b.zero - query;
  return row;
}
/// fp16's least number, with which models mask, stands for fp32's: a row of nothing else is uniform.
MMK_DEVICE float masking_as_fp32(float x, DType dtype) {
  return dtype == DType::kFloat16 && x == -65504.0f ? -3.402823466e38f : x;
}
MMK_DEVICE float bias_at(const BiasView& b, const RowBias& row, int key) {
  if (b.kind == BiasKind::kRelative) {
    const int64_t index = nearest_index(row.entry + key, b.size[0][3]);
    return masking_as_fp32(load_as(b.part[0], b.dtype[0], row.first[0] + index), b.dtype[0]);
  }
  if (b.kind == BiasKind::kDense) {
    const int64_t at = row.first[0] + nearest_index(key, b.size[0][3]) * b.stride[0][3];
    return masking_as_fp32(load_as(b.part[0], b.dtype[0], at), b.dtype[0]);
  }
  const int width = static_cast<int>(b.size[1][3]), across = key / width;
  return load_as(b.part[0], b.dtype[0], row.first[0] + nearest_index(across, b.size[0][3]) * b.stride[0][3]) +
         load_as(b.part[1], b.dtype[1], row.first[1] + (key - across * width) * b.stride[1][3]);
}

/// Dropout of one launch.
struct DropoutKey {
  uint32_t key0, key1, batch, threshold;

  MMK_DEVICE static DropoutKey of(const Dropout& d, int batch) {
    uint32_t key0 = d.key0, key1 = d.key1;
    if (d.active && d.seed != nullptr) {
      const uint64_t seed = load(global<uint64_t>(static_cast<const void*>(d.seed)));
      key0 = static_cast<uint32_t>(seed);
      key1 = static_cast<uint32_t>(seed >> 32);
    }
    return {key0, key1, static_cast<uint32_t>(batch + d.offset[0]), d.threshold};
  }
  MMK_DEVICE PhiloxBlock<uint32_t> block(uint32_t head, uint32_t query, uint32_t key) const {
    return philox4x32(PhiloxBlock<uint32_t>{{key / 4, query, head, batch}}, key0, key1);
  }
};

/// Whether the pairs of a lane's number j of C are kept: rows `upper` and `lower`, 8 apart, keys `key` and `key` + 1.
struct Kept {
  bool at[4];
};
struct DropoutRow {
  uint32_t head, query;  // with the offsets of the call
};

/// Four keys share a Philox block, of which a lane has two where its first key is even. So of a pair of lanes the even one
/// makes the block of the upper row, the odd one that of the lower, and each hands the other its half.
MMK_DEVICE Kept kept_pairs(const DropoutKey& d, DropoutRow upper, DropoutRow lower, uint32_t key, bool aligned) {
  Kept kept;
  if (aligned) {  // keys of even lanes are multiples of 4
    const bool odd = lane_index() % 2 != 0;
    const DropoutRow row = odd ? lower : upper;
    const PhiloxBlock<uint32_t> own = d.block(row.head, row.query, key);
    const uint32_t first = shuffle_xor(odd ? own.word[0] : own.word[2], 1);
    const uint32_t second = shuffle_xor(odd ? own.word[1] : own.word[3], 1);
    kept.at[0] = (odd ? first : own.word[0]) >= d.threshold;
    kept.at[1] = (odd ? second : own.word[1]) >= d.threshold;
    kept.at[2] = (odd ? own.word[2] : first) >= d.threshold;
    kept.at[3] = (odd ? own.word[3] : second) >= d.threshold;
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const DropoutRow row = j / 2 ? lower : upper;
      const PhiloxBlock<uint32_t> own = d.block(row.head, row.query, key + j % 2);
      const uint32_t low = (key + j % 2) % 2 ? own.word[1] : own.word[0];
      const uint32_t high = (key + j % 2) % 2 ? own.word[3] : own.word[2];
      kept.at[j] = ((key + j % 2) % 4 / 2 ? high : low) >= d.threshold;
    }
  }
  return kept;
}

MMK_NAMESPACE_END
