// Operands of products that ask for TF32 (core/algorithm.h). Rounding them beforehand leaves the operators' kernels, and
// so their orders, as they are: the bits are those of the float32 operator on rounded operands.
#pragma once

#include "../core/algorithm.h"
#include "../core/layout.h"

namespace mmk::cpu::MMK_ISA {

// cvt.rna.tf32.f32. What lies above the largest TF32 number by half a step or more becomes infinite.
MMK_INLINE uint32_t tf32_bits(uint32_t bits) {
    if ((bits & 0x7f800000u) == 0x7f800000u) return (bits & 0x7fffffu) != 0 ? 0x7fffffffu : bits;
    return (bits + 0x1000u) & 0xffffe000u;
}

// x, or its values rounded, in scratch memory; extents that broadcast stay so.
inline Tensor factors(Context& context, const Tensor& x, Algorithm algorithm) {
    if (algorithm != Algorithm::tf32) return x;
    Tensor once = x;
    for (int axis = 0; axis < x.rank; ++axis)
        if (x.stride[axis] == 0 && x.extent[axis] > 1) once.extent[axis] = 1;
    Tensor rounded = contiguous_scratch(context, once);
    copy_strided(context, rounded, once);
    uint32_t* const bits = static_cast<uint32_t*>(rounded.data);
    parallel_ranges(context, rounded.size(), 16384, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) bits[i] = tf32_bits(bits[i]);
    });
    for (int axis = 0; axis < x.rank; ++axis)
        if (once.extent[axis] != x.extent[axis]) rounded.extent[axis] = x.extent[axis], rounded.stride[axis] = 0;
    return rounded;
}

} // namespace mmk::cpu::MMK_ISA
