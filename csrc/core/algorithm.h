// How products are made where a caller may choose.
#pragma once

#include "compiler.h"

namespace mmk {

// In the order of the contracts' choices: None, "tf32". tf32: float32 operands are rounded to TF32 (8 exponent bits, 10
// fraction bits; nearest, ties away from zero; NaN and infinities stay), their products summed in float32.
enum class Algorithm : int64_t { standard, tf32 };

} // namespace mmk
