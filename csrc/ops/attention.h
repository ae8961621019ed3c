// attention — softmax(scale q k^T + bias) v over the keys that a query sees, and its gradients.
// Computes   s = scale q.k; s = softcap tanh(s / softcap), if given; s += -slope |key - position|, the table's entry for
//            key - position, and the bias; p = exp(s - max s); y = sum p v / sum p; lse = max s + log(sum p), natural log;
//            a sink is one more score, in sum p alone
//            attention_grad: p = exp(s - lse), delta = sum(gy y) - glse, ds = p (gy.v - delta), dx = ds (1 - tanh^2);
//            gv = sum p gy, gq = scale sum dx k, gk = scale sum dx q;  attention_bias_grad: ds itself,
//            attention_shared_bias_grad: ds summed over items, of a bias that all share;
//            attention_table_grad: ds summed over the scores that read an entry;
//            attention_slopes_grad: -|key - position| ds summed over an item's head;
//            attention_sink_grad: -sum exp(sink - lse) delta over an item's rows and items
// Shapes     as in ops/attention.py; query head h reads key head h / (H / Hkv); what broadcasts does so by stride 0. The
//            leading extents *B have any strides: an item's number is taken apart once per task
// Types      float32, float64, float16, bfloat16; lse, glse, slopes and gslopes float32 beside 16 bits; mask bool, true = attend
// Limits     1 <= D <= 512, Dv <= 512; any Sq, Sk, empty ones too. Query i stands at position = i + offset: the operand
//            offset; else the item's keys - its queries where causal is 2; else 0. A key is hidden by the mask, by causal
//            (key > position), by the window (key < position - left, key > position + right), by key_lengths, and from
//            queries behind query_lengths. Integers out of range are clamped. A hidden key takes no part, whatever it holds.
//            A row without a visible score above -inf gives 0 and lse = -inf, or its sink, unless it is behind
//            query_lengths; rows of lse = -inf take no part in gradients
// Algorithm  panels of 48 queries, one query per lane, against blocks of 128 keys: scores as [key][query], the softmax
//            down the columns, results as [d][query]; keys and values are read where they lie, one broadcast each. Blocks
//            that the panel does not see are skipped. A panel of one query has keys, then columns, in its lanes. Nothing
//            of size Sq Sk is kept (but gbias, which is a result)
// Order      c = T(double(scale) log2(e)); q' = q c; s2 = the dot product of q' and k over d, in chunks of 256. With a
//            soft cap c = T(double(scale) / softcap), t = tanh(s2), s2 = t T(softcap log2(e)).
//            s2 = fma(r, log2(e), s2), r = fma(-slope, |key - position|, the table's entry or 0), or the entry alone;
//            s2 = fma(bias, log2(e), s2). Key blocks count from key 0. In a block, with m the running maximum:
//            a = 2^(m_before - m), p = 2^(s2 - m), l = fma(l, a, sum of p in key order from +0),
//            O = fma(O, a, the fma chain of p v in key order from +0). A sink, last: n = max(m, sink log2(e)),
//            a = 2^(m - n), l = fma(l, a, 2^(sink log2(e) - n)), O = O a, m = n. Then y = O (1 / l) + 0, lse = fma(m, ln 2,
//            log l). Gradients: p = 2^fma(-log2(e), lse, s2); delta and gy.v are chunked dot products over Dv;
//            dx = ds fma(-t, t, 1). gq adds the chains of its key blocks, gk and gv those of the query panels, panels of 48
//            counted from query 0, query heads of a group in order; scale multiplies last. A shared bias's: items add in
//            order, from +0 in every 32, then those sums. gtable: D(x), x = key - i + 47 with i counted in the panel, adds
//            ds in order of i; each entry adds D over the panels of a segment of 16; what lies at or beyond an end adds to
//            lane x % 128 and the lanes last, in order; then items and segments add in order, item slowest. gslopes: a
//            segment's lane x % 128 takes fma(-|distance|, D(x), lane) over its panels, the lanes are added last, in
//            order, then the segments; packed, those of all sequences, sequence slowest. gsink is 0 - the long sum of
//            exp(sink - lse) delta, item slowest
// CUDA       float32 and float64 as above, and so are 16 bits (widened, rounded once) unless D and Dv are multiples of 8
//            up to 256 and no slopes, table or soft cap is given (masks, biases, windows, lengths, offsets, sinks and the
//            packed form are served): then tensor cores, padded to 32, 64, 96, 128 or 256. Sums of products go 16 at a time from column, key or query 0 in one float32 accumulator; s2 = S c, then the
//            bias; tiles of 64 keys from key 0, 32 if padded beyond 64; p and ds are rounded to the storage type before
//            their products, l adds p unrounded: lane t of four adds keys 8n + 2t and the next, n rising, and the lanes
//            last, (0 + 1) + (2 + 3). A row's bits still depend on nothing but itself and what it sees, and decode gives
//            those of prefill. gq is one kernel's, gk and gv another's (tiles of 64 queries, 32 if padded beyond 64, heads
//            of a group in order). A value seen that is infinite may come out as NaN. gtable, gslopes and a shared bias's
//            gradient are the scalar kernel's in every type, a block a segment of an item's head, or of items.
//            MMK_CUDA_ARCH=sm_90a on Hopper: 16 bits by wgmma, forward without mask and bias
//            (csrc/cuda/attention.sm90.cu), backward without any hidden key and up to 128 columns
//            (attention.grad.sm90.cu)
// Source     Dao et al. 2022, arXiv 2205.14135; online softmax: Milakov and Gimelshein 2018, arXiv 1805.02867
// Moves      q, y once; k, v once per panel, from cache
#pragma once

