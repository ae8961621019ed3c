// float16 and bfloat16 on the CPU floor: they are storage. Operands are widened to float32, the float32 operator runs,
// its results are rounded once.
#pragma once

#include "plan.h"

namespace mmk::bind {

// Runs the operator on the image, whose tensors have their pointers.
void run_plan(const OperatorInfo& info, const Plan& plan, char* image, Context& context);

} // namespace mmk::bind
