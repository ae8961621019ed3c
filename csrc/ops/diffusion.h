// diffusion — one step of a sampler in one pass over memory, and the forward process.
// Computes   add_noise       alpha x + sigma noise
//            diffusion_step  y  = y0 + g1 (y1 - y0) + g2 (y2 - y1)                      guidance
//                            x0 = clamp(p x + q y, lo, hi)                              prediction to sample
//                            x' = A x + B x0 + E y + C1 h1 + .. + C4 h4 + s z           update, history, noise
//                            x' = m (ka known + kb z) + (1 - m) x'                      with a mask
//                            history = ha x + hb x0 + hc y                              on request
//            with row = [g1 g2 p q lo hi A B E C1 C2 C3 C4 s ka kb ha hb hc 0] and z the noise that is given or
//            that of philox_normal under the sample's key at offset 0, drawn here; the term of an operand that is not
//            given is left out whatever its coefficient. With a table, row is table[step of the sample] and z is drawn
//            under philox_fold_in(key, step): one launch, captured once, serves every step
// Shapes     x, y0 .. y2, h1 .. h4, noise, known, results [N *S]; coefficients [N 20] or [1 20], or table [T 20]
//            and step [N] or [1]; keys [N]; mask broadcasts to x; alpha, sigma [N] or [1]
// Types      float32, float64; drawn noise is float32, widened for float64
// Limits     a step outside [0, T) gives zeros on CUDA and is refused on the CPU. -inf, inf and NaN are no bounds; NaN passes the clamp; 0 inf is NaN in every term that is there
// Algorithm  64 elements at a time through all of the above; a block of a sample per task; a mask that repeats inside
//            a sample is read as it lies; operands of one dense order that no noise or mask is indexed in are walked in
//            that order, others are packed first
// CUDA       one launch, nothing waited for: a thread makes 16 bytes of elements (whole counters of noise) from
//            operands of one order, whatever it is; coefficients, keys and masks are read where they are. Only operands
//            of different orders are packed first
// Order      each line from left to right, u = fma(a, b, c) = a b + c with one rounding:
//                add_noise  y  = fma(sigma, noise, alpha x)
//                y  = fma(g1, y1 - y0, y0);  y = fma(g2, y2 - y1, y)
//                x0 = fma(p, x, q y);  x0 = x0 < lo ? lo : x0;  x0 = x0 > hi ? hi : x0
//                x' = A x;  x' = fma(B, x0, x');  x' = fma(E, y, x');  x' = fma(Ck, hk, x') for k = 1 .. 4;
//                x' = fma(s, z, x')
//                k  = ka known;  k = fma(kb, z, k);  x' = m k + (1 - m) x'              two products and a sum
//                h  = ha x;  h = fma(hb, x0, h);  h = fma(hc, y, h)
//            float32 results thus have the bits of the composition in ops/diffusion.py
// Source     Ho et al. 2020, equations 4, 7, 11; Song et al. 2021, equation 12; Ho and Salimans 2022, equation 6
// Moves      the contract's minimum for dense operands; a packed operand is read and written once more
#pragma once

#include "../core/dispatch.h"

namespace mmk {

struct AddNoise {
    Tensor x, noise, alpha, sigma, y;
    MMK_FIELDS(AddNoise, x, noise, alpha, sigma, y)
};
struct DiffusionStep {
    Tensor x, y0, y1, y2, coefficients, h1, h2, h3, h4, noise, keys, mask, known, table, step, x_next, history;
    MMK_FIELDS(DiffusionStep, x, y0, y1, y2, coefficients, h1, h2, h3, h4, noise, keys, mask, known, table, step,
               x_next, history)
};

MMK_OPERATOR(add_noise, AddNoise)
MMK_OPERATOR(diffusion_step, DiffusionStep)

} // namespace mmk