#include "../core/dispatch.h"

namespace mmk {

struct Attention {
    Tensor q, k, v, mask, bias, sink, slopes, table, offset, key_lengths, query_lengths, y, lse;
    int64_t causal = 0;
    double scale = 1;
    int64_t window[2] = {-1, -1};
    double softcap = 0;
    MMK_FIELDS(Attention, q, k, v, mask, bias, sink, slopes, table, offset, key_lengths, query_lengths, y, lse, causal,
               scale, window, softcap)
    Tensor query_starts, key_starts; // of the packed form alone: its items follow one another along Sq and Sk
};
struct AttentionGrad {
    Tensor q, k, v, y, lse, gy, mask, bias, glse, slopes, table, offset, key_lengths, query_lengths, gq, gk, gv;
    int64_t causal = 0;
    double scale = 1;
    int64_t window[2] = {-1, -1};
    double softcap = 0;
    MMK_FIELDS(AttentionGrad, q, k, v, y, lse, gy, mask, bias, glse, slopes, table, offset, key_lengths, query_lengths,
               gq, gk, gv, causal, scale, window, softcap)
    Tensor query_starts, key_starts;
};
struct AttentionBiasGrad {
    Tensor q, k, v, y, lse, gy, mask, bias, glse, slopes, table, offset, key_lengths, query_lengths, gbias;
    int64_t causal = 0;
    double scale = 1;
    int64_t window[2] = {-1, -1};
    double softcap = 0;
    MMK_FIELDS(AttentionBiasGrad, q, k, v, y, lse, gy, mask, bias, glse, slopes, table, offset, key_lengths,
               query_lengths, gbias, causal, scale, window, softcap)
    Tensor query_starts, key_starts;
};
struct AttentionSharedBiasGrad {
    Tensor q, k, v, y, lse, gy, mask, bias, glse, slopes, table, offset, key_lengths, query_lengths, gbias;
    int64_t causal = 0;
    double scale = 1;
    int64_t window[2] = {-1, -1};
    double softcap = 0;
    MMK_FIELDS(AttentionSharedBiasGrad, q, k, v, y, lse, gy, mask, bias, glse, slopes, table, offset, key_lengths,
               query_lengths, gbias, causal, scale, window, softcap)
    Tensor query_starts, key_starts;
};
struct AttentionTableGrad {
    Tensor q, k, v, y, lse, gy, mask, bias, glse, slopes, table, offset, key_lengths, query_lengths, gtable;
    int64_t causal = 0;
    double scale = 1;
    int64_t window[2] = {-1, -1};
    double softcap = 0;
    MMK_FIELDS(AttentionTableGrad, q, k, v, y, lse, gy, mask, bias, glse, slopes, table, offset, key_lengths,
               query_lengths, gtable, causal, scale, window, softcap)
    Tensor query_starts, key_starts;
};
struct AttentionSlopesGrad {
    Tensor q, k, v, y, lse, gy, mask, bias, glse, slopes, table, offset, key_lengths, query_lengths, gslopes;
    int64_t causal = 0;
    double scale = 1;
    int64_t window[2] = {-1, -1};
    double softcap = 0;
    MMK_FIELDS(AttentionSlopesGrad, q, k, v, y, lse, gy, mask, bias, glse, slopes, table, offset, key_lengths,
               query_lengths, gslopes, causal, scale, window, softcap)
    Tensor query_starts, key_starts;
};
struct AttentionSinkGrad {
    Tensor y, lse, gy, sink, glse, gsink;
    MMK_FIELDS(AttentionSinkGrad, y, lse, gy, sink, glse, gsink)
};

// additive_attention — the attention of Bahdanau et al. 2015 over queries and keys that are projected already.
// Computes   s = sum of weight tanh(q + k) over A; y, lse as above; its gradients: gq = weight sum ds (1 - tanh^2) over keys,
//            gk the same over queries, gv = sum p gy, gweight = sum ds tanh;  additive_attention_weights: exp(s - lse)
// Limits     any extents. A row that the mask hides everything from gives 0 and lse = -inf, and no gradients
// Algorithm  16 lanes are 16 numbers of A, so that every operand is read as it lies; tanh is found again where it is
//            needed. Nothing of size Tq Tk A is kept, and of size Tq Tk only the weights, which are a result
// Order      s, gy.v and delta = gy.y - glse: element a goes to lane a % 16, which takes fma(weight, tanh(q + k), lane) from
//            +0, a rising; the lanes are added as 8, 4, 2, 1; s2 = s log2(e). The softmax as above, blocks of 128 keys from
//            key 0. Gradients: ds = p (gy.v - delta); a block's chain is fma(ds, fma(-t, t, 1), chain), from +0 over its keys
//            (gq) or queries (gk), blocks of 128 are added in order, weight multiplies last; gv the same with fma(p, gy,
//            chain). gweight: a query's chain of fma(ds, t, chain) over all its keys; 128 queries are added in order, then
//            those sums, item slowest
// CUDA       as above in every type; 16 bits are widened, and rounded once
// Source     Bahdanau, Cho and Bengio 2015, arXiv 1409.0473, section A.1.2
// Moves      q, y once; k, v once per query, from cache
struct AdditiveAttention {
    Tensor q, k, v, weight, mask, y, lse;
    MMK_FIELDS(AdditiveAttention, q, k, v, weight, mask, y, lse)
};
struct AdditiveAttentionGrad {
    Tensor q, k, v, weight, y, lse, gy, mask, glse, gq, gk, gv, gweight;
    MMK_FIELDS(AdditiveAttentionGrad, q, k, v, weight, y, lse, gy, mask, glse, gq, gk, gv, gweight)
};
struct AdditiveAttentionWeights {
    Tensor q, k, weight, lse, mask, weights;
    MMK_FIELDS(AdditiveAttentionWeights, q, k, weight, lse, mask, weights)
};

MMK_OPERATOR(additive_attention, AdditiveAttention)
MMK_OPERATOR(additive_attention_grad, AdditiveAttentionGrad)
MMK_OPERATOR(additive_attention_weights, AdditiveAttentionWeights)

// attention_packed — attention over sequences that follow one another along Tq and Tk, [T H D]; lse is [H Tq].
// A start below an earlier one counts as that one. Rows that are no sequence's give 0, lse = -inf, and gradients of 0.
struct AttentionPacked {
    Tensor q, k, v, query_starts, key_starts, sink, slopes, y, lse;
    int64_t causal = 0;
    double scale = 1;
    int64_t window[2] = {-1, -1};
    double softcap = 0;
    int64_t max_queries = -1, max_keys = -1;
    MMK_FIELDS(AttentionPacked, q, k, v, query_starts, key_starts, sink, slopes, y, lse, causal, scale, window, softcap,
               max_queries, max_keys)
};
struct AttentionPackedGrad {
    Tensor q, k, v, y, lse, gy, query_starts, key_starts, glse, slopes, gq, gk, gv;
    int64_t causal = 0;
    double scale = 1;
    int64_t window[2] = {-1, -1};
    double softcap = 0;
    int64_t max_queries = -1, max_keys = -1;
    MMK_FIELDS(AttentionPackedGrad, q, k, v, y, lse, gy, query_starts, key_starts, glse, slopes, gq, gk, gv, causal,
               scale, window, softcap, max_queries, max_keys)
};
struct AttentionPackedSlopesGrad {
    Tensor q, k, v, y, lse, gy, query_starts, key_starts, glse, slopes, gslopes;
    int64_t causal = 0;
    double scale = 1;
    int64_t window[2] = {-1, -1};
    double softcap = 0;
    int64_t max_queries = -1, max_keys = -1;
    MMK_FIELDS(AttentionPackedSlopesGrad, q, k, v, y, lse, gy, query_starts, key_starts, glse, slopes, gslopes, causal,
               scale, window, softcap, max_queries, max_keys)
};

MMK_OPERATOR(attention_packed, AttentionPacked)
MMK_OPERATOR(attention_packed_grad, AttentionPackedGrad)
MMK_OPERATOR(attention_packed_slopes_grad, AttentionPackedSlopesGrad)

MMK_OPERATOR(attention, Attention)
MMK_OPERATOR(attention_grad, AttentionGrad)
MMK_OPERATOR(attention_bias_grad, AttentionBiasGrad)
MMK_OPERATOR(attention_shared_bias_grad, AttentionSharedBiasGrad)
MMK_OPERATOR(attention_table_grad, AttentionTableGrad)
MMK_OPERATOR(attention_slopes_grad, AttentionSlopesGrad)
MMK_OPERATOR(attention_sink_grad, AttentionSinkGrad)

// ---- the packed form as the padded one --------------------------------------------------------------------------------

// [T H D] as [sequence H row D]: all sequences begin at row 0, and their starts are added where they are read.
MMK_INLINE Tensor packed_view(const Tensor& x, int64_t sequences, int64_t most) {
    Tensor view = x;
    if (!x) return view;
    view.rank = 4;
    view.extent[0] = sequences, view.extent[1] = x.extent[1], view.extent[2] = most, view.extent[3] = x.extent[2];
    view.stride[0] = 0, view.stride[1] = x.stride[1], view.stride[2] = x.stride[0], view.stride[3] = x.stride[2];
    return view;
}
// Starts that rise, int64, one beside the other; `rows` is what they end at most at.
MMK_INLINE Tensor packed_starts(const Tensor& like, const int64_t* starts, int64_t rows) {
    Tensor x = like;
    x.data = const_cast<int64_t*>(starts), x.dtype = DType::int64, x.stride[0] = 1, x.stride[1] = rows;
    return x;
}
// What both operators, `op`, have in common with their padded ones. Starts come from the floor.
template <class Op, class Packed> MMK_INLINE void share_packed(Op& op, const Packed& packed, const Tensor& query_starts,
                                                               const Tensor& key_starts, int64_t queries,
                                                               int64_t keys) {
    const int64_t sequences = packed.query_starts.extent[0] - 1;
    op.q = packed_view(packed.q, sequences, queries), op.k = packed_view(packed.k, sequences, keys);
    op.v = packed_view(packed.v, sequences, keys), op.y = packed_view(packed.y, sequences, queries);
    op.lse = packed.lse, op.slopes = packed.slopes;
    if (packed.slopes) {
        op.slopes.rank = 2, op.slopes.extent[0] = sequences, op.slopes.extent[1] = packed.slopes.extent[0];
        op.slopes.stride[1] = packed.slopes.stride[0], op.slopes.stride[0] = 0;
    }
    op.causal = packed.causal, op.scale = packed.scale, op.softcap = packed.softcap;
    op.window[0] = packed.window[0], op.window[1] = packed.window[1];
    op.query_starts = query_starts, op.key_starts = key_starts;
}

// Items whose sum a shared bias's gradient begins anew: what a GPU's blocks share work by, and memory is 1 / 32 of ds.
inline constexpr int64_t shared_bias_items = 32;

// ---- what both floors read of an operator ----------------------------------------------------------------------------

// The leading extents of all operands; an item's number counts through them, the last fastest.
struct AttentionBatch {
    int32_t rank = 0;
    int64_t extent[5] = {};

