// Sums of products of float16 and bfloat16 (mma.sync m16n8k16), and of float32 rounded to TF32 (m16n8k8), on tensor
// cores, in float32, with the operands and results of products.cuh.
// The order: k rises in steps of 16 (TF32: 8) from 0, one accumulator a sum. It depends on nothing else: tiles, batches and
// extents of the result show in no bit. Within a step the hardware sums, with at least 24 fraction bits below the largest
// addend and cuts: the bound is tensor_dot in tests/bounds/sums.py. Products past the end are zeros, which change no sum.
#pragma once

#include "products.cuh"
#include "tf32.cuh"

namespace mmk::cuda {

// A warp makes warp_rows x warp_columns sums. At 64 x 64 it loads a fragment for every four instructions, so that shared
// memory (128 bytes a cycle) keeps up with the tensor cores; four such warps have 128 accumulators a thread.
template <int rows_, int columns_, int warp_rows_, int warp_columns_, int stages_, int blocks_> struct TensorShape {
    static constexpr int rows = rows_, columns = columns_, warp_rows = warp_rows_, warp_columns = warp_columns_;
    template <class T> static constexpr int depth = 64 / int(sizeof(T)); // of a stage
    static constexpr int stages = stages_, blocks = blocks_;
    static constexpr int down = rows / warp_rows, across = columns / warp_columns; // warps
    static constexpr int threads = 32 * down * across;
    static constexpr size_t stage_bytes = size_t(rows + columns) * 64;
    // Finished sums pass through shared memory, a row of warps at a time. Eight floats more than a row: the eight rows
    // that a warp stores at once then lie in different banks.
    static constexpr int pitch = columns + 8;
    static constexpr size_t stages_bytes = stages * stage_bytes, sums_bytes = size_t(warp_rows) * pitch * 4;
    static constexpr size_t shared = stages_bytes > sums_bytes ? stages_bytes : sums_bytes;
    static_assert(warp_rows % 16 == 0 && warp_columns % 16 == 0 && shared <= 99 << 10);
};
using LargeTensorShape = TensorShape<128, 128, 64, 64, 3, 2>;
using SmallTensorShape = TensorShape<64, 64, 32, 32, 3, 4>;
// Few rows: the columns' operand streams past them, so many blocks with many copies under way each.
using FewRowsTensorShape = TensorShape<16, 32, 16, 16, 6, 8>;

// An operand's tile in shared memory: lines along the operand's direction in memory, cut into pieces of 16 bytes, whose
// places within a line are exchanged so that the eight pieces that ldmatrix reads at once (one place, eight lines) lie in
// different banks. TF32 along rows is read by plain loads, from four lines and two pieces of each at once.
template <class T, bool along_k, int rows, int depth> struct TensorStage {
    static constexpr int pieces = (along_k ? depth : rows) / cuda::piece<T>, lines = along_k ? rows : depth;
    static constexpr int size = rows * depth;
    MMK_MEMBER static int offset(int line, int piece) {
        constexpr int turns = pieces >= 8 ? 1 : 8 / pieces, mask = (pieces < 8 ? pieces : 8) - 1;
        const int turn = is_tf32<T> && !along_k ? 2 * line : line / turns;
        return (line * pieces + (piece ^ (turn & mask))) * cuda::piece<T>;
    }
};

// A thread's share of fetching an operand's tile: by asynchronous copies of whole pieces, or element by element through
// registers, which deposit() empties after the products of the step.
template <class Operand, int rows, int depth, int threads> class TensorFetch {
    using T = typename Operand::Element;
    using Stage = TensorStage<T, Operand::along_k, rows, depth>;
    static constexpr int elements = piece<T>;
    using Piece = Pack<T, elements>;
    static constexpr bool along_k = Operand::along_k, whole = Operand::width == elements;
    static_assert(on_tensor_cores<T> && (whole || Operand::width == 1));
    static constexpr int side = threads < Stage::pieces * Stage::lines ? threads : Stage::pieces * Stage::lines;
    static constexpr int lines_at_once = side / Stage::pieces, count = Stage::lines / lines_at_once;
    static_assert(lines_at_once * Stage::pieces == side && count * lines_at_once == Stage::lines);
    // rows that a thread meets: one for each line, or those of its piece
    static constexpr int row_count = along_k ? count : whole ? 1 : elements;

  public:
    // Rows past the end are the last one again: nobody takes their sums.
    __device__ __forceinline__ TensorFetch(const Operand& operand, int64_t batch, int64_t first, int64_t end)
        : operand_(operand) {
        piece_ = int(threadIdx.x) % Stage::pieces;
        line_ = int(threadIdx.x) / Stage::pieces;
#pragma unroll
        for (int i = 0; i < row_count; ++i) {
            const int64_t row = first + (along_k ? line_ + i * lines_at_once : piece_ * elements + i);
            const int64_t last = end - (along_k ? 1 : Operand::width);
            rows_[i] = operand_.row(batch, row < last ? row : last);
        }
    }
    // Products k0, k0 + 1, ...; those past the end are zeros.
    __device__ __forceinline__ void fetch(T* stage, int64_t k0, int64_t end) {
        if (side < threads && line_ >= lines_at_once) return;
        if constexpr (whole) {
            if constexpr (along_k) {
                const int64_t k = k0 + piece_ * elements;
                const bool inside = k < end;
                const typename Operand::Depth depth_of_k = operand_.depth(inside ? k : 0);
#pragma unroll
                for (int i = 0; i < count; ++i)
                    copy(stage, line_ + i * lines_at_once, inside ? operand_.at(rows_[i], depth_of_k) : nullptr);
            } else {
#pragma unroll
                for (int i = 0; i < count; ++i) {
                    const int line = line_ + i * lines_at_once;
                    const bool inside = k0 + line < end;
                    copy(stage, line, inside ? operand_.at(rows_[0], operand_.depth(k0 + line)) : nullptr);
                }
            }
        } else {
#pragma unroll
            for (int l = 0; l < (along_k ? elements : count); ++l) {
                const int64_t k = k0 + (along_k ? piece_ * elements + l : line_ + l * lines_at_once);
                const bool inside = k < end || MMK_DEFECT(products_missing_zeros);
                const typename Operand::Depth depth_of_k = operand_.depth(inside ? k : 0);
#pragma unroll
                for (int i = 0; i < (along_k ? count : elements); ++i) {
                    const T* const from = inside ? operand_.at(rows_[i], depth_of_k) : nullptr;
                    piece_of_[along_k ? i : l].at[along_k ? l : i] = from ? *from : T{};
                }
            }
        }
    }
    __device__ __forceinline__ void deposit(T* stage) const {
        if constexpr (!whole) {
            if (side < threads && line_ >= lines_at_once) return;
#pragma unroll
            for (int i = 0; i < count; ++i)
                *reinterpret_cast<Piece*>(stage + Stage::offset(line_ + i * lines_at_once, piece_)) = piece_of_[i];
        }
    }

  private:
    __device__ __forceinline__ void copy(T* stage, int line, const T* from) const {
        cp_async<16>(stage + Stage::offset(line, piece_), from ? from : operand_.data, from ? 16 : 0);
    }
    const Operand& operand_;
    typename Operand::Row rows_[row_count];
    Piece piece_of_[whole ? 1 : count];
    int piece_, line_;
};

// Fragments of 16 rows (k0 to k0 + 15; TF32: + 7) that ldmatrix finds in a stage: as a's operand, or as b's for two tiles of 8
// columns, whose registers are 0, 1 and 2, 3. The two differ in which of the four 8 x 8 matrices comes second.
template <bool of_a, bool along_k, int rows, int depth, class T>
__device__ __forceinline__ void load_fragment(uint32_t (&fragment)[4], const T* stage, int row, int k0) {
    using Stage = TensorStage<T, along_k, rows, depth>;
    constexpr int elements = piece<T>;
    const int lane = int(threadIdx.x) % 32, low = lane % 16, high = lane / 16;
    // matrix lane / 8: its row half and its k half
    const int row_half = of_a ? low / 8 : high, k_half = of_a ? high : low / 8;
    if constexpr (along_k)
        ldmatrix(fragment, stage + (MMK_DEFECT(products_wrong_swizzle)
                                        ? (row + 8 * row_half + lane % 8) * depth + k0 + elements * k_half
                                        : Stage::offset(row + 8 * row_half + lane % 8, k0 / elements + k_half)));
    else if constexpr (!is_tf32<T>)
        ldmatrix_transposed(fragment, stage + Stage::offset(k0 + 8 * k_half + lane % 8, row / 8 + row_half));
    else
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            const bool first = of_a != MMK_DEFECT(tf32_exchanged_halves);
            const int r_row = row + lane / 4 + 8 * (first ? r % 2 : r / 2),
                      k = k0 + lane % 4 + 4 * (first ? r / 2 : r % 2);
            fragment[r] = mmk::detail::bits_of(stage[Stage::offset(k, r_row / elements) + r_row % elements].value);
        }
    if constexpr (is_tf32<T>)
#pragma unroll
        for (uint32_t& bits : fragment)
            if (!MMK_DEFECT(tf32_unrounded)) bits = to_tf32(mmk::detail::float_of(bits));
}

