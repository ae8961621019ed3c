// attention — softmax(scale q k^T + bias) v over the keys that a query sees, and its gradients.
// Computes   s = scale q.k + bias; p = exp(s - max s); y = sum p v / sum p; lse = max s + log(sum p), natural log
//            attention_grad: p = exp(s - lse), delta = sum(gy y) - glse, ds = p (gy.v - delta);
//            gv = sum p gy, gq = scale sum ds k, gk = scale sum ds q;  attention_bias_grad: ds itself
// Shapes     as in ops/attention.py; query head h reads key head h / (H / Hkv); mask and bias broadcast by stride 0
// Types      float32, float64, float16, bfloat16; lse and glse float32 beside 16 bits; mask bool, true = attend
// Limits     1 <= D <= 512, Dv <= 512; any Sq, Sk, empty ones too. A key is hidden by the mask or by the triangle
//            (causal 1: key <= query; 2: key <= query + Sk - Sq). A hidden key takes no part, whatever it holds.
//            A row without a visible score above -inf gives 0, lse = -inf, and takes no part in gradients
// Algorithm  panels of 48 queries, one query per lane, against blocks of 128 keys: scores as [key][query], the softmax
//            down the columns, results as [d][query]; keys and values are read where they lie, one broadcast each.
//            Nothing of size Sq Sk is kept (but gbias, which is a result)
// Order      c = T(double(scale) log2(e)); q' = q c; s2 = the dot product of q' and k over d, in chunks of 256;
//            s2 = fma(bias, log2(e), s2). Key blocks count from key 0. In a block, with m the running maximum:
//            a = 2^(m_before - m), p = 2^(s2 - m), l = fma(l, a, sum of p in key order from +0),
//            O = fma(O, a, the fma chain of p v in key order from +0). Then y = O (1 / l) + 0, lse = fma(m, ln 2, log
//            l). Gradients: p = 2^fma(-log2(e), lse, s2); delta and gy.v are chunked dot products over Dv. gq adds the
//            chains of its key blocks, gk and gv those of the query panels, panels of 48 counted from query 0, query
//            heads of a group in order; scale multiplies last
// CUDA       float32 and float64 as above, and so are 16 bits (widened, rounded once) unless D and Dv are multiples of 8
//            up to 256: then tensor cores, padded to 32, 64, 96, 128 or 256. Sums of products go 16 at a time from
//            column, key or query 0 in one float32 accumulator; s2 = S c, then the bias; tiles of 64 keys from key 0,
//            32 if padded beyond 64; p and ds are rounded to the storage type before their products, l adds p unrounded:
//            lane t of four adds keys 8n + 2t and the next, n rising, and the lanes last, (0 + 1) + (2 + 3). A row's
//            bits still depend on nothing but itself and what it sees, and decode gives those of prefill. gq is one
//            kernel's, gk and gv another's (tiles of 64 queries, 32 if padded beyond 64, heads of a group in order). A
//            value seen that is infinite may come out as NaN
// Source     Dao et al. 2022, arXiv 2205.14135; online softmax: Milakov and Gimelshein 2018, arXiv 1805.02867
// Moves      q, y once; k, v once per panel, from cache
#pragma once

#include "../core/dispatch.h"

namespace mmk {

struct Attention {
    Tensor q, k, v, mask, bias, y, lse;
    int64_t causal = 0;
    double scale = 1;
    MMK_FIELDS(Attention, q, k, v, mask, bias, y, lse, causal, scale)
};
struct AttentionGrad {
    Tensor q, k, v, y, lse, gy, mask, bias, glse, gq, gk, gv;
    int64_t causal = 0;
    double scale = 1;
    MMK_FIELDS(AttentionGrad, q, k, v, y, lse, gy, mask, bias, glse, gq, gk, gv, causal, scale)
};
struct AttentionBiasGrad {
    Tensor q, k, v, y, lse, gy, mask, bias, glse, gbias;
    int64_t causal = 0;
    double scale = 1;
    MMK_FIELDS(AttentionBiasGrad, q, k, v, y, lse, gy, mask, bias, glse, gbias, causal, scale)
};

MMK_OPERATOR(attention, Attention)
MMK_OPERATOR(attention_grad, AttentionGrad)
MMK_OPERATOR(attention_bias_grad, AttentionBiasGrad)

} // namespace mmk
