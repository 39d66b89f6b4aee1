// The activations of concat_fusion and their derivatives, templated on the lane type.
#pragma once

#include "fusion_problem.h"
#include "lane.h"

MMK_NAMESPACE_BEGIN

template <class Lane>
MMK_HOST_DEVICE MMK_ALWAYS_INLINE Lane sigmoid(Lane x) {
  using Ops = LaneOps<Lane>;
  const Lane s = Ops::splat(1.0f) / (Ops::splat(1.0f) + Ops::exponential(Ops::splat(0.0f) - x));
  return Ops::where_less(x, Ops::splat(-88.0f), Ops::splat(0.0f), s);  // so that x * s is NaN at -inf, as in torch
}

template <class Lane, int count>
MMK_HOST_DEVICE MMK_ALWAYS_INLINE Lane polynomial(const float (&coefficient)[count], Lane x) {
  using Ops = LaneOps<Lane>;
  Lane sum = Ops::splat(coefficient[count - 1]);
  for (int i = count - 2; i >= 0; --i) sum = Ops::multiply_add(sum, x, Ops::splat(coefficient[i]));
  return sum;
}

/// Phi(x), the standard normal distribution function, within 1e-7, and its density.
///
/// Phi is 1/2 + x P(x^2) where |x| < 1, and e^(-x^2 / 2) t Q(t), t = 1 / (1 + |x| / 4), mirrored, beyond: the form of
/// Abramowitz and Stegun, 7.1.26. P and Q are least-squares fits iterated to minimax, with relative errors below 3e-8.
template <class Lane>
struct Normal {
  Lane distribution, density;
};
template <class Lane>
MMK_HOST_DEVICE MMK_ALWAYS_INLINE Normal<Lane> normal(Lane x) {
  using Ops = LaneOps<Lane>;
  constexpr float kCentre[] = {0.39894229f, -0.06649036f, 0.009973324f, -0.0011863302f, 1.1348669e-4f, -7.6543247e-6f};
  constexpr float kTail[] = {0.09973665f,   0.0996684985f,  0.09450835f, 0.07396206f,
                             0.0912897214f, -0.0209696162f, 0.10818091f, -0.046407543f};
  const Lane zero = Ops::splat(0.0f), one = Ops::splat(1.0f);
  const Lane size = Ops::where_less(x, zero, zero - x, x);
  const Lane e = Ops::exponential(x * x * Ops::splat(-0.5f));
  const Lane t = one / Ops::multiply_add(size, Ops::splat(0.25f), one);
  const Lane tail = e * (t * polynomial(kTail, t));
  const Lane far = Ops::where_less(x, zero, tail, one - tail);
  const Lane near = Ops::multiply_add(x, polynomial(kCentre, x * x), Ops::splat(0.5f));
  return {Ops::where_less(size, one, near, far), e * Ops::splat(0.39894228f)};
}

/// tanh(sqrt(2 / pi) (x + 0.044715 x^3)), of which gelu_tanh is made.
template <class Lane>
MMK_HOST_DEVICE MMK_ALWAYS_INLINE Lane gelu_tangent(Lane x) {
  using Ops = LaneOps<Lane>;
  const Lane cubic = Ops::multiply_add(x * x, Ops::splat(0.044715f), Ops::splat(1.0f));
  return Ops::hyperbolic_tangent(Ops::splat(0.79788456f) * x * cubic);
}

template <Activation activation, class Lane>
MMK_HOST_DEVICE MMK_ALWAYS_INLINE Lane activate(Lane x) {
  using Ops = LaneOps<Lane>;
  const Lane zero = Ops::splat(0.0f), one = Ops::splat(1.0f);
  switch (activation) {
    case Activation::kGelu:
      return x * normal(x).distribution;
    case Activation::kGeluTanh:
      return Ops::splat(0.5f) * x * (one + gelu_tangent(x));
    case Activation::kRelu:
      return Ops::where_less(x, zero, zero, x);
    case Activation::kSilu:
      return x * sigmoid(x);
    case Activation::kTanh:
      return Ops::hyperbolic_tangent(x);
    case Activation::kSigmoid:
      return sigmoid(x);
    default:
      return x;
  }
}

/// grad * activate'(x)
template <Activation activation, class Lane>
MMK_HOST_DEVICE MMK_ALWAYS_INLINE Lane activation_backward(Lane grad, Lane x) {
  using Ops = LaneOps<Lane>;
  const Lane zero = Ops::splat(0.0f), one = Ops::splat(1.0f);
  switch (activation) {
    case Activation::kGelu: {
      const Normal<Lane> n = normal(x);
      return grad * Ops::multiply_add(x, n.density, n.distribution);
    }
    case Activation::kGeluTanh: {
      const Lane t = gelu_tangent(x), half = Ops::splat(0.5f);
      const Lane inner = Ops::multiply_add(x * x, Ops::splat(3.0f * 0.044715f), one) * Ops::splat(0.79788456f);
      return grad * Ops::multiply_add(half * x * (one - t * t), inner, half * (one + t));
    }
    case Activation::kRelu:
      return Ops::where_less(zero, x, grad, zero);
    case Activation::kSilu: {
      const Lane s = sigmoid(x);
      return grad * (s * Ops::multiply_add(x, one - s, one));
    }
    case Activation::kTanh: {
      const Lane t = Ops::hyperbolic_tangent(x);
      return grad * (one - t * t);
    }
    case Activation::kSigmoid: {
      const Lane s = sigmoid(x);
      return grad * (s * (one - s));
    }
    default:
      return grad;
  }
}

template <Activation activation>
struct ActivationConstant {
  static constexpr Activation kValue = activation;
};

/// Calls f with the ActivationConstant of the activation: the choice stands before a loop, not in it.
template <class F>
MMK_HOST_DEVICE inline auto with_activation(Activation activation, const F& f) {
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

MMK_NAMESPACE_END
