// embed — rows of a table by index, and numbers as waves.
// Computes   embedding: y[s] = weight[indices[s]]; embedding_grad: gweight[v] = sum of gy over the tokens that are v
//            sinusoidal_features: sin and cos of t f_i, f_i = max_period^(-i / (half - shift)), i < half = dim / 2,
//            beside each other as [sin, cos] or [cos, sin]; the last column of an odd dim is +0
//            fourier_features: [sin(2 pi t f), cos(2 pi t f)]
// Shapes     as in ops/embed.py
// Types      float32, float64; indices int32, int64
// Limits     0 <= index < V; half differs from shift; |t f| < 2^50, where the quarter turn is lost in double too
// Algorithm  angles are counted in quarter turns, in double: z = t g_i with g_i = f_i 2/pi, or z = 4 (t f), exact; the
//            integer next to z chooses among +-sin and +-cos of (z - integer) pi/2, rounded to float32 and given to
//            core/arith.h: errors of about 1 ulp at any t. f_i = exp(-log(max_period) i / (half - shift)) in double by
//            + - * / alone (Taylor polynomials below), so that the table has the same bits on every machine.
//            float64 uses libm's long double functions.
// CUDA       the gradient: tokens of every 128 rows are listed in their order, then a warp adds those of its row;
//            features by the same doubles; float64 angles are pairs of doubles, their sin and cos the device's
// Order      embedding_grad: token order, from +0
// Source     Vaswani et al., arXiv 1706.03762, 3.5; Ho et al., arXiv 2006.11239; Tancik et al., arXiv 2006.10739
// Moves      the contract's minimum; embedding_grad reads the indices once per thread
#pragma once

#include "../core/dispatch.h"

namespace mmk {

struct Embedding {
    Tensor indices, weight, y;
    MMK_FIELDS(Embedding, indices, weight, y)
};
struct EmbeddingGrad {
    Tensor indices, gy, gweight;
    MMK_FIELDS(EmbeddingGrad, indices, gy, gweight)
};
enum class WaveOrder : int64_t { sin_cos, cos_sin };
struct SinusoidalFeatures {
    Tensor t, y;
    double max_period = 0, shift = 0;
    WaveOrder order = WaveOrder::sin_cos;
    MMK_FIELDS(SinusoidalFeatures, t, y, max_period, shift, order)
};
struct FourierFeatures {
    Tensor t, frequencies, y;
    MMK_FIELDS(FourierFeatures, t, frequencies, y)
};

MMK_OPERATOR(embedding, Embedding)
MMK_OPERATOR(embedding_grad, EmbeddingGrad)
MMK_OPERATOR(sinusoidal_features, SinusoidalFeatures)
MMK_OPERATOR(fourier_features, FourierFeatures)

} // namespace mmk
