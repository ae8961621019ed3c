// What attention's tensor-core kernels are made of: tiles of rows in swizzled shared memory, and a warp's products with
// mma.sync.m16n8k16. Lane L of a warp has g = L / 4 and t = L % 4; of an accumulator tile of 16 rows and 8 columns it
// holds rows g and g + 8, columns 2t and 2t + 1, as element 2 (row / 8) + column % 2.
#pragma once

#include "attention.cuh"

namespace mmk::cuda::flash {

template <class T> struct Mma;
template <> struct Mma<float16> {
    static constexpr uint32_t exponent = 0x7c00, fraction = 0x03ff, one = 0x3c00;
    static MMK_PTX uint32_t pair(float low, float high) { return pack_f16(low, high); }
};
template <> struct Mma<bfloat16> {
    static constexpr uint32_t exponent = 0x7f80, fraction = 0x007f, one = 0x3f80;
    static MMK_PTX uint32_t pair(float low, float high) { return pack_bf16(low, high); }
};
template <class T> MMK_PTX void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_m16n8k16<T>(d, a, b);
}

// Sixteen bytes, what one address of ldmatrix stands for.
template <class T> using Piece = Pack<T, 8>;

// Where piece `piece` of row `row` lies in a tile of D columns. Eight rows' pieces of one column fall into the eight
// groups of four banks: as many low bits of the piece's number as divide the row's length are mixed with the row's.
template <int D> inline constexpr int mixed = D / 8 % 8 == 0 ? 8 : D / 8 % 4 == 0 ? 4 : 2;
template <int D> MMK_INLINE int place(int row, int piece) {
    constexpr int pieces = D / 8;
    static_assert(D % 16 == 0);
    return row * pieces + (piece ^ (row / (8 / mixed<D>)&(mixed<D> - 1)));
}
// place(row + 16 r, piece + 2 p) from place(row, piece), piece being 0 or 1: one exclusive or, and constants that
// instructions hold, so that no register is spent on an address.
template <int D> MMK_INLINE int step(int at, int r, int p) {
    return (at ^ (2 * p % mixed<D>)) + 2 * p / mixed<D> * mixed<D> + 16 * r * (D / 8);
}

// Rows [0, count) of `pieces` pieces each into a tile; what the tile has more becomes zero. A thread keeps its column and
// walks down the rows.
template <int D, int rows, int team, class T>
MMK_PTX void load_tile(Piece<T>* tile, const T* from, int64_t row, int64_t count, int pieces, int thread) {
    constexpr int most = team / (D / 8), stride = most >= 32   ? 32
                                                  : most >= 16 ? 16
                                                  : most >= 8  ? 8
                                                  : most >= 4  ? 4
                                                               : most;
    static_assert(stride > 0 && rows % stride == 0);
    const int c = thread % (D / 8), r = thread / (D / 8);
    if (r >= stride) return;
    const int left = c < pieces ? int(count < rows ? count : rows) : 0;
    const T* at = from + r * row + c * 8;
#pragma unroll 2
    for (int i = r; i < rows; i += stride, at += stride * row) {
        const bool valid = i < left || MMK_DEFECT(attention_ragged_tile);
        cp_async<16>(tile + place<D>(i, c), valid ? at : from, valid ? 16 : 0);
    }
}

// Where a lane points to in ldmatrix.
// An A operand: 16 rows, columns 16 k to 16 k + 15 at step(.., row / 16, k).
template <int D> MMK_INLINE int lane_of_a(int lane) { return place<D>(lane % 16, lane / 16); }
// B operands of two neighbouring products from a tile of [n][k]: step(.., n / 16, k); from a tile of [k][n], transposed:
// step(.., k, n / 16).
template <int D> MMK_INLINE int lane_of_b(int lane) { return place<D>(lane % 8 + lane / 16 * 8, lane / 8 % 2); }
template <int D> MMK_INLINE int lane_of_b_transposed(int lane) { return place<D>(lane % 16, lane / 16); }

// s = 16 M rows of a . rows of b, over the D columns: 16 at a time from column 0, in one accumulator.
template <class T, int D, int M, int N>
MMK_PTX void row_products(float (&s)[M][N][4], const Piece<T>* a, const Piece<T>* b, int lane) {
    const int at_a = lane_of_a<D>(lane), at_b = lane_of_b<D>(lane);
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) s[m][n][i] = 0.0f;
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
        uint32_t x[M][4];
#pragma unroll
        for (int m = 0; m < M; ++m) ldmatrix(x[m], a + step<D>(at_a, m, k));
#pragma unroll
        for (int n = 0; n < N / 2; ++n) {
            uint32_t y[4];
            ldmatrix(y, b + step<D>(at_b, n, k));
#pragma unroll
            for (int m = 0; m < M; ++m) {
                multiply<T>(s[m][2 * n], x[m], {y[0], y[1]});
                multiply<T>(s[m][2 * n + 1], x[m], {y[2], y[3]});
            }
        }
    }
}