    MMK_MEMBER int64_t size() const {
        int64_t n = 1;
        for (int i = 0; i < rank; ++i) n *= extent[i];
        return n;
    }
    MMK_MEMBER int64_t offset(const int64_t (&stride)[5], int64_t item) const {
        if (rank == 1) return item * stride[0];
        int64_t at = 0;
        for (int i = 4; i >= 0; --i) // a fixed count, so that a device indexes its parameters by constants
            if (i < rank) at += item % extent[i] * stride[i], item /= extent[i];
        return at;
    }
};
MMK_INLINE AttentionBatch batch_of(const Tensor& q) {
    AttentionBatch batch;
    batch.rank = q.rank - 3;
    for (int i = 0; i < 5; ++i) batch.extent[i] = i < batch.rank ? q.extent[i] : 1;
    return batch;
}
MMK_INLINE void copy_strides(int64_t (&to)[5], const Tensor& x) {
    for (int i = 0; i < 5; ++i) to[i] = x.stride[i];
}

// Integers of an item; null where the operand is not given.
struct AttentionIntegers {
    const void* data = nullptr;
    bool wide = true;
    int64_t stride[5] = {};

    AttentionIntegers() = default;
    MMK_MEMBER explicit AttentionIntegers(const Tensor& x) : data(x.data), wide(x.dtype == DType::int64) {
        copy_strides(stride, x);
    }
    MMK_MEMBER int64_t at(int64_t index) const {
        return wide ? static_cast<const int64_t*>(data)[index] : int64_t(static_cast<const int32_t*>(data)[index]);
    }
    // Of an item, between low and high.
    MMK_MEMBER int64_t of(const AttentionBatch& batch, int64_t item, int64_t low, int64_t high) const {
        const int64_t x = at(batch.offset(stride, item));
        return x < low ? low : x > high ? high : x;
    }
};

// What an item's queries see: query i the keys [start(i), limit(i)), both rising with i; positions are i + position.
struct AttentionItem {
    int64_t queries, keys; // that are real
    int64_t diagonal, lower, position;
    int64_t query_start, key_start; // where its rows begin, in the packed form

