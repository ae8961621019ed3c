// Sums over rows, one for each column: 64 rows in order from +0, such chunks joined in the long sum's tree.
#pragma once

#include "../core/context.h"
#include "../core/reduce.h"

namespace mmk::cpu::MMK_ISA {

using namespace mmk::MMK_ISA;

inline constexpr int64_t rows_a_chunk = 64;

// The first n lanes; the others are zero.
template <class T> MMK_INLINE Vec<T> first_lanes(Vec<T> v, int64_t n) {
    if (n >= lanes) return v;
    T s[lanes];
    v.store(s);
    return Vec<T>::load(s, n);
}

// out[column] = the sum over rows of term(row, column, n), which gives 16 columns at a time.
template <class T, class Term>
void column_sums(Context& context, int64_t rows, int64_t columns, T* out, const Term& term) {
    constexpr int wide = 4;         // vectors side by side, so that a visit to a row reads whole lines
    constexpr int64_t grain = 4096; // elements for which a second thread pays
    const int64_t width = wide * lanes, blocks = (columns + width - 1) / width;
    parallel_ranges(context, blocks, 1 + grain / (width * (1 + rows)), [&](int64_t begin, int64_t end, int) {
        for (int64_t block = begin; block < end; ++block) {
            const int64_t first = block * width, left = columns - first;
            const int vectors = left >= width ? wide : int((left + lanes - 1) / lanes);
            ChunkTree<T> tree[wide];
            for (int64_t chunk = 0; chunk < rows; chunk += rows_a_chunk) {
                const int64_t stop = chunk + rows_a_chunk < rows ? chunk + rows_a_chunk : rows;
                Vec<T> sum[wide];
                for (int k = 0; k < wide; ++k) sum[k] = Vec<T>::zero();
                if (left >= width)
                    for (int64_t row = chunk; row < stop; ++row)
#pragma GCC unroll 4
                        for (int k = 0; k < wide; ++k) sum[k] = sum[k] + term(row, first + k * lanes, int64_t(lanes));
                else
                    for (int64_t row = chunk; row < stop; ++row)
                        for (int k = 0; k < vectors; ++k)
                            sum[k] = sum[k] + term(row, first + k * lanes, left - k * lanes);
                for (int k = 0; k < vectors; ++k) tree[k].add(sum[k]);
            }
            for (int k = 0; k < vectors; ++k) tree[k].total().store(out + first + k * lanes, left - k * lanes);
        }
    });
}

} // namespace mmk::cpu::MMK_ISA
