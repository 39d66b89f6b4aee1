// What every lowering of tensors to a problem struct needs.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <optional>
#include <vector>

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

/// Every tensor of a call must be where its first is: the dispatcher only knows that one of them is on a GPU.
inline void check_device(const Tensor& first, std::initializer_list<std::vector<Tensor>> lists,
                         std::initializer_list<OptionalTensor> others) {
  const auto device = first.device();
  const auto check = [&](const Tensor& t) {
    MMK_CHECK(t.device() == device, "every tensor must be on one device, ", device.index(), ", got one on ",
              t.device().index(), t.is_cuda() ? "" : ", which is no GPU");
  };
  for (const auto& list : lists) {
    for (const Tensor& t : list) check(t);
  }
  for (const OptionalTensor& t : others) {
    if (t) check(*t);
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
