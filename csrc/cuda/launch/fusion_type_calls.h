// The calls of every dtype, each in a source of its own (fusion_type.h).
#pragma once

#include "../../core/fusion_problem.h"
#include "fusion_device.h"

MMK_NAMESPACE_BEGIN

template <class T>
struct FusionType {
  static void forward(const FusionProblem&, int processors, FusionMeasure&);
  static void forward(const FusionProblem&, int processors, FusionStream&);
  static void backward(const FusionProblem&, int processors, FusionMeasure&);
  static void backward(const FusionProblem&, int processors, FusionStream&);
};

MMK_NAMESPACE_END
