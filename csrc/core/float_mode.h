// The floating-point mode that the arithmetic is defined in: round to nearest, subnormals kept, no traps.
// Callers may run with others (FTZ, rounding up); host functions and workers switch for their duration.
#pragma once

#include "compiler.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace mmk {

class FloatMode {
  public:
#if defined(__x86_64__)
    FloatMode() : saved_(_mm_getcsr()) {
        if (saved_ != standard) _mm_setcsr(standard);
    }
    ~FloatMode() {
        if (saved_ != standard) _mm_setcsr(saved_);
    }

  private:
    static constexpr unsigned standard = 0x1f80;
    unsigned saved_;
#elif defined(__aarch64__)
    FloatMode() {
        asm volatile("mrs %0, fpcr" : "=r"(saved_));
        if (saved_) asm volatile("msr fpcr, %0" ::"r"(uint64_t(0)));
    }
    ~FloatMode() {
        if (saved_) asm volatile("msr fpcr, %0" ::"r"(saved_));
    }

  private:
    uint64_t saved_;
#else
    FloatMode() {}
#endif
    FloatMode(const FloatMode&) = delete;
    FloatMode& operator=(const FloatMode&) = delete;
};

} // namespace mmk
