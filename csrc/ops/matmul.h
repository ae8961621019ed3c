// matmul — matrix products with bias and activation.
// Computes   matmul  y[s,m,n] = act(sum over k of a[s,m,k] * b[s,k,n] + bias[n])
//            linear  y[s,o] = act(sum over i of x[s,i] * w[o,i] + bias[o])
// Shapes     as in ops/matmul.py; the batch extents s broadcast (stride 0)
// Types      float32, float64
// Limits     none: empty extents give empty results, an empty sum is +0
// Algorithm  b is packed in panels of output columns, from whatever strides; rows of a are read in place through an
//            offset per k (core/products.h). A b that all batches share meets their rows as those of one matrix.
// Order      k rises; chunks of 256 products
// CUDA       float32 and float64: register tiles, the same sums; where tiles are too few for the device, their chunks are
//            shared among blocks. 16 bits: tensor cores, k in steps of 16 from 0 in one float32 accumulator, a sum of
//            more than 16384 products in slices of so many, added in order; bias and activation in float32, one rounding.
//            Which tile is chosen shows in no bit (csrc/cuda/products.cuh, products.tensor.cuh). MMK_CUDA_ARCH=sm_90a on
//            Hopper: 16 bits by wgmma, in the same order (products.sm90.cuh)
// TF32       algorithm="tf32", float32 alone: a and b (x, weight) are rounded to TF32 (8 exponent bits, 10 fraction bits;
//            nearest, ties away from zero; NaN and infinities stay), then multiplied and summed in float32; bias and
//            activation as ever. CPU: the order above, so the same bits everywhere. CUDA: tensor cores, k in steps of 8
//            from 0 in one float32 accumulator, slices of 16384 products added in order: repeatable, the same for any
//            batch, but not the CPU's bits. Nothing but this attribute uses TF32.
// Moves      a once for every panel, b once and once more packed
#pragma once

#include "../core/activation.h"
#include "../core/algorithm.h"
#include "../core/dispatch.h"

namespace mmk {

struct Matmul {
    Tensor a, b, bias, y;
    Activation activation = Activation::none;
    Algorithm algorithm = Algorithm::standard;
    MMK_FIELDS(Matmul, a, b, bias, y, activation, algorithm)
};
struct Linear {
    Tensor x, weight, bias, y;
    Activation activation = Activation::none;
    Algorithm algorithm = Algorithm::standard;
    MMK_FIELDS(Linear, x, weight, bias, y, activation, algorithm)
};

MMK_OPERATOR(matmul, Matmul)
MMK_OPERATOR(linear, Linear)

} // namespace mmk
