// Division by a number that the launch knows: a product and a shift (3 instructions) in place of a division (20; 70 if
// the numbers are long).
#pragma once

#include "launch.cuh"

namespace mmk::cuda {

// n / by for n >= 0 and by >= 1. Where both are below 2^31, Granlund and Montgomery's product ("Division by invariant
// integers using multiplication", PLDI 1994, figure 4.1); else the division itself.
class Divisor {
  public:
    Divisor() = default;
    explicit Divisor(int64_t by) : by_(by) {
        if (by >= int64_t(1) << 31) return; // short numbers are less than it: the quotient is 0
        for (shift_ = 0; int64_t(1) << shift_ < by;) ++shift_;
        multiplier_ = uint32_t((((uint64_t(1) << shift_) - uint64_t(by)) << 32) / uint64_t(by)) + 1;
    }
    MMK_MEMBER int64_t by() const { return by_; }
    MMK_MEMBER int64_t operator()(int64_t n) const {
        if (uint64_t(n) >> 31) return n / by_;
        return int64_t((uint32_t(uint64_t(uint32_t(n)) * multiplier_ >> 32) + uint32_t(n)) >> shift_);
    }
    // The remainder; n becomes the quotient.
    MMK_MEMBER int64_t take(int64_t& n) const {
        const int64_t quotient = (*this)(n), rest = n - quotient * by_;
        n = quotient;
        return rest;
    }

  private:
    int64_t by_ = 1;
    uint32_t multiplier_ = 0;
    int shift_ = 31;
};

} // namespace mmk::cuda
