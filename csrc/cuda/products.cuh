// Sums of products on the CUDA floor, the work of matrix products and of convolutions:
//     sums[m][n] = sum over k of a[m][k] * b[n][k]
// A tile of them is a block's work. What differs between operators is brought by three function objects:
//
// Operand (of a, whose rows are the m; of b, whose rows are the n): where products find their factors.
//     using Element;  static constexpr bool along_k;  static constexpr int width;  const Element* data;
//     Row row(int64_t batch, int64_t row) const            what is known of a row, found once for a tile
//     Depth depth(int64_t k) const                         what is known of a k, found once for all rows of a thread
//     const Element* at(const Row&, const Depth&) const    the factor, or null where it is zero (padding)
// Rows and k that are asked for exist. along_k says whether neighbours in memory are neighbours in k (else in rows): it
// decides how threads share the fetching, not what is right. width is 1, or the number of elements in 16 bytes: then a
// factor stands for itself and the width - 1 behind it in that direction, at an address that is a multiple of 16 (or all
// are zero), and the number of rows (or k) is a multiple of width. `data` is any address that may be read.
//
// Finish: what becomes of sums.
//     static constexpr bool along_rows;  static constexpr int width;
//     void operator()(int64_t batch, int64_t row, int64_t column, const Compute<T> (&sum)[width], int count) const
// It gets `width` neighbours of one row (along_rows: of one column), of which `count` exist, in float32 or float64, and
// adds bias (or +0), residual, activation, and stores. Neighbouring threads get neighbouring sums.
//
// This file: float32 and float64, with the bits of the CPU floor. products.tensor.cuh: 16-bit storage on tensor cores.
#pragma once

#include "../core/activate.h"
#include "layout.cuh"

