// From values of a problem to types of the kernels: the one choice of a stored type, and of a head dim.
#pragma once

#include <type_traits>

#include "../../core/problem.h"
#include "../scalar.h"

MMK_NAMESPACE_BEGIN

/// A type as a value.
template <class T>
struct TypeOf {
  using Type = T;
};

/// Calls f with the TypeOf what a dtype is stored as.
template <class F>
decltype(auto) with_stored_type(DType dtype, const F& f) {
  switch (dtype) {
    case DType::kFloat16:
      return f(TypeOf<Half>{});
    case DType::kBFloat16:
      return f(TypeOf<BFloat16>{});
    default:
      return f(TypeOf<float>{});
  }
}

/// Calls f with the head dim of attention_dim as a constant.
template <class F>
void with_head_dim(int dim, const F& f) {
  switch (dim) {
    case 32:
      return f(std::integral_constant<int, 32>{});
    case 64:
      return f(std::integral_constant<int, 64>{});
    case 128:
      return f(std::integral_constant<int, 128>{});
    default:
      return f(std::integral_constant<int, 256>{});
  }
}

MMK_NAMESPACE_END
