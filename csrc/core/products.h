// Sums of products, the work of convolutions and matrix products. One kernel serves them all:
//     sums[m][n] = sum over t of a[row[m] + offset[t]] * b[t][n]
// A table of offsets, shared by all rows, makes the dimensions of an image disappear: t runs over (c, kh, kw) of a
// convolution, over (n, p, q) of its weight gradient, over k of a matrix product.
// The arithmetic: t is cut into chunks; each chunk is a chain of fma from +0; the first chunk is the sum, the others
// are added to it in order; then comes the bias, or +0; then the residual, then the activation. Every kernel below
// keeps to it, whatever its tile and whatever its lanes stand for, so any of them may compute any result.
#pragma once

#include "activate.h"

namespace mmk::MMK_ISA {

inline constexpr int64_t chunk_products = 256;

// The most whole channels, of `taps` products each, that make no more than 256 products; at least one channel.
MMK_INLINE int64_t chunk_channels(int64_t taps) {
    return taps >= chunk_products || taps < 1 ? 1 : chunk_products / taps;
}

// Accumulators fill the registers but for one factor from each side: 32 zmm, or 16 ymm.
template <class T> struct ProductShape {
    static constexpr bool is_float = sizeof(T) == 4;
#if defined(__AVX512F__)
    static constexpr int rows = 14, vectors = is_float ? 2 : 1;            // lanes along n
    static constexpr int pixel_rows = 6, pixel_vectors = is_float ? 4 : 2; // lanes along pixels
#elif defined(__AVX2__)
    static constexpr int rows = is_float ? 6 : 2, vectors = 1;
    static constexpr int pixel_rows = is_float ? 3 : 2, pixel_vectors = is_float ? 2 : 1;
#else
    static constexpr int rows = 2, vectors = 1;
    static constexpr int pixel_rows = 2, pixel_vectors = 1;
#endif
    static constexpr int width = vectors * lanes; // of a panel
    static constexpr int block = 16 * rows;       // rows that one task works through
};

// Products [begin, end) of every chunk of the tile. `first`: the tile's sums begin here, else they continue.
template <class T> struct TileWork {
    const T* const* row; // a's rows
    const int64_t* offset;
    int64_t begin, end, chunk;
    const T* b;
    T* sums;
    int64_t sums_stride;
    bool first;
};
template <class T> using Tile = void (*)(const TileWork<T>&);

namespace detail {

#define MMK_UNROLL _Pragma("GCC unroll 16")

template <class T, int rows, int vectors>
MMK_INLINE void add_chunk(const TileWork<T>& w, const Vec<T> (&sum)[rows][vectors], bool first) {
    MMK_UNROLL for (int i = 0; i < rows; ++i) MMK_UNROLL for (int j = 0; j < vectors; ++j) {
        T* const p = w.sums + i * w.sums_stride + j * lanes;
        (first ? sum[i][j] : Vec<T>::load(p) + sum[i][j]).store(p);
    }
}

// Lanes along n: b is a panel, [t][vectors * 16] from w.begin on.
template <class T, int rows, int vectors> __attribute__((noinline)) void panel_tile(const TileWork<T>& w) {
    const T* row[rows];
    MMK_UNROLL for (int i = 0; i < rows; ++i) row[i] = w.row[i];
    const T* b = w.b;
    bool first = w.first;
    int64_t t = w.begin;
    do {
        const int64_t stop = t + w.chunk < w.end ? t + w.chunk : w.end;
        Vec<T> sum[rows][vectors];
        MMK_UNROLL for (int i = 0; i < rows; ++i) MMK_UNROLL for (int j = 0; j < vectors; ++j) sum[i][j] =
            Vec<T>::zero();
        for (; t < stop; ++t, b += vectors * lanes) {
            const int64_t offset = w.offset[t];
            Vec<T> right[vectors];
            MMK_UNROLL for (int j = 0; j < vectors; ++j) right[j] = Vec<T>::load(b + j * lanes);
            MMK_UNROLL for (int i = 0; i < rows; ++i) {
                const Vec<T> left(row[i][offset]);
                MMK_UNROLL for (int j = 0; j < vectors; ++j) sum[i][j] = fma(left, right[j], sum[i][j]);
            }
        }
        add_chunk<T, rows, vectors>(w, sum, first);
        first = false;
    } while (t < w.end);
}

// Lanes along pixels: b is the first pixel's place in the image, the offsets are b's, rows are dense in t.
template <class T, int rows, int vectors> __attribute__((noinline)) void pixel_tile(const TileWork<T>& w) {
    const T* row[rows];
    MMK_UNROLL for (int i = 0; i < rows; ++i) row[i] = w.row[i];
    bool first = w.first;
    int64_t t = w.begin;
    do {
        const int64_t stop = t + w.chunk < w.end ? t + w.chunk : w.end;
        Vec<T> sum[rows][vectors];
        MMK_UNROLL for (int i = 0; i < rows; ++i) MMK_UNROLL for (int j = 0; j < vectors; ++j) sum[i][j] =
            Vec<T>::zero();
        for (; t < stop; ++t) {
            const T* const b = w.b + w.offset[t];
            Vec<T> right[vectors];
            MMK_UNROLL for (int j = 0; j < vectors; ++j) right[j] = Vec<T>::load(b + j * lanes);
            MMK_UNROLL for (int i = 0; i < rows; ++i) {
                const Vec<T> left(row[i][t]);
                MMK_UNROLL for (int j = 0; j < vectors; ++j) sum[i][j] = fma(left, right[j], sum[i][j]);
            }
        }
        add_chunk<T, rows, vectors>(w, sum, first);
        first = false;
    } while (t < w.end);
}

// Lanes of both factors stand for the same things, such as channels that do not mix: b is [t][16].
template <class T, int rows> __attribute__((noinline)) void lane_tile(const TileWork<T>& w) {
    const T* row[rows];
    MMK_UNROLL for (int i = 0; i < rows; ++i) row[i] = w.row[i];
    const T* b = w.b;
    bool first = w.first;
    int64_t t = w.begin;
    do {
        const int64_t stop = t + w.chunk < w.end ? t + w.chunk : w.end;
        Vec<T> sum[rows][1];
        MMK_UNROLL for (int i = 0; i < rows; ++i) sum[i][0] = Vec<T>::zero();
        for (; t < stop; ++t, b += lanes) {
            const int64_t offset = w.offset[t];
            const Vec<T> right = Vec<T>::load(b);
            MMK_UNROLL for (int i = 0; i < rows; ++i) sum[i][0] = fma(Vec<T>::load(row[i] + offset), right, sum[i][0]);
        }
        add_chunk<T, rows, 1>(w, sum, first);
        first = false;
    } while (t < w.end);
}

} // namespace detail

// The smallest compiled tile that holds `rows` rows; it raises `rows` to its own number.
template <class T, int vectors> MMK_INLINE Tile<T> panel_tile_for(int64_t& rows) {
    Tile<T> found = nullptr;
    const auto consider = [&]<int size>() {
        // float64 makes do with two sizes: it is for references, and every size is compiled for its own sake
        if constexpr (size <= ProductShape<T>::rows && (sizeof(T) == 4 || size == 1 || size == ProductShape<T>::rows))
            if (!found && rows <= size) found = detail::panel_tile<T, size, vectors>, rows = size;
    };
    consider.template operator()<1>(), consider.template operator()<2>(), consider.template operator()<4>();
    consider.template operator()<6>(), consider.template operator()<8>(), consider.template operator()<10>();
    consider.template operator()<12>(), consider.template operator()<14>();
    return found;
}
template <class T> MMK_INLINE Tile<T> panel_tile_for(int64_t& rows, int64_t width) {
    if constexpr (ProductShape<T>::vectors == 2)
        if (width > lanes) return panel_tile_for<T, 2>(rows);
    return panel_tile_for<T, 1>(rows);
}
template <class T, int vectors> MMK_INLINE Tile<T> pixel_tile_for(int64_t& rows) {
    Tile<T> found = nullptr;
    const auto consider = [&]<int size>() {
        if constexpr (size <= ProductShape<T>::pixel_rows &&
                      (sizeof(T) == 4 || size == 1 || size == ProductShape<T>::pixel_rows))
            if (!found && rows <= size) found = detail::pixel_tile<T, size, vectors>, rows = size;
    };
    consider.template operator()<1>(), consider.template operator()<2>(), consider.template operator()<3>();
    consider.template operator()<4>(), consider.template operator()<6>();
    return found;
}
template <class T> MMK_INLINE Tile<T> pixel_tile_for(int64_t& rows, int64_t vectors) {
    constexpr int most = ProductShape<T>::pixel_vectors;
    if constexpr (most >= 4)
        if (vectors == 4) return pixel_tile_for<T, 4>(rows);
    if constexpr (most >= 4)
        if (vectors == 3) return pixel_tile_for<T, 3>(rows);
    if constexpr (most >= 2)
        if (vectors == 2) return pixel_tile_for<T, 2>(rows);
    return pixel_tile_for<T, 1>(rows);
}

template <class T> MMK_INLINE Tile<T> lane_tile_for(int64_t& rows) {
    Tile<T> found = nullptr;
    const auto consider = [&]<int size>() {
        // float64 makes do with two sizes: it is for references, and every size is compiled for its own sake
        if constexpr (size <= ProductShape<T>::rows && (sizeof(T) == 4 || size == 1 || size == ProductShape<T>::rows))
            if (!found && rows <= size) found = detail::lane_tile<T, size>, rows = size;
    };
    consider.template operator()<1>(), consider.template operator()<2>(), consider.template operator()<4>();
    consider.template operator()<6>(), consider.template operator()<10>(), consider.template operator()<14>();
    return found;
}

// Sums of rows [0, count), tile_for(rows) telling the kernel. Tiles have the machine's best size; the last two share
// what is left. `row` has room for the best size more pointers: the last tile may compute its last row several times,
// into sums that nobody reads. Other tiles must be full, as the next one adds to the sums behind theirs.
template <class T, class TileFor>
MMK_INLINE void rows_in_tiles(TileWork<T> w, const T** row, int64_t count, TileFor tile_for) {
    constexpr int64_t best = ProductShape<T>::rows;
    for (int64_t i = 0; i < best; ++i) row[count + i] = row[count - 1];
    for (int64_t i = 0, rows; i < count; i += rows, w.sums += rows * w.sums_stride) {
        const int64_t left = count - i;
        rows = left > best && 2 * left < 3 * best ? (left + 3) / 4 * 2 : left < best ? left : best;
        int64_t size = rows;
        const Tile<T> tile = tile_for(size);
        if (size > rows && rows < left) rows = size < left ? size : left;
        w.row = row + i;
        tile(w);
    }
}
template <class T> MMK_INLINE void panel_rows(const TileWork<T>& w, const T** row, int64_t count, int64_t width) {
    rows_in_tiles(w, row, count, [=](int64_t& rows) { return panel_tile_for<T>(rows, width); });
}

// 16 x 16 elements, rows to columns.
template <class T> MMK_INLINE void transpose(Vec<T> (&v)[lanes]) {
    if constexpr (sizeof(T) == 4) {
        // each round rotates the eight bits of an element's (row, column) by one
        Vec<T> u[lanes];
        MMK_UNROLL for (int i = 0; i < 8; ++i) interleave(v[i], v[i + 8], u[2 * i], u[2 * i + 1]);
        MMK_UNROLL for (int i = 0; i < 8; ++i) interleave(u[i], u[i + 8], v[2 * i], v[2 * i + 1]);
        MMK_UNROLL for (int i = 0; i < 8; ++i) interleave(v[i], v[i + 8], u[2 * i], u[2 * i + 1]);
        MMK_UNROLL for (int i = 0; i < 8; ++i) interleave(u[i], u[i + 8], v[2 * i], v[2 * i + 1]);
    } else {
        T s[lanes][lanes], turned[lanes][lanes];
        for (int i = 0; i < lanes; ++i) v[i].store(s[i]);
        for (int i = 0; i < lanes; ++i)
            for (int k = 0; k < lanes; ++k) turned[k][i] = s[i][k];
        for (int i = 0; i < lanes; ++i) v[i] = Vec<T>::load(turned[i]);
    }
}

// panel[t][n] = b[t * t_stride + n * n_stride] for n < count, zero for the other n < width.
template <class T> MMK_INLINE void pack_panel(const T* b, int64_t t_stride, int64_t n_stride, int64_t depth,
                                              int64_t count, int64_t width, T* panel) {
    for (int64_t n0 = 0; n0 < width; n0 += lanes) {
        const int64_t n = count - n0 < 0 ? 0 : count - n0 < lanes ? count - n0 : lanes;
        const T* const from = b + n0 * n_stride;
        T* const to = panel + n0;
        int64_t t = 0;
        if (n_stride == 1 || n == 0) {
            for (; t < depth; ++t) Vec<T>::load(from + t * t_stride, n).store(to + t * width);
        } else if (t_stride == 1) {
            for (; t < depth; t += lanes) {
                const int64_t some = depth - t < lanes ? depth - t : lanes;
                Vec<T> v[lanes];
                for (int64_t k = 0; k < lanes; ++k)
                    v[k] = k < n ? Vec<T>::load(from + k * n_stride + t, some) : Vec<T>::zero();
                transpose(v);
                for (int64_t k = 0; k < some; ++k) v[k].store(to + (t + k) * width);
            }
        } else {
            for (; t < depth; ++t) {
                T s[lanes] = {};
                for (int64_t k = 0; k < n; ++k) s[k] = from[t * t_stride + k * n_stride];
                Vec<T>::load(s).store(to + t * width);
            }
        }
    }
}

// Where finished sums go: result n of row i is y[to[i] + n * n_step].
template <class T> struct Finish {
    T* y;
    const T* bias;     // one per n, or null
    const T* residual; // laid out like y, or null
    int64_t n_step;
    Activation activation;
};

// One run of results that share n, `step` apart.
template <class T, class Activate> MMK_INLINE void finish_run(const Finish<T>& f, const T* sums, int64_t at,
                                                              int64_t step, int64_t count, T bias, Activate activate) {
    const Vec<T> added(bias);
    for (int64_t i = 0; i < count; i += lanes) {
        const int64_t some = count - i < lanes ? count - i : lanes;
        Vec<T> v = Vec<T>::load(sums + i, some) + added;
        if (step == 1) {
            if (f.residual) v = v + Vec<T>::load(f.residual + at + i, some);
            activate(v).store(f.y + at + i, some);
        } else {
            T s[lanes] = {};
            if (f.residual) {
                for (int64_t k = 0; k < some; ++k) s[k] = f.residual[at + (i + k) * step];
                v = v + Vec<T>::load(s);
            }
            activate(v).store(s);
            for (int64_t k = 0; k < some; ++k) f.y[at + (i + k) * step] = s[k];
        }
    }
}

// Rows of sums [count][width] whose lanes are n0, n0 + 1, ... below n0 + n_count.
template <class T> void finish_rows(const Finish<T>& f, const T* sums, int64_t width, const int64_t* to, int64_t count,
                                    int64_t n0, int64_t n_count) {
    visit_activation(f.activation, [&](auto activate) {
        if (f.n_step == 1) {
            for (int64_t j = 0; j < n_count; j += lanes) {
                const int64_t some = n_count - j < lanes ? n_count - j : lanes;
                const Vec<T> bias = f.bias ? Vec<T>::load(f.bias + n0 + j, some) : Vec<T>::zero();
                for (int64_t i = 0; i < count; ++i) {
                    const int64_t at = to[i] + n0 + j;
                    Vec<T> v = Vec<T>::load(sums + i * width + j) + bias;
                    if (f.residual) v = v + Vec<T>::load(f.residual + at, some);
                    activate(v).store(f.y + at, some);
                }
            }
            return;
        }
        for (int64_t i = 0; i < count; i += lanes)
            for (int64_t j = 0; j < n_count; j += lanes) {
                const int64_t rows = count - i < lanes ? count - i : lanes;
                const int64_t columns = n_count - j < lanes ? n_count - j : lanes;
                Vec<T> v[lanes];
                for (int64_t k = 0; k < lanes; ++k)
                    v[k] = k < rows ? Vec<T>::load(sums + (i + k) * width + j) : Vec<T>::zero();
                transpose(v);
                const bool dense = to[i + rows - 1] - to[i] == rows - 1;
                for (int64_t k = 0; k < columns; ++k) {
                    const int64_t n = n0 + j + k, at = n * f.n_step;
                    Vec<T> x = v[k] + Vec<T>(f.bias ? f.bias[n] : T(0));
                    if (dense) {
                        if (f.residual) x = x + Vec<T>::load(f.residual + at + to[i], rows);
                        activate(x).store(f.y + at + to[i], rows);
                        continue;
                    }
                    T s[lanes] = {};
                    if (f.residual) {
                        for (int64_t l = 0; l < rows; ++l) s[l] = f.residual[at + to[i + l]];
                        x = x + Vec<T>::load(s);
                    }
                    activate(x).store(s);
                    for (int64_t l = 0; l < rows; ++l) f.y[at + to[i + l]] = s[l];
                }
            }
    });
}

} // namespace mmk::MMK_ISA
