// 16-bit storage, widened and rounded back many numbers at a time.
#pragma once

#include "dispatch.h"

namespace mmk {

struct Widen {
    const uint16_t* from;
    float* to;
    int64_t count;
    bool ieee; // float16, not bfloat16
};
struct Narrow {
    const float* from;
    uint16_t* to;
    int64_t count;
    bool ieee;
};
MMK_OPERATOR_OF_CPU(widen, Widen)
MMK_OPERATOR_OF_CPU(narrow, Narrow)

} // namespace mmk