// Accumulators as the A operand of the next product, rounded to T: columns 16 k to 16 k + 15.
template <class T, int N> MMK_PTX void round_to_a(uint32_t (&a)[4], const float (&s)[N][4], int k) {
#pragma unroll
    for (int r = 0; r < 4; ++r) a[r] = Mma<T>::pair(s[2 * k + r / 2][r % 2 * 2], s[2 * k + r / 2][r % 2 * 2 + 1]);
}

// o[m] += s[m] (16 x 8 N, rounded to T) times columns [0, 8 C) of a tile of [8 N][D], which begins at any multiple of 16.
template <class T, int D, int M, int N, int C>
MMK_PTX void factor_products(float (&o)[M][C][4], const float (&s)[M][N][4], const Piece<T>* tile, int lane) {
    const int at = lane_of_b_transposed<D>(lane);
#pragma unroll
    for (int k = 0; k < N / 2; ++k) {
        uint32_t x[M][4];
#pragma unroll
        for (int m = 0; m < M; ++m) round_to_a<T>(x[m], s[m], k);
#pragma unroll
        for (int n = 0; n < C / 2; ++n) {
            uint32_t y[4];
            ldmatrix_transposed(y, tile + step<D>(at, k, n));
#pragma unroll
            for (int m = 0; m < M; ++m) {
                multiply<T>(o[m][2 * n], x[m], {y[0], y[1]});
                multiply<T>(o[m][2 * n + 1], x[m], {y[2], y[3]});
            }
        }
    }
}

// ---- what a warp's queries see --------------------------------------------------------------------------------------

// Bit 4 n + i of the result says whether the query (for i < 2: g, else g + 8 of the warp's 16) sees the key of column
// 8 n + 2 t + i % 2. Rolled up, as it is seldom on the way and registers are full.
template <int N> MMK_PTX uint32_t what_is_seen(const Shape& shape, const AttentionItem& item, const uint8_t* mask,
                                               int64_t query, int64_t key, int t) {
    uint32_t seen = 0;
#pragma unroll 1
    for (int half = 0; half < 2; ++half, query += 8) {
        const int64_t left = item.limit(query) - key - 2 * t, begin = item.start(query) - key - 2 * t;
        const uint8_t* const row = mask + (mask ? query * shape.mask.row + (key + 2 * t) * shape.mask.step : 0);
#pragma unroll 1
        for (int n = 0; n < N; ++n)
            for (int i = 0; i < 2; ++i)
                if (8 * n + i >= begin && 8 * n + i < left && (!mask || row[(8 * n + i) * shape.mask.step]))
                    seen |= 1u << (4 * n + 2 * half + i);
    }
    return seen;
}

// Biases onto scores of base 2: `bias` is that of row g and column 2 t of the tile, of which `rows` and `columns` are left
// from there on.
template <int N, class T>
MMK_PTX void add_bias(float (&s)[N][4], const T* bias, int64_t row, int64_t column, int64_t rows, int64_t columns) {
#pragma unroll
    for (int half = 0; half < 2; ++half, bias += 8 * row, rows -= 8) {
        __syncwarp(); // a limit to how many loads the compiler starts at once: registers are full
        const int left = rows > 0 ? int(columns < 8 * N ? columns : 8 * N) : 0;
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
            for (int i = 0; i < 2; ++i)
                if (8 * n + i < left)
                    s[n][2 * half + i] =
                        fma_scalar(widen(bias[(8 * n + i) * column]), float(log2_e), s[n][2 * half + i]);
    }
}

// ---- numbers behind a mask -----------------------------------------------------------------------------------------
// A hidden factor is 0, but 0 times NaN or infinity is NaN. So where a tile of which some is hidden holds such numbers,
// they are noted in the results of the rows that do see them, and replaced by 0 before the product: other rows keep
// their bits.

// Whether any of the tile's numbers is not finite, as this thread sees its part.
template <class T, int pieces, int team> MMK_PTX bool any_special(const Piece<T>* tile, int thread) {
    uint32_t found = 0;
#pragma unroll 1
    for (int i = thread; i < pieces; i += team) {
        const auto words = *reinterpret_cast<const Pack<uint32_t, 4>*>(tile + i);
        // adding one to the exponent of a number that is not finite carries into its sign
        constexpr uint32_t step = (Mma<T>::fraction + 1) * 0x10001u;
#pragma unroll
        for (int k = 0; k < 4; ++k) found |= ((words.at[k] & 0x7fff7fffu) + step) & 0x80008000u;
    }
    return found != 0;
}
template <class T> MMK_PTX bool is_special(T x) { return (x.bits & Mma<T>::exponent) == Mma<T>::exponent; }

