// The matrix product of attention and its gradient, and transposes between rows and lanes.
#pragma once

#include "../core/simd.h"

namespace mmk::cpu::MMK_ISA {

using namespace mmk::MMK_ISA;

inline constexpr int64_t key_block = 128;

// What becomes of a chain of products that is done.
enum class Into {
    store,  // c = chain
    add,    // c = c + chain
    rescale // c = fma(c, factor, chain), one factor per column
};

// c[i][j] from the chain over k of a[i * a_row + k * a_step] * b[k * b_row + j], k rising from +0.
// a is read one number at a time, b and c in vectors along j.
template <class T> struct Product {
    const T* a;
    int64_t a_row, a_step;
    const T* b;
    int64_t b_row;
    int64_t count; // of k
    T* c;
    int64_t c_row;
    Into into = Into::store;
    const T* factor = nullptr;
};

// Accumulators in registers: rows x columns vectors. 8 x 3 of 32 zmm, 6 x (2 ymm) of 16; more or fewer change no bit.
template <class T> struct TileShape {
#if defined(__AVX512F__)
    static constexpr int rows = 8, columns = Vec<T>::registers == 1 ? 3 : 1;
#elif defined(__AVX2__)
    static constexpr int rows = Vec<T>::registers == 2 ? 6 : 3, columns = 1;
#else
    static constexpr int rows = 2, columns = 1;
#endif
};

// fma of one register. Accumulators are arrays of registers: g++ keeps a copy of an array of Vec in memory, and writes
// it at every step, where a Vec has several registers.
template <class T>
MMK_INLINE typename Vec<T>::Reg fma_register(typename Vec<T>::Reg a, typename Vec<T>::Reg b, typename Vec<T>::Reg c) {
    using Reg [[maybe_unused]] = typename Vec<T>::Reg;
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, float>)
        return (Reg)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
    else
        return (Reg)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__AVX2__)
    if constexpr (std::is_same_v<T, float>)
        return (Reg)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
    else
        return (Reg)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
    for (int i = 0; i < Vec<T>::per_register; ++i) c[i] = fma_scalar(T(a[i]), T(b[i]), T(c[i]));
    return c;
#endif
}
template <class Reg, class T> MMK_INLINE Reg load_register(const T* p) {
    Reg r;
    std::memcpy(&r, p, sizeof r);
    return r;
}

template <class T, int rows, int columns>
__attribute__((noinline)) void tile(const Product<T>& product, int64_t row, int64_t column) {
    using Reg = typename Vec<T>::Reg;
    constexpr int width = Vec<T>::per_register, registers = columns * Vec<T>::registers;
    const T* a[rows];
    const T* b = product.b + column;
    const int64_t a_step = product.a_step, b_row = product.b_row;
    Reg sum[rows][registers];
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
        a[i] = product.a + (row + i) * product.a_row;
#pragma GCC unroll 8
        for (int j = 0; j < registers; ++j) sum[i][j] = Reg{};
    }
    int64_t at = 0;
    for (int64_t k = product.count; k > 0; --k) {
        Reg x[registers];
#pragma GCC unroll 8
        for (int j = 0; j < registers; ++j) x[j] = load_register<Reg>(b + j * width);
#pragma GCC unroll 8
        for (int i = 0; i < rows; ++i) {
            const Reg w = a[i][at] - Reg{};
#pragma GCC unroll 8
            for (int j = 0; j < registers; ++j) sum[i][j] = fma_register<T>(w, x[j], sum[i][j]);
        }
        at += a_step;
        b += b_row;
    }
    T* const c = product.c + row * product.c_row + column;
    const T* const factor = product.factor + column;
    const Into into = product.into;
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < registers; ++j) {
            T* const p = c + i * product.c_row + j * width;
            if (into == Into::add) sum[i][j] = load_register<Reg>(p) + sum[i][j];
            if (into == Into::rescale)
                sum[i][j] = fma_register<T>(load_register<Reg>(p), load_register<Reg>(factor + j * width), sum[i][j]);
            std::memcpy(p, &sum[i][j], sizeof(Reg));
        }
}

template <class T, int rows> MMK_INLINE void tile_row(const Product<T>& product, int64_t row, int vectors) {
    constexpr int most = TileShape<T>::columns;
    for (int j = 0; j < vectors;) {
        const int left = vectors - j, take = left == 4 && most == 3 ? 2 : left < most ? left : most;
        if constexpr (most == 3) {
            if (take == 3) tile<T, rows, 3>(product, row, j * lanes);
            if (take == 2) tile<T, rows, 2>(product, row, j * lanes);
            if (take == 1) tile<T, rows, 1>(product, row, j * lanes);
        } else {
            tile<T, rows, 1>(product, row, j * lanes);
        }
        j += take;
    }
}