    MMK_MEMBER int64_t limit(int64_t query) const {
        const int64_t end = query < queries ? query + diagonal : 0;
        return end < 0 ? 0 : end > keys ? keys : end;
    }
    MMK_MEMBER int64_t start(int64_t query) const {
        const int64_t begin = query + lower;
        return begin < 0 ? 0 : begin > keys ? keys : begin;
    }
};

struct AttentionRule {
    static constexpr int64_t open = int64_t(1) << 40;
    AttentionBatch batch;
    int64_t queries, keys; // extents: of an item, but of all in the packed form
    int64_t causal, left, right;
    AttentionIntegers offset, key_lengths, query_lengths, query_starts, key_starts;

    template <class Op> MMK_MEMBER explicit AttentionRule(const Op& op)
        : batch(batch_of(op.q)), queries(op.q.extent_at(-2)), keys(op.k.extent_at(-2)), causal(op.causal),
          left(reach(op.window[0])), right(reach(op.window[1])), offset(op.offset), key_lengths(op.key_lengths),
          query_lengths(op.query_lengths), query_starts(op.query_starts), key_starts(op.key_starts) {}
    MMK_MEMBER static int64_t reach(int64_t length) { return length < 0 || length > open ? open : length; }
    MMK_MEMBER bool packed() const { return query_starts.data != nullptr; }
    // Whether some queries see fewer keys than others of their item, or than there are.
    MMK_MEMBER bool lengths() const { return key_lengths.data || query_lengths.data || packed(); }