template <class T>
__device__ __forceinline__ void multiply_fragments(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    if constexpr (is_tf32<T>)
        mma_m16n8k8_tf32(sum, a, b);
    else
        mma_m16n8k16<T>(sum, a, b);
}

template <class Shape> struct TensorFragments {
    uint32_t a[Shape::warp_rows / 16][4], b[Shape::warp_columns / 16][4];

    template <bool a_along_k, bool b_along_k, class T>
    __device__ __forceinline__ void load(const T* left, const T* right, int row, int column, int k0) {
#pragma unroll
        for (int i = 0; i < Shape::warp_rows / 16; ++i)
            load_fragment<true, a_along_k, Shape::rows, Shape::template depth<T>>(a[i], left, row + 16 * i, k0);
#pragma unroll
        for (int j = 0; j < Shape::warp_columns / 16; ++j)
            load_fragment<false, b_along_k, Shape::columns, Shape::template depth<T>>(b[j], right, column + 16 * j, k0);
    }
};

template <class Shape, class A, class B, class Finish> __global__ void __launch_bounds__(Shape::threads, Shape::blocks)
    tensor_products(const __grid_constant__ A a, const __grid_constant__ B b, const __grid_constant__ Finish finish,
                    const __grid_constant__ ProductExtents extents, const __grid_constant__ ProductSlices slices) {
    using T = typename A::Element;
    constexpr int depth = Shape::template depth<T>, stage_elements = (Shape::rows + Shape::columns) * depth;
    constexpr int down = Shape::warp_rows / 16, across = Shape::warp_columns / 8, steps = 2, step_depth = depth / steps;
    DYN_SHARED(unsigned char, shared);
    SHARED(TilePlace, kept, [1]); // until the tile is finished: the accumulators need the registers
    T* const stages = reinterpret_cast<T*>(shared);
    float* const sums = reinterpret_cast<float*>(shared);
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    const int warp_row = warp / Shape::across * Shape::warp_rows,
              warp_column = warp % Shape::across * Shape::warp_columns;
    const Tiles<Shape> tiles(extents);
    for (int64_t work = blockIdx.x; work < tiles.count * slices.count; work += gridDim.x) {
        const int64_t slice = work / tiles.count;
        const TilePlace at = tiles[work - slice * tiles.count];
        if (threadIdx.x == 0) kept[0] = {slice * extents.batches + at.batch, at.row, at.column};
        const int64_t begin = (slices.first + slice) * slices.length;
        const int64_t end = extents.depth - begin < slices.length ? extents.depth : begin + slices.length;
        TensorFetch<A, Shape::rows, depth, Shape::threads> fetch_a(a, at.batch, at.row, extents.rows);
        TensorFetch<B, Shape::columns, depth, Shape::threads> fetch_b(b, at.batch, at.column, extents.columns);
        const int64_t last = ceil_div(end - begin, depth);
        const auto fetch = [&](int64_t index, int stage) {
            if (index >= last) return;
            T* const left = stages + stage * stage_elements;
            fetch_a.fetch(left, begin + index * depth, end);
            fetch_b.fetch(left + Shape::rows * depth, begin + index * depth, end);
        };
        const auto deposit = [&](int64_t index, int stage) {
            if (index >= last) return;
            fetch_a.deposit(stages + stage * stage_elements);
            fetch_b.deposit(stages + stage * stage_elements + Shape::rows * depth);
        };
        for (int stage = 0; stage < Shape::stages - 1; ++stage) {
            fetch(stage, stage);
            deposit(stage, stage);
            cp_async_commit();
        }
        float sum[down][across][4] = {};
        int stage = 0;
        for (int64_t index = 0; index < last; ++index) {
            // this stage has arrived, and everyone is done with the one that is fetched next
            cp_async_wait<Shape::stages - 2>();
            if (!MMK_DEFECT(products_missing_stage_barrier)) __syncthreads();
            const int free = stage == 0 ? Shape::stages - 1 : stage - 1;
            fetch(index + Shape::stages - 1, free);
            cp_async_commit();
            const T* const left = stages + stage * stage_elements;
            const T* const right = left + Shape::rows * depth;
            TensorFragments<Shape> fragments[2];
            fragments[0].template load<A::along_k, B::along_k>(left, right, warp_row, warp_column, 0);
#pragma unroll
            for (int step = 0; step < steps; ++step) {
                const TensorFragments<Shape>& now = fragments[step % 2];
                if (step + 1 < steps)
                    fragments[(step + 1) % 2].template load<A::along_k, B::along_k>(left, right, warp_row, warp_column,
                                                                                    step_depth * (step + 1));
#pragma unroll
                for (int i = 0; i < down; ++i)
#pragma unroll
                    for (int j = 0; j < across; ++j) {
                        const uint32_t pair[2] = {now.b[j / 2][j % 2 * 2], now.b[j / 2][j % 2 * 2 + 1]};
                        multiply_fragments<T>(sum[i][j], now.a[i], pair);
                    }
            }
            deposit(index + Shape::stages - 1, free);
            stage = stage + 1 == Shape::stages ? 0 : stage + 1;
        }
        cp_async_wait<0>();
        // Lane L has of a 16 x 8 tile rows L / 4 and 8 below, columns 2 (L % 4) and the next.
        for (int row = 0; row < Shape::rows; row += Shape::warp_rows) {
            __syncthreads();
            if (warp_row == row) {
#pragma unroll
                for (int i = 0; i < down; ++i)
#pragma unroll
                    for (int j = 0; j < across; ++j)
#pragma unroll
                        for (int half = 0; half < 2; ++half) {
                            float* const to =
                                sums + (16 * i + 8 * half + lane / 4) * Shape::pitch + warp_column + 8 * j;
                            *reinterpret_cast<Pack<float, 2>*>(to + lane % 4 * 2) = {
                                {sum[i][j][2 * half], sum[i][j][2 * half + 1]}};
                        }
            }
            __syncthreads();
            const TilePlace place{kept[0].batch, kept[0].row + row, kept[0].column};
            finish_tile<Shape::warp_rows, Shape::columns, Shape::threads>(finish, sums, Shape::pitch, place, extents);
        }
        __syncthreads();
    }
}

// k is cut into slices of 16384, whatever the other extents: their sums are added in order. What a long sum loses by
// being cut off stays small, and a product of few long rows occupies the device.
inline constexpr int64_t tensor_slice = 16384;

template <class Shape, class SlicedShape = Shape, class A, class B, class Finish> void
launch_tensor_products(Context& context, const A& a, const B& b, const Finish& finish, const ProductExtents& extents) {
    const auto launch = [&]<class S>(const auto& to, const ProductSlices& slices) {
        using To = std::decay_t<decltype(to)>;
        const int64_t work = Tiles<S>(extents).count * slices.count;
        MMK_LAUNCH(context, (tensor_products<S, A, B, To>), grid_of(work), S::threads, S::shared, a, b, to, extents,
                   slices);
    };
    const int64_t tiles = Tiles<Shape>(extents).count;
    if (tiles == 0) return;
    if (extents.depth <= tensor_slice)
        launch.template operator()<Shape>(finish, one_slice(extents));
    else
        in_slices<float>(context, finish, extents, tensor_slice, Tiles<SlicedShape>(extents).count,
                         [&](const auto& sums, const ProductSlices& slices) {
                             launch.template operator()<SlicedShape>(sums, slices);
                         });
}

} // namespace mmk::cuda
