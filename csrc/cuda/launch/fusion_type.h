// The calls of one dtype: every concat_fusion_<dtype>.cu is this file for its type.
#pragma once

#include "fusion_backward_plan.h"
#include "fusion_type_calls.h"

MMK_NAMESPACE_BEGIN

#define MMK_FUSION_CALL(T, Device)                                                       \
  template <>                                                                            \
  void FusionType<T>::forward(const FusionProblem& p, int processors, Device& device) {  \
    FusionForward<T, Device>(p, processors, device).run();                               \
  }                                                                                      \
  template <>                                                                            \
  void FusionType<T>::backward(const FusionProblem& p, int processors, Device& device) { \
    FusionBackward<T, Device>(p, processors, device).run();                              \
  }
#define MMK_FUSION_TYPE(T)          \
  MMK_FUSION_CALL(T, FusionMeasure) \
  MMK_FUSION_CALL(T, FusionStream)

MMK_NAMESPACE_END
