// The activations of concat_fusion (core/activation.h), chosen while the kernel runs: the choice is the same in all threads.
#pragma once

#include <ptx/device.h>

#include "../../core/activation.h"

MMK_NAMESPACE_BEGIN

MMK_DEVICE float activate(Activation activation, float x) {
  return with_activation(activation, [&](auto chosen) { return activate<decltype(chosen)::kValue>(x); });
}

/// grad * activation'(x)
MMK_DEVICE float activation_backward(Activation activation, float grad, float x) {
  return with_activation(activation,
                         [&](auto chosen) { return activation_backward<decltype(chosen)::kValue>(grad, x); });
}

MMK_NAMESPACE_END