namespace mmk::cuda {

// As in core/products.h: a sum is cut into chunks, each a chain of fma from +0; the first chunk is the sum, the others are
// added to it in order. Matrix products have chunks of 256, convolutions of the most whole channels with at most 256.
inline constexpr int64_t chunk_products = 256;
MMK_INLINE int64_t chunk_channels(int64_t taps) {
    return taps >= chunk_products || taps < 1 ? 1 : chunk_products / taps;
}

struct ProductExtents {
    int64_t batches, rows, columns, depth;
};

struct TilePlace {
    int64_t batch, row, column;
};

// The order in which tiles are made: eight tiles of rows for each tile of columns, so that blocks that run at the same
// time share both operands in the second cache.
template <class Shape> struct Tiles {
    int64_t row_tiles, column_tiles, count;

    MMK_MEMBER explicit Tiles(const ProductExtents& e)
        : row_tiles(ceil_div(e.rows, Shape::rows)), column_tiles(ceil_div(e.columns, Shape::columns)),
          count(e.batches * row_tiles * column_tiles) {}
    MMK_MEMBER TilePlace operator[](int64_t tile) const {
        constexpr int64_t band = 8;
        const int64_t batch = tile / (row_tiles * column_tiles);
        tile -= batch * row_tiles * column_tiles;
        const int64_t first = tile / (band * column_tiles) * band;
        tile -= first * column_tiles;
        const int64_t high = row_tiles - first < band ? row_tiles - first : band;
        return {batch, (first + tile % high) * Shape::rows, tile / high * Shape::columns};
    }
};

template <class C> MMK_INLINE C activated(Activation activation, C x) {
    visit_activation(activation, [&](auto activate) { x = activate(Vec<C>(x)).v; });
    return x;
}

// A block's sums, from shared memory to `finish`.
template <int rows, int columns, int threads, class Finish, class C> __device__ __forceinline__ void
finish_tile(const Finish& finish, const C* sums, int pitch, const TilePlace& place, const ProductExtents& e) {
    const int64_t row0 = place.row, column0 = place.column;
    constexpr int width = Finish::width, runs = (Finish::along_rows ? rows : columns) / width;
#pragma unroll 1
    for (int i = int(threadIdx.x); i < rows * columns / width; i += threads) {
        const int run = i % runs * width, other = i / runs;
        const int row = Finish::along_rows ? run : other, column = Finish::along_rows ? other : run;
        const int64_t left = Finish::along_rows ? e.rows - row0 - row : e.columns - column0 - column;
        if (left <= 0 || row0 + row >= e.rows || column0 + column >= e.columns) continue;
        C sum[width];
        if constexpr (!Finish::along_rows &&
                      width * sizeof(C) % 16 == 0) { // by 16 bytes: by 4, half the banks would wait
            using Access = Pack<C, 16 / sizeof(C)>;
#pragma unroll
            for (int k = 0; k < width; ++k)
                sum[k] = reinterpret_cast<const Access*>(sums + row * pitch + column)[k * sizeof(C) / 16]
                             .at[k % (16 / sizeof(C))];
        } else {
#pragma unroll
            for (int k = 0; k < width; ++k)
                sum[k] = Finish::along_rows ? sums[(row + k) * pitch + column] : sums[row * pitch + column + k];
        }
        finish(place.batch, row0 + row, column0 + column, sum,
               left < width && !MMK_DEFECT(products_ragged_store) ? int(left) : width);
    }
}

// ---- float32 and float64 -------------------------------------------------------------------------------------------

// A thread holds thread_rows x thread_columns sums: one factor read from shared memory serves eight products. They lie
// in groups of 16 bytes, a whole tile's width of threads apart, so that neighbouring threads read neighbouring addresses.
// A chunk's chains are registers; sums of chunks are shared memory, which they meet once in 256 products: that leaves
// registers for two blocks a multiprocessor.
template <class T_, int rows_, int columns_, int thread_rows_, int thread_columns_, int blocks_> struct RegisterShape {
    using T = T_;
    static constexpr int rows = rows_, columns = columns_, thread_rows = thread_rows_, thread_columns = thread_columns_;
    static constexpr int vector = 16 / int(sizeof(T));                                 // elements of one access
    static constexpr int depth = 16;                                                   // products of one step
    static constexpr int down = rows / thread_rows, across = columns / thread_columns; // threads
    static constexpr int threads = down * across, blocks = blocks_;
    // one access more than a row: eight k and four rows, which a warp stores at once, then lie in different banks
    static constexpr int row_pitch = rows + vector, column_pitch = columns + vector;
    static constexpr int stage = depth * (row_pitch + column_pitch);
    static constexpr size_t shared = (2 * size_t(stage) + size_t(rows) * column_pitch) * sizeof(T);
    static_assert(across % 8 == 0 && down % 4 == 0 && shared <= 99 << 10); // what every device since sm_80 has
};
template <class T> struct RegisterShapes { // float64 is for references: one size is enough
    using FewRows = RegisterShape<T, 64, 64, 8, 4, 2>;
    using Large = FewRows;
    using Small = FewRows;
};
template <> struct RegisterShapes<float> {
    using FewRows = RegisterShape<float, 16, 128, 4, 4, 5>;
    using Large = RegisterShape<float, 128, 128, 8, 8, 2>;
    using Small = RegisterShape<float, 64, 64, 8, 4, 4>;
};

// A thread's share of fetching an operand's tile, [k][row] in shared memory.
template <class Operand, int rows, int depth, int pitch, int threads> class RegisterFetch {
    using T = typename Operand::Element;
    static constexpr int width = Operand::width;
    static_assert(width == 1 || !Operand::along_k);
    // along k, eight threads read 32 bytes
    static constexpr int row_threads = Operand::along_k ? threads / 8 : rows / width;
    static constexpr int k_threads = threads / row_threads;
    static constexpr int row_count = rows / width / row_threads, k_count = depth / k_threads;
    static_assert(row_count * row_threads * width == rows && k_count * k_threads == depth &&
                  k_threads * row_threads == threads);

  public:
    // Rows past the end are the last one again: nobody takes their sums.
    __device__ __forceinline__ RegisterFetch(const Operand& operand, int64_t batch, int64_t first, int64_t end)
        : operand_(operand) {
        const int t = int(threadIdx.x);
        row_ = (Operand::along_k ? t / k_threads : t % row_threads) * width;
        k_ = Operand::along_k ? t % k_threads : t / row_threads;
#pragma unroll
        for (int i = 0; i < row_count; ++i) {
            const int64_t row = first + row_ + i * row_threads * width;
            rows_[i] = operand_.row(batch, row < end ? row : end - width);
        }
    }
    // Products k0, k0 + 1, ...; those past the end are the last one again, and nobody multiplies them.
    __device__ __forceinline__ void operator()(T* stage, int64_t k0, int64_t end) const {
#pragma unroll
        for (int j = 0; j < k_count; ++j) {
            const int k = k_ + j * k_threads;
            const typename Operand::Depth depth_of_k = operand_.depth(k0 + k < end ? k0 + k : end - 1);
#pragma unroll
            for (int i = 0; i < row_count; ++i) {
                const T* const from = operand_.at(rows_[i], depth_of_k);
                cp_async<width* int(sizeof(T))>(stage + k * pitch + row_ + i * row_threads * width,
                                                from ? from : operand_.data, from ? width * int(sizeof(T)) : 0);
            }
        }
    }

  private:
    const Operand& operand_;
    typename Operand::Row rows_[row_count];
    int row_, k_;
};

// Where a thread's sums lie within the tile.
template <class Shape> struct RegisterPlace {
    int row, column;
    // a warp is 4 x 8 threads: what it reads for one k is 64 bytes of a and 128 of b
    __device__ __forceinline__ RegisterPlace() {
        const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32, warps_across = Shape::across / 8;
        row = (warp / warps_across * 4 + lane / 8) * Shape::vector;
        column = (warp % warps_across * 8 + lane % 8) * Shape::vector;
    }
    __device__ __forceinline__ int row_of(int i) const {
        return row + i / Shape::vector * Shape::down * Shape::vector + i % Shape::vector;
    }
    __device__ __forceinline__ int column_of(int j) const {
        return column + j / Shape::vector * Shape::across * Shape::vector + j % Shape::vector;
    }
};

template <class Shape>
__device__ __forceinline__ void multiply_step(const typename Shape::T* left, const typename Shape::T* right,
                                              const RegisterPlace<Shape>& place, int count,
                                              typename Shape::T (&chain)[Shape::thread_rows][Shape::thread_columns]) {
    using T = typename Shape::T;
    using Access = Pack<T, Shape::vector>;
    const auto multiply = [&](int k) {
        Access a[Shape::thread_rows / Shape::vector], b[Shape::thread_columns / Shape::vector];
#pragma unroll
        for (int i = 0; i < Shape::thread_rows; i += Shape::vector)
            a[i / Shape::vector] = *reinterpret_cast<const Access*>(left + k * Shape::row_pitch + place.row_of(i));
#pragma unroll
        for (int j = 0; j < Shape::thread_columns; j += Shape::vector)
            b[j / Shape::vector] =
                *reinterpret_cast<const Access*>(right + k * Shape::column_pitch + place.column_of(j));
#pragma unroll
        for (int i = 0; i < Shape::thread_rows; ++i)
#pragma unroll
            for (int j = 0; j < Shape::thread_columns; ++j)
                chain[i][j] = fma_scalar(a[i / Shape::vector].at[i % Shape::vector],
                                         b[j / Shape::vector].at[j % Shape::vector], chain[i][j]);
    };
    // two at a time: more would need registers that the chains have
#pragma unroll 2
    for (int k = 0; k < count; ++k) multiply(k);
}

// sums = chain for the first chunk, sums += chain for others; the chains begin again. A thread meets its own sums only.
template <class Shape>
__device__ __forceinline__ void add_chunk(typename Shape::T* sums, const RegisterPlace<Shape>& place, bool first,
                                          typename Shape::T (&chain)[Shape::thread_rows][Shape::thread_columns]) {
    using T = typename Shape::T;
    using Access = Pack<T, Shape::vector>;
#pragma unroll
    for (int i = 0; i < Shape::thread_rows; ++i)
#pragma unroll
        for (int j = 0; j < Shape::thread_columns; j += Shape::vector) {
            Access* const at =
                reinterpret_cast<Access*>(sums + place.row_of(i) * Shape::column_pitch + place.column_of(j));
            Access sum;
            if (!first) sum = *at;
#pragma unroll
            for (int l = 0; l < Shape::vector; ++l) {
                sum.at[l] = first ? chain[i][j + l] : sum.at[l] + chain[i][j + l];
                chain[i][j + l] = T(0);
            }
            *at = sum;
        }
}

// Part of the products, as a block's work: slices [first, first + count) of `length` products, each with sums of its own,
// which are those of batch slice * batches + batch.
struct ProductSlices {
    int64_t length, first, count;
};
MMK_INLINE ProductSlices one_slice(const ProductExtents& e) { return {e.depth < 1 ? 1 : e.depth, 0, 1}; }

// While a step is multiplied, the next one is on its way into the other stage.
template <class Shape, class A, class B, class Finish> __global__ void __launch_bounds__(Shape::threads, Shape::blocks)
    register_products(const __grid_constant__ A a, const __grid_constant__ B b, const __grid_constant__ Finish finish,
                      const __grid_constant__ ProductExtents extents, const __grid_constant__ ProductSlices slices,
                      int chunk) {
    using T = typename Shape::T;
    DYN_SHARED(T, shared);
    SHARED(TilePlace, kept, [1]); // until the tile is finished: the chains need the registers
    T* const sums = shared + 2 * Shape::stage;
    const RegisterPlace<Shape> place;
    const Tiles<Shape> tiles(extents);
    for (int64_t work = blockIdx.x; work < tiles.count * slices.count; work += gridDim.x) {
        const int64_t slice = work / tiles.count;
        const TilePlace at = tiles[work - slice * tiles.count];
        if (threadIdx.x == 0) kept[0] = {slice * extents.batches + at.batch, at.row, at.column};
        int64_t k = (slices.first + slice) * slices.length;
        const int64_t end = extents.depth - k < slices.length ? extents.depth : k + slices.length;
        const RegisterFetch<A, Shape::rows, Shape::depth, Shape::row_pitch, Shape::threads> fetch_a(a, at.batch, at.row,
                                                                                                    extents.rows);
        const RegisterFetch<B, Shape::columns, Shape::depth, Shape::column_pitch, Shape::threads> fetch_b(
            b, at.batch, at.column, extents.columns);
        const auto fetch = [&](int stage, int64_t first) {
            T* const left = shared + stage * Shape::stage;
            fetch_a(left, first, end);
            fetch_b(left + Shape::depth * Shape::row_pitch, first, end);
        };
        T chain[Shape::thread_rows][Shape::thread_columns] = {};
        int stage = 0, chunk_left = end - k < chunk ? int(end - k) : chunk;
        bool first = true;
        if (k < end) fetch(stage, k);
        cp_async_commit();
        while (k < end) {
            const int count = chunk_left < Shape::depth ? chunk_left : Shape::depth;
            k += count;
            if (!MMK_DEFECT(products_missing_wait)) cp_async_wait<0>();
            if (!MMK_DEFECT(products_missing_barrier)) __syncthreads();
            if (k < end) fetch(stage ^ 1, k);
            cp_async_commit();
            const T* const at_stage = shared + stage * Shape::stage;
            multiply_step<Shape>(at_stage, at_stage + Shape::depth * Shape::row_pitch, place, count, chain);
            chunk_left -= count;
            if (chunk_left == 0) {
                add_chunk<Shape>(sums, place, first, chain);
                first = false;
                chunk_left = end - k < chunk ? int(end - k) : chunk;
            }
            stage ^= 1;
        }
        if (first) add_chunk<Shape>(sums, place, true, chain); // no products: +0
        __syncthreads();
        finish_tile<Shape::rows, Shape::columns, Shape::threads>(finish, sums, Shape::column_pitch, kept[0], extents);
        __syncthreads();
    }
}

template <class Shape, class A, class B, class Finish>
void launch_register_products(Context& context, const A& a, const B& b, const Finish& finish,
                              const ProductExtents& extents, const ProductSlices& slices,
                              int64_t chunk = chunk_products) {
    const int64_t work = Tiles<Shape>(extents).count * slices.count;
    if (work == 0) return;
    MMK_LAUNCH(context, (register_products<Shape, A, B, Finish>), grid_of(work), Shape::threads, Shape::shared, a, b,
               finish, extents, slices, int(chunk));
}
template <class Shape, class A, class B, class Finish>
void launch_register_products(Context& context, const A& a, const B& b, const Finish& finish,
                              const ProductExtents& extents, int64_t chunk = chunk_products) {
    launch_register_products<Shape>(context, a, b, finish, extents, one_slice(extents), chunk);
}

// ---- sums in slices ------------------------------------------------------------------------------------------------

// A Finish for a slice's sums: they wait in scratch memory, [batch][row][column] or [batch][column][row].
template <class C, bool along_rows_> struct SliceSums {
    static constexpr bool along_rows = along_rows_;
    static constexpr int width = 16 / sizeof(C);
    C* sums;
    int64_t rows, columns;

    MMK_MEMBER int64_t place(int64_t batch, int64_t row, int64_t column) const {
        return along_rows ? (batch * columns + column) * rows + row : (batch * rows + row) * columns + column;
    }
    MMK_MEMBER void operator()(int64_t batch, int64_t row, int64_t column, const C (&sum)[width], int count) const {
        C* const to = sums + place(batch, row, column);
        if ((along_rows ? rows : columns) % width == 0) {
            Pack<C, width> whole;
#pragma unroll
            for (int k = 0; k < width; ++k) whole.at[k] = sum[k];
            *reinterpret_cast<Pack<C, width>*>(to) = whole;
        } else {
#pragma unroll
            for (int k = 0; k < width; ++k)
                if (k < count) to[k] = sum[k];
        }
    }
};

// Adds slices in order to the sums of those before (or begins with the first), which go to `finish` after the last.
inline constexpr int slice_threads = 128;
template <class Finish, class C> __global__ void __launch_bounds__(slice_threads, 4)
    add_slices(const __grid_constant__ Finish finish, const __grid_constant__ ProductExtents e,
               SliceSums<C, Finish::along_rows> slices, int64_t count, C* before, bool first, bool last) {
    constexpr int width = Finish::width;
    const int64_t run = Finish::along_rows ? e.rows : e.columns, others = Finish::along_rows ? e.columns : e.rows;
    const int64_t pieces = ceil_div(run, width), all = e.batches * others * pieces;
    for (int64_t i = int64_t(blockIdx.x) * slice_threads + threadIdx.x; i < all;
         i += int64_t(gridDim.x) * slice_threads) {
        const int64_t piece = i % pieces * width, other = i / pieces % others, batch = i / pieces / others;
        const int64_t row = Finish::along_rows ? piece : other, column = Finish::along_rows ? other : piece;
        const int here = run - piece < width ? int(run - piece) : width;
        C sum[width] = {};
        C* const kept = before + slices.place(batch, row, column);
        for (int64_t s = first ? 0 : -1; s < count; ++s) {
            const C* const from = s < 0 ? kept : slices.sums + slices.place(s * e.batches + batch, row, column);
#pragma unroll
            for (int k = 0; k < width; ++k)
                if (k < here) sum[k] = s == (first ? 0 : -1) ? from[k] : sum[k] + from[k];
        }
        if (last) {
            finish(batch, row, column, sum, here);
        } else {
#pragma unroll
            for (int k = 0; k < width; ++k)
                if (k < here) kept[k] = sum[k];
        }
    }
}

// launch(finish, slices) makes the sums of some slices. Rounds of as many as fill the device, so that scratch memory
// stays small; the result does not depend on it.
template <class C, class Finish, class Launch> void in_slices(Context& context, const Finish& finish,
                                                              const ProductExtents& e, int64_t length, int64_t tiles,
                                                              Launch&& launch) {
    const int64_t slices = ceil_div(e.depth, length), wanted = ceil_div(8 * int64_t(context.multiprocessors), tiles);
    const int64_t at_once = wanted < slices ? wanted : slices, size = e.batches * e.rows * e.columns;
    if (size == 0) return;
    const SliceSums<C, Finish::along_rows> sums{context.scratch<C>(at_once * size), e.rows, e.columns};
    C* const before = at_once < slices ? context.scratch<C>(size) : sums.sums;
    const int64_t pieces =
        ceil_div(Finish::along_rows ? e.rows : e.columns, Finish::width) * (Finish::along_rows ? e.columns : e.rows);
    for (int64_t first = 0; first < slices; first += at_once) {
        const int64_t count = slices - first < at_once ? slices - first : at_once;
        launch(sums, ProductSlices{length, first, count});
        MMK_LAUNCH(context, (add_slices<Finish, C>), grid_of(ceil_div(e.batches * pieces, slice_threads)),
                   slice_threads, 0, finish, e, sums, count, before, first == 0, first + count == slices);
    }
}

// The same sums, whose chunks are shared among blocks where tiles alone would leave the device idle.
template <class Shape, class A, class B, class Finish>
void launch_chunked_register_products(Context& context, const A& a, const B& b, const Finish& finish,
                                      const ProductExtents& extents, int64_t chunk = chunk_products) {
    using T = typename Shape::T;
    const int64_t tiles = Tiles<Shape>(extents).count;
    if (extents.depth <= chunk || tiles >= 2 * context.multiprocessors)
        return launch_register_products<Shape>(context, a, b, finish, extents, chunk);
    in_slices<T>(context, finish, extents, chunk, tiles, [&](const auto& sums, const ProductSlices& slices) {
        launch_register_products<Shape>(context, a, b, sums, extents, slices, chunk);
    });
}

// ---- operands and results of any strides -----------------------------------------------------------------------------

// Rows of a matrix: element (row, k) of a batch is data[batches(batch) + rows(row) + k * depth_stride].
template <class T, bool along_k_, int width_> struct StridedOperand {
    using Element = T;
    static constexpr bool along_k = along_k_;
    static constexpr int width = width_;
    using Row = const T*;
    using Depth = int64_t;

    const T* data;
    Walk<1> batches, rows;
    int64_t depth_stride;

    MMK_MEMBER Row row(int64_t batch, int64_t row) const { return data + offset(batches, batch) + offset(rows, row); }
    MMK_MEMBER Depth depth(int64_t k) const { return k * depth_stride; }
    MMK_MEMBER const T* at(Row row, Depth k) const { return row + k; }

  private:
    MMK_MEMBER static int64_t offset(const Walk<1>& walk, int64_t index) {
        int64_t at[1];
        walk.offsets(index, at);
        return at[0];
    }
};

// y[batch][row][column], dense, + bias[column], activated.
template <class T> struct DenseFinish {
    using C = Compute<T>;
    static constexpr bool along_rows = false;
    static constexpr int width = sizeof(T) == 8 ? 2 : 4;

    T* y;
    const T* bias; // or null
    int64_t rows, columns;
    Activation activation;
    bool whole; // `width` results may be stored at once

    MMK_MEMBER void operator()(int64_t batch, int64_t row, int64_t column, const C (&sum)[width], int count) const {
        Pack<T, width> result;
#pragma unroll
        for (int k = 0; k < width; ++k)
            result.at[k] =
                narrow<T>(activated(activation, sum[k] + (bias && k < count ? widen(bias[column + k]) : C(0))));
        T* const to = y + (batch * rows + row) * columns + column;
        if (whole) {
            *reinterpret_cast<Pack<T, width>*>(to) = result;
        } else {
#pragma unroll
            for (int k = 0; k < width; ++k)
                if (k < count) to[k] = result.at[k];
        }
    }
};

} // namespace mmk::cuda
