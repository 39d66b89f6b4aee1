// What every lowering of tensors to a problem struct needs.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "../core/problem.h"

namespace mmkernels {
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

#define MMK_CHECK(condition, ...) STD_TORCH_CHECK(condition, "mmkernels: ", __VA_ARGS__)

inline DType dtype_of(const Tensor& t, const char* name) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Half:
      return DType::kFloat16;
    default:
      MMK_CHECK(false, name, " must be float32, bfloat16 or float16");
  }
}

/// A dense vector of `count` floats, or nullptr.
inline float* vector_of(const OptionalTensor& t, const char* name, int64_t count) {
  if (!t) return nullptr;
  MMK_CHECK(t->scalar_type() == ScalarType::Float && t->is_contiguous() && t->numel() == count, name,
            " must be a contiguous float32 tensor of ", count, " elements, got ", t->numel());
  return static_cast<float*>(t->mutable_data_ptr());
}

}  // namespace mmkernels
