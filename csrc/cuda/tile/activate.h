// The activations of concat_fusion (core/activation.h), chosen while the kernel runs: the choice is the same in all threads.
#pragma once

#include <ptx/device.h>

#include "../../core/activation.h"

MMK_NAMESPACE_BEGIN

/// f(ActivationConstant), in device code.
template <class F>
MMK_DEVICE float choose_activation(Activation activation, const F& f) {
  switch (activation) {
    case Activation::kGelu:
      return f(ActivationConstant<Activation::kGelu>{});
    case Activation::kGeluTanh:
      return f(ActivationConstant<Activation::kGeluTanh>{});
    case Activation::kRelu:
      return f(ActivationConstant<Activation::kRelu>{});
    case Activation::kSilu:
      return f(ActivationConstant<Activation::kSilu>{});
    case Activation::kTanh:
      return f(ActivationConstant<Activation::kTanh>{});
    case Activation::kSigmoid:
      return f(ActivationConstant<Activation::kSigmoid>{});
    default:
      return f(ActivationConstant<Activation::kNone>{});
  }
}

MMK_DEVICE float activate(Activation activation, float x) {
  return choose_activation(activation, [&](auto chosen) { return activate<decltype(chosen)::kValue>(x); });
}

/// grad * activation'(x)
MMK_DEVICE float activation_backward(Activation activation, float grad, float x) {
  return choose_activation(activation,
                           [&](auto chosen) { return activation_backward<decltype(chosen)::kValue>(grad, x); });
}

MMK_NAMESPACE_END
