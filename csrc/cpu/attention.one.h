// The products of a panel of one query, as in decoding: a query per lane would leave fifteen of sixteen idle, so scores
// have a key per lane and results a column. The chains are those of attention.tile.h; what they give is written to all
// lanes of the one query.
#pragma once

#include "attention.tile.h"

namespace mmk::cpu::MMK_ISA {

// sums[key] += q.k over `some` <= 16 numbers of the keys [0, count); query: one number every sixteen.
MMK_INLINE void add_keys(const float* keys, int64_t key_row, int64_t count, const float* query, int64_t some,
                         float* sums) {
    for (int64_t first = 0; first < count; first += lanes) {
        Vec<float> v[lanes];
#pragma GCC unroll 16
        for (int i = 0; i < lanes; ++i)
            v[i] = Vec<float>::load(keys + (first + i < count ? first + i : count - 1) * key_row, some);
        transpose(v);
        Vec<float> sum = Vec<float>::load(sums + first);
        for (int64_t j = 0; j < some; ++j) sum = fma(v[j], Vec<float>(query[j * lanes]), sum);
        sum.store(sums + first);
    }
}
// As multiply_chunked with keys as a and the query as b.
MMK_INLINE void scores_of_one(const float* keys, int64_t key_row, int64_t depth, const float* query, int64_t count,
                              float* scores) {
    constexpr int64_t chunk = 256;
    float sums[key_block], total[key_block];
    for (int64_t d = 0; d < depth; d += chunk) {
        const int64_t stop = d + chunk < depth ? d + chunk : depth;
        for (int64_t k = 0; k < key_block; ++k) sums[k] = 0;
        for (int64_t e = d; e < stop; e += lanes)
            add_keys(keys + e, key_row, count, query + e * lanes, stop - e < lanes ? stop - e : int64_t(lanes), sums);
        for (int64_t k = 0; k < key_block; ++k) total[k] = d == 0 ? sums[k] : total[k] + sums[k];
    }
    for (int64_t k = 0; k < count; ++k) Vec<float>(total[k]).store(scores + k * lanes);
}

// As multiply with values as a and p, of which one number every sixteen is read, as b.
template <int vectors> MMK_FLATTEN void results_of_one(const Product<float>& p, int64_t first, int64_t columns) {
    Vec<float> sum[vectors];
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) sum[j] = Vec<float>::zero();
    for (int64_t k = 0; k < p.count; ++k) {
        const Vec<float> weight(p.b[k * lanes]);
#pragma GCC unroll 4
        for (int j = 0; j < vectors; ++j)
            sum[j] = fma(Vec<float>::load(p.a + k * p.a_step + first + j * lanes, columns - j * lanes), weight, sum[j]);
    }
    float chain[vectors * lanes];
    for (int j = 0; j < vectors; ++j) sum[j].store(chain + j * lanes);
    for (int64_t d = 0; d < columns && d < vectors * lanes; ++d) {
        float* const c = p.c + (first + d) * lanes;
        const float value = p.into == Into::rescale ? fma_scalar(c[0], p.factor[0], chain[d]) : chain[d];
        Vec<float>(value).store(c);
    }
}
MMK_INLINE void values_of_one(const Product<float>& p, int64_t columns) {
    int64_t d = 0;
    for (; d + 3 * lanes < columns; d += 4 * lanes) results_of_one<4>(p, d, columns - d);
    for (; d < columns; d += lanes) results_of_one<1>(p, d, columns - d);
}

// The scores of `keys` keys, and what values add to the results of `columns` columns.
template <class T>
MMK_INLINE void multiply_keys(const Product<T>& product, int64_t queries, int64_t keys, int vectors) {
    if constexpr (sizeof(T) == 4)
        if (queries == 1) return scores_of_one(product.a, product.a_row, product.count, product.b, keys, product.c);
    multiply_chunked<T>(product, keys, vectors);
}
template <class T>
MMK_INLINE void multiply_values(const Product<T>& product, int64_t queries, int64_t columns, int vectors) {
    if constexpr (sizeof(T) == 4)
        if (queries == 1) return values_of_one(product, columns);
    multiply(product, columns, vectors);
}

} // namespace mmk::cpu::MMK_ISA