// Adds the tile's special numbers of the rows k that sees(r, k) to result rows r of the warp, which hold 0 or what was
// noted before; the tile has `rows` rows, the results `count`. As NaN where their factors are differences, whose sign is
// not known here and which an infinite operand has already made infinite or NaN.
template <int D, class T, class Sees> MMK_PTX void note_specials(const Piece<T>* tile, int rows, T* to, int64_t to_row,
                                                                 int count, int columns, int lane, bool as_nan,
                                                                 const Sees& sees) {
#pragma unroll 1
    for (int r = 0; r < count; ++r)
#pragma unroll 1
        for (int k = 0; k < rows; ++k) {
            if (!sees(r, k)) continue;
#pragma unroll 1
            for (int d = lane; d < columns; d += 32)
                if (const T x = tile[place<D>(k, d / 8)].at[d % 8]; is_special(x))
                    to[r * to_row + d] =
                        narrow<T>(widen(to[r * to_row + d]) + (as_nan ? __builtin_nanf("") : widen(x)));
        }
}
template <class T, int pieces, int team> MMK_PTX void remove_specials(Piece<T>* tile, int thread) {
#pragma unroll 1
    for (int i = thread; i < pieces; i += team)
#pragma unroll 1
        for (int k = 0; k < 8; ++k)
            if (is_special(tile[i].at[k])) tile[i].at[k] = T{0};
}
template <class T> MMK_PTX void clear_rows(T* to, int64_t to_row, int count, int columns, int lane) {
#pragma unroll 1
    for (int r = 0; r < count; ++r)
#pragma unroll 1
        for (int d = lane; d < columns; d += 32) to[r * to_row + d] = T{0};
}

// ---- results -------------------------------------------------------------------------------------------------------

// The warp's 16 M rows of o, rounded, into a tile of D columns that is its own, then to memory in pieces. What was noted
// in the results before stays.
template <class T, int D, int M, int C> MMK_PTX void store_rows(const float (&o)[M][C][4], Piece<T>* tile, T* to,
                                                                int64_t to_row, int64_t count, int pieces, int lane,
                                                                bool noted) {
    const int g = lane / 4, t = lane % 4;
    __syncwarp();
    const int at = place<D>(g, 0);
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int n = 0; n < C; ++n)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int there = (at ^ n % mixed<D>)+n / mixed<D> * mixed<D> + (16 * m + 8 * half) * (D / 8);
                *reinterpret_cast<uint32_t*>(tile[there].at + 2 * t) =
                    Mma<T>::pair(o[m][n][2 * half], o[m][n][2 * half + 1]);
            }
    __syncwarp();
#pragma unroll 2
    for (int i = lane; i < 16 * M * C; i += 32) {
        const int r = i / C, c = i % C;
        if (r >= count || c >= pieces) continue;
        Piece<T> piece = tile[place<D>(r, c)];
        T* const at = to + r * to_row + c * 8;
        if (noted)
            for (int k = 0; k < 8; ++k)
                if (is_special(at[k])) piece.at[k] = at[k];
        *reinterpret_cast<Piece<T>*>(at) = piece;
    }
}

// A team of warps waits for one another.
template <int team> MMK_PTX void meet() {
    if constexpr (team == 32)
        __syncwarp();
    else
        __syncthreads();
}
template <int team> MMK_PTX bool meet_any(bool one) {
    if constexpr (team == 32) {
        __syncwarp();
        return __any_sync(0xffffffffu, one);
    } else
        return __syncthreads_or(one);
}

// launch(first task, grid) for blocks of `teams` tasks: once, unless a grid cannot hold them all. These kernels have no
// loop over tasks, for want of registers.
template <class F> void for_each_grid(int64_t tasks, int teams, F&& launch) {
    constexpr int64_t most = 0x7fffffff;
    for (int64_t first = 0; first < tasks; first += most * teams)
        launch(first, grid_of(ceil_div(tasks - first, teams)));
}

// body(std::integral_constant<int, D>) of the smallest padded head dimension.
template <class F> void visit_depth(int depth, F&& body) {
    if (depth <= 32) return body(std::integral_constant<int, 32>());
    if (depth <= 64) return body(std::integral_constant<int, 64>());
    if (depth <= 96) return body(std::integral_constant<int, 96>());
    if (depth <= 128) return body(std::integral_constant<int, 128>());
    body(std::integral_constant<int, 256>());
}
// Keys of a tile: 64, but 32 where rows are long: the accumulators of 32 queries and 128 columns are half of the registers
// there are, and two stages at 256 columns just stay below the 99 KB that every device since sm_80 has.
template <int D> inline constexpr int tile_keys = D <= 64 ? 64 : 32;

} // namespace mmk::cuda::flash