// Rows [0, rows), 16 * vectors columns.
template <class T> void multiply(const Product<T>& product, int64_t rows, int vectors) {
    constexpr int most = TileShape<T>::rows;
    int64_t i = 0;
    for (; i + most <= rows; i += most) tile_row<T, most>(product, i, vectors);
    if constexpr (most > 4)
        if (i + 4 <= rows) tile_row<T, 4>(product, i, vectors), i += 4;
    if constexpr (most > 2)
        if (i + 2 <= rows) tile_row<T, 2>(product, i, vectors), i += 2;
    if (i < rows) tile_row<T, 1>(product, i, vectors);
}

// Dot products over `count` numbers in chunks of at most 256, the chunks added in order.
template <class T> void multiply_chunked(Product<T> product, int64_t rows, int vectors) {
    constexpr int64_t chunk = 256;
    const int64_t count = product.count;
    product.count = count < chunk ? count : chunk;
    multiply(product, rows, vectors);
    product.into = Into::add;
    for (int64_t k = chunk; k < count; k += chunk) {
        product.a += chunk * product.a_step;
        product.b += chunk * product.b_row;
        product.count = count - k < chunk ? count - k : chunk;
        multiply(product, rows, vectors);
    }
}

// Sixteen vectors as the rows of a square, turned into its columns: four perfect shuffles of the whole.
MMK_INLINE void transpose(Vec<float> (&v)[lanes]) {
#pragma GCC unroll 4
    for (int round = 0; round < 4; ++round) {
        Vec<float> w[lanes];
#pragma GCC unroll 8
        for (int i = 0; i < lanes / 2; ++i) interleave(v[i], v[i + lanes / 2], w[2 * i], w[2 * i + 1]);
#pragma GCC unroll 16
        for (int i = 0; i < lanes; ++i) v[i] = w[i];
    }
}

// Where the square of 16 columns after the one at c begins; the last one overlaps its neighbour.
MMK_INLINE int64_t next_square(int64_t c, int64_t columns) {
    return c + 2 * lanes <= columns || c + lanes >= columns ? c + lanes : columns - lanes;
}

// to[c * to_row + r] = from[r * from_row + c * from_step] * factor, for r in [0, 16 * vectors), c in [0, columns);
// rows from `rows` on repeat the last one, so that idle lanes hold numbers like the others.
template <class T> void rows_to_lanes(const T* from, int64_t from_row, int64_t from_step, int64_t rows, int64_t columns,
                                      T* to, int64_t to_row, int vectors, T factor) {
    for (int64_t first = 0; first < vectors * lanes; first += lanes) {
        const T* row[lanes];
        for (int i = 0; i < lanes; ++i) row[i] = from + (first + i < rows ? first + i : rows - 1) * from_row;
        T* const block = to + first;
        if constexpr (sizeof(T) == 4)
            if (columns >= lanes && from_step == 1) {
                for (int64_t c = 0; c < columns; c = next_square(c, columns)) {
                    Vec<float> v[lanes];
#pragma GCC unroll 16
                    for (int i = 0; i < lanes; ++i) v[i] = Vec<float>::load(row[i] + c) * Vec<float>(factor);
                    transpose(v);
#pragma GCC unroll 16
                    for (int i = 0; i < lanes; ++i) v[i].store(block + (c + i) * to_row);
                }
                continue;
            }
        for (int i = 0; i < lanes; ++i)
            for (int64_t c = 0; c < columns; ++c) block[c * to_row + i] = row[i][c * from_step] * factor;
    }
}

// to[r * to_row + c] = from[c * from_row + r] for r in [0, rows), c in [0, columns).
template <class T>
void lanes_to_rows(const T* from, int64_t from_row, int64_t rows, int64_t columns, T* to, int64_t to_row) {
    for (int64_t first = 0; first < rows; first += lanes) {
        const int64_t n = rows - first < lanes ? rows - first : lanes;
        const T* const block = from + first;
        if constexpr (sizeof(T) == 4)
            if (columns >= lanes) {
                for (int64_t c = 0; c < columns; c = next_square(c, columns)) {
                    Vec<float> v[lanes];
#pragma GCC unroll 16
                    for (int i = 0; i < lanes; ++i) v[i] = Vec<float>::load(block + (c + i) * from_row);
                    transpose(v);
#pragma GCC unroll 16
                    for (int i = 0; i < lanes; ++i)
                        if (i < n) v[i].store(to + (first + i) * to_row + c);
                }
                continue;
            }
        for (int64_t i = 0; i < n; ++i)
            for (int64_t c = 0; c < columns; ++c) to[(first + i) * to_row + c] = block[c * from_row + i];
    }
}

} // namespace mmk::cpu::MMK_ISA
