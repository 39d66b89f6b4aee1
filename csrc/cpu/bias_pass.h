// The bias pass (attention_bias_gradient.cpp).
#pragma once

#include "backward_step.h"

MMK_NAMESPACE_BEGIN

/// Gradient of part 0 or 1 of the bias, on its own.
void bias_gradient(const AttentionProblem& p, const Threads& threads, const Statistics& stats, int part);

MMK_NAMESPACE_END