    MMK_MEMBER AttentionItem item(int64_t b) const {
        AttentionItem it{queries, keys, 0, -left, 0, 0, 0};
        if (packed()) {
            it.query_start = clamped(query_starts.at(b), 0, query_lengths_most());
            it.key_start = clamped(key_starts.at(b), 0, key_lengths_most());
            it.queries = clamped(query_starts.at(b + 1), it.query_start, query_lengths_most()) - it.query_start;
            it.keys = clamped(key_starts.at(b + 1), it.key_start, key_lengths_most()) - it.key_start;
            it.queries = it.queries > queries ? queries : it.queries;
            it.keys = it.keys > keys ? keys : it.keys;
        }
        if (key_lengths.data) it.keys = key_lengths.of(batch, b, 0, keys);
        if (query_lengths.data) it.queries = query_lengths.of(batch, b, 0, queries);
        if (offset.data)
            it.position = offset.of(batch, b, -queries, keys);
        else if (causal == 2)
            it.position = it.keys - it.queries;
        it.lower = it.position - left;
        it.diagonal = it.position + 1 + (causal ? 0 : right);
        return it;
    }
    // Where the rows of a head begin among those of [*B H Sq]; [H, all queries] in the packed form.
    MMK_MEMBER int64_t row(int64_t heads, int64_t b, int64_t h) const {
        return packed() ? h * query_lengths_most() : (b * heads + h) * queries;
    }
    // In the packed form the strides of the starts hold how many rows there are.
    MMK_MEMBER int64_t query_lengths_most() const { return query_starts.stride[1]; }
    MMK_MEMBER int64_t key_lengths_most() const { return key_starts.stride[1]; }
    MMK_MEMBER static int64_t clamped(int64_t x, int64_t low, int64_t high) {
        return x < low ? low : x > high ? high : x;
    }
};

} // namespace mmk
