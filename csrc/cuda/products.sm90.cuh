// Sums of products of float16 and bfloat16 on Hopper, by its tensor copies and wgmma: what matrix products and
// convolutions share. matmul.sm90.cu, conv.sm90.cu and conv.weight.sm90.cu bring the problem: where operands and results
// lie.
//
// A block is a producer warpgroup, whose first thread copies tiles of both operands into a ring of stages, and two
// consumer warpgroups, which multiply them. Blocks stay and take tile after tile: while the consumers end one, the ring
// fills with the next.
//
// Order: k rises in steps of 16 from 0, one float32 accumulator a sum, as in products.tensor.cuh; slices of 16384
// products likewise. Tiles, batches and extents of the result show in no bit. A product past the end is 0 * 0.
#pragma once

#include "products.tensor.cuh"

namespace mmk::cuda::hopper {

inline constexpr int consumers = 2, group_rows = 64, threads = 128 * (1 + consumers);
inline constexpr int depth = 64;                  // products of a step: a swizzled row of 128 bytes
inline constexpr int atom = 64 * 128;             // bytes of 64 such rows
inline constexpr int box_columns = 64, boxes = 2; // of results on their way out, for each consumer

// Two consumers have the halves of a tile: upper and lower, or left and right where there is only one row of 64. A
// thread holds columns / 2 sums, 128 of its 232 registers at most. A step of the large tile is 1024 clocks of the tensor
// cores for 48 KB from the second cache; half as wide it is 32 KB for 512, and a quarter 24 KB for 256, so that the
// cache sets the pace: these are for results that would leave multiprocessors idle. Stages take 192 KB each time, boxes
// of results 32 KB.
template <int rows_, int columns_, int stages_> struct Shape {
    static constexpr int rows = rows_, columns = columns_, stages = stages_;
    static constexpr bool stacked = rows == consumers * group_rows;
    static constexpr int group_columns = stacked ? columns : columns / consumers;
    static constexpr uint32_t left_bytes = rows * 128, right_bytes = columns * 128, stage = left_bytes + right_bytes;
    static constexpr size_t shared = stages * stage + consumers * boxes * atom;
    static_assert(group_columns % box_columns == 0 && group_columns <= 256 && (stacked || rows == group_rows));
    static_assert(shared + 1024 <= 227 << 10);
};
using LargeShape = Shape<128, 256, 4>;
using MiddleShape = Shape<128, 128, 6>;
using SmallShape = Shape<64, 128, 8>;

template <int stages> struct Barriers {
    uint64_t full[stages], empty[stages];

    MMK_PTX void begin() {
        for (int i = 0; i < stages; ++i) mbarrier_init(&full[i], 1), mbarrier_init(&empty[i], 4 * consumers);
        fence_mbarrier_init();
    }
};
template <int stages> struct Ring {
    int stage = 0;
    uint32_t parity = 0;
    MMK_PTX void advance() {
        if (++stage == stages) stage = 0, parity ^= 1;
    }
};

// A tile, and the steps that are summed for it.
struct Job {
    TilePlace at;
    int64_t slice;
    int begin, end;
};
template <class Shape> struct Schedule {
    Tiles<Shape> tiles;
    int64_t count, first_slice;
    int steps, slice_steps;

    Schedule(const ProductExtents& extents, int steps_, const ProductSlices& slices)
        : tiles(extents), count(tiles.count * slices.count), first_slice(slices.first), steps(steps_),
          slice_steps(int(ceil_div(slices.length, depth))) {}
    MMK_MEMBER Job operator[](int64_t index) const {
        const int64_t slice = index / tiles.count;
        const int begin = int(first_slice + slice) * slice_steps;
        const int end = steps - begin < slice_steps ? steps : begin + slice_steps;
        return {tiles[index - slice * tiles.count], slice, begin, end};
    }
};

// What becomes of sums: + bias or + 0, + the problem's residual, activation, one rounding; or, of a slice, nothing yet.
template <class T> struct Ending {
    const T* bias; // or null
    int64_t bias_batch;
    Activation activation;
    float* sums; // of slices, [slice][batch][row][column], or null
    int64_t batches, rows, columns;
};

// A Problem:
//     using Element;  static constexpr bool a_turned, b_turned, only_sums, ragged, has_residual;
//     static constexpr int pieces
//     void prepare<Shape>(char* stages) const                by all threads, before anything else
//     void prefetch() const                                  of tensor maps
//     Place place<Shape>(const Job&) const                   what is known of a tile
//     uint32_t bytes<Shape>() const                          of a step, as tensor copies count them
//     void load<Shape>(char* left, uint64_t* full, const Place&, int step) const
//     int64_t row(const Place&, int row) const               the number of a tile's row among the results' rows, or -1
//     void store(const char* box, const Place&, int row, int column) const    64 x 64 results, some of which exist
// turned: rows are neighbours in memory, not k. pieces: 2 where a step's 64 products are copied as twice 32. only_sums:
// there is no ending, sums are kept. ragged: `whole` says whether store() can be used; else results go to `y`, dense.
// has_residual: `residual` may be given, residual_at() finds a row of it.
template <class Shape, class Problem> MMK_PTX void produce(const Problem& problem, const Schedule<Shape>& schedule,
                                                           char* stages, Barriers<Shape::stages>& barriers) {
    Ring<Shape::stages> ring;
    problem.prefetch();
    for (int64_t index = blockIdx.x; index < schedule.count; index += gridDim.x) {
        const Job job = schedule[index];
        const auto place = problem.template place<Shape>(job);
        for (int step = job.begin; step < job.end; ++step, ring.advance()) {
            uint64_t* const full = &barriers.full[ring.stage];
            if (!MMK_DEFECT(products_sm90_stage_overwritten))
                mbarrier_wait(&barriers.empty[ring.stage], ring.parity ^ 1);
            mbarrier_arrive_expect(full, problem.template bytes<Shape>());
            problem.template load<Shape>(stages + ring.stage * Shape::stage, full, place, step);
        }
    }
}

template <class T> MMK_PTX uint32_t pack_pair(float low, float high) {
    if constexpr (std::is_same_v<T, float16>)
        return pack_f16(low, high);
    else
        return pack_bf16(low, high);
}

// A warpgroup's share of tiles: 64 rows. Thread w has the rows w/32 * 16 + w%32/4 and 8 below; element i of d is in row
// i/2 % 2 of these, column i/4 * 8 + w%4 * 2 + i%2.
template <class Shape, class Problem> struct Consumer {
    using T = typename Problem::Element;
    using Place = typename Problem::Place;
    const Problem& problem;
    const Ending<T>& ending;
    Barriers<Shape::stages>& barriers;
    char *stages, *results;
    int group, thread, turn = 0;
    Ring<Shape::stages> ring;
    float d[Shape::group_columns / 2];

    MMK_PTX Consumer(const Problem& problem_, const Ending<T>& ending_, Barriers<Shape::stages>& barriers_,
                     char* memory)
        : problem(problem_), ending(ending_), barriers(barriers_), stages(memory),
          results(memory + Shape::stages * Shape::stage), group(int(threadIdx.x) / 128 - 1),
          thread(int(threadIdx.x) % 128) {
        results += group * boxes * atom;
    }

    MMK_PTX int first_row() const { return Shape::stacked ? group * group_rows : 0; }
    MMK_PTX int first_column() const { return Shape::stacked ? 0 : group * Shape::group_columns; }
    MMK_PTX void meet() const { barrier_sync(1 + group, 128); }
    // Each warp says that its own products have been waited for.
    MMK_PTX void release(int stage) const {
        __syncwarp();
        if (thread % 32 == 0) mbarrier_arrive(&barriers.empty[stage]);
    }

    // Operands lie in atoms: 64 rows of 128 bytes along k; two in the place of one, with rows of 64 bytes; or, turned, 64
    // k with rows of 128 bytes, one atom beside another.
    MMK_PTX void multiply_step(bool first) {
        constexpr bool a_turned = Problem::a_turned, b_turned = Problem::b_turned;
        constexpr int line = 128 / Problem::pieces, instructions = depth / 16 / Problem::pieces; // of a piece
        constexpr Swizzle swizzle = Problem::pieces == 1 ? Swizzle::bytes128 : Swizzle::bytes64;
        const char* const a = stages + ring.stage * Shape::stage + first_row() * line;
        const char* const b = stages + ring.stage * Shape::stage + Shape::left_bytes + first_column() * line;
        if (!MMK_DEFECT(products_sm90_skipped_full)) mbarrier_wait(&barriers.full[ring.stage], ring.parity);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < depth / 16; ++i) {
            const int piece = i / instructions, k = i % instructions;
            const char* const left = a + piece * Shape::rows * line + k * (a_turned ? 2048 : 32);
            const char* const right = b + piece * Shape::columns * line + k * (b_turned ? 2048 : 32);
            wgmma<T, a_turned, b_turned>(d, wgmma_descriptor(left, atom, 8 * line, swizzle),
                                         wgmma_descriptor(right, atom, 8 * line, swizzle), !first || i > 0);
        }
        wgmma_commit();
        ring.advance();
    }
    // The products of one step are under way while the next one is waited for.
    MMK_PTX void multiply(const Job& job) {
        int before = ring.stage;
        multiply_step(true);
#pragma unroll 1
        for (int step = job.begin + 1; step < job.end; ++step) {
            const int stage = ring.stage;
            multiply_step(false);
            if (!MMK_DEFECT(products_sm90_early_release)) wgmma_wait<1>();
            release(before);
            before = stage;
        }
        wgmma_wait<0>();
        wgmma_keep(d);
        release(before);
    }

    using Values = float[box_columns / 2]; // of 64 columns
    // The code that ends them is there once: what follows is no loop over registers by number.
    MMK_PTX void take(Values& v, int first) const {
#pragma unroll
        for (int i = 0; i < Shape::group_columns / 2; ++i)
            if (i / (box_columns / 2) * box_columns == first) v[i % (box_columns / 2)] = d[i];
    }
    MMK_PTX void keep(const Values& v, const Job& job, const int64_t (&rows)[2], int64_t column) const {
#pragma unroll
        for (int i = 0; i < box_columns / 2; i += 2) {
            const int64_t row = rows[i / 2 % 2], at = column + i / 4 * 8;
            if (row < 0 || at >= ending.columns) continue;
            float* const to =
                ending.sums + ((job.slice * ending.batches + job.at.batch) * ending.rows + row) * ending.columns + at;
            if (ending.columns % 2 == 0) {
                *reinterpret_cast<Pack<float, 2>*>(to) = {{v[i], v[i + 1]}};
            } else {
                to[0] = v[i];
                if (at + 1 < ending.columns) to[1] = v[i + 1];
            }
        }
    }
    MMK_PTX void add_bias(Values& v, int64_t batch, int64_t column) const {
        const T* const bias = ending.bias ? ending.bias + batch * ending.bias_batch + column : nullptr;
#pragma unroll
        for (int i = 0; i < box_columns / 2; i += 4)
#pragma unroll
            for (int odd = 0; odd < 2; ++odd) {
                const int at = i / 4 * 8 + odd;
                const float b = bias && column + at < ending.columns ? widen(bias[at]) : 0.0f;
                v[i + odd] += b, v[i + 2 + odd] += b;
            }
    }
    MMK_PTX void add_residual(Values& v, const Job& job, const int64_t (&rows)[2], int64_t column) const {
        if (!problem.residual) return;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            if (rows[half] < 0) continue;
            const T* const from = problem.residual_at(job.at.batch, rows[half], column);
#pragma unroll
            for (int i = 0; i < box_columns / 2; ++i) {
                const int at = i / 4 * 8 + i % 2;
                if (i / 2 % 2 == half && column + at < ending.columns) v[i] += widen(from[at * problem.residual_step]);
            }
        }
    }
    MMK_PTX void round_into(char* box, const Values& v) const { // swizzled
        const int lane = thread % 32, line = thread / 32 * 16 + lane % 16;
#pragma unroll
        for (int step = 0; step < box_columns / 16; ++step) {
            uint32_t pairs[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) pairs[i] = pack_pair<T>(v[8 * step + 2 * i], v[8 * step + 2 * i + 1]);
            stmatrix(box + line * 128 + ((step * 2 + lane / 16) ^ line % 8) * 16, pairs);
        }
    }
    // Where a tensor copy cannot write: a warp a row.
    MMK_PTX void store_some(const Job& job, const Place& place, const char* box, int64_t column) const {
        const int left = ending.columns - column < box_columns ? int(ending.columns - column) : box_columns;
#pragma unroll 1
        for (int line = thread / 32; line < group_rows; line += 4) {
            const int64_t row = problem.row(place, first_row() + line);
            if (row < 0) return;
            T* const to = problem.y + (job.at.batch * ending.rows + row) * ending.columns + column;
#pragma unroll 1
            for (int i = thread % 32; i < left; i += 32)
                to[i] = *reinterpret_cast<const T*>(box + line * 128 + (i / 8 ^ line % 8) * 16 + i % 8 * 2);
        }
    }
    MMK_PTX void end_box(Values& v, const Job& job, const Place& place, const int64_t (&rows)[2], int64_t column) {
        add_bias(v, job.at.batch, column + thread % 4 * 2);
        if constexpr (Problem::has_residual) add_residual(v, job, rows, column + thread % 4 * 2);
        visit_activation(ending.activation, [&](auto activate) {
#pragma unroll
            for (float& value : v) value = activate(Vec<float>(value)).v;
        });
        char* const box = results + turn * atom;
        turn ^= 1;
        if (thread == 0) bulk_wait_read<1>(); // the box before the last has left
        meet();
        round_into(box, v);
        fence_proxy_async();
        if (!MMK_DEFECT(products_sm90_early_store)) meet();
        if constexpr (Problem::ragged)
            if (!problem.whole) return store_some(job, place, box, column);
        if (thread == 0) {
            problem.store(box, place, first_row(), int(column));
            bulk_commit();
        }
        __syncwarp();
    }
    MMK_PTX void end(const Job& job, const Place& place) {
        int64_t rows[2];
#pragma unroll
        for (int half = 0; half < 2; ++half)
            rows[half] = problem.row(place, first_row() + thread / 32 * 16 + thread % 32 / 4 + 8 * half);
        const int64_t column = job.at.column + first_column();
#pragma unroll 1
        for (int first = 0; first < Shape::group_columns && column + first < ending.columns; first += box_columns) {
            Values v;
            take(v, first);
            if (Problem::only_sums || ending.sums)
                keep(v, job, rows, column + first + thread % 4 * 2);
            else if constexpr (!Problem::only_sums)
                end_box(v, job, place, rows, column + first);
        }
    }

    MMK_PTX void run(const Schedule<Shape>& schedule) {
        for (int64_t index = blockIdx.x; index < schedule.count; index += gridDim.x) {
            const Job job = schedule[index];
            multiply(job);
            end(job, problem.template place<Shape>(job));
        }
        if (thread == 0 && !MMK_DEFECT(products_sm90_unread_results)) bulk_wait_read<0>();
    }
};

template <class Shape, class Problem> __global__ void __launch_bounds__(threads, 1)
    products_on_hopper(const __grid_constant__ Problem problem, const __grid_constant__ Schedule<Shape> schedule,
                       const __grid_constant__ Ending<typename Problem::Element> ending) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
    DYN_SHARED(char, memory);
    SHARED(Barriers<Shape::stages>, barriers, [1]);
    problem.template prepare<Shape>(memory);
    if (threadIdx.x == 0) barriers[0].begin();
    __syncthreads();
    if (threadIdx.x < 128) {
        registers_decrease<40>(); // 40 + 2 * 232 = 3 * 168, with which the threads were launched
        if (threadIdx.x == 0) produce(problem, schedule, memory, barriers[0]);
    } else {
        registers_increase<232>();
        Consumer<Shape, Problem>(problem, ending, barriers[0], memory).run(schedule);
    }
#else
    __trap(); // a build without sm_90a
#endif
}

// ---- on the host ------------------------------------------------------------------------------------------------------

// Rounds of the device, each as long as its pace lets a step be (see Shape). No bit depends on it.
template <class Body> void visit_shape(Context& context, const ProductExtents& extents, Body&& body) {
    const auto cost = [&]<class S>(S, int64_t step) {
        return ceil_div(Tiles<S>(extents).count, context.multiprocessors) * step;
    };
    const int64_t large = cost(LargeShape(), 16), middle = cost(MiddleShape(), 10), small = cost(SmallShape(), 7);
    if (large <= middle && large <= small) {
        context.chose("tensor copies and wgmma, 128 x 256", "MMK_CUDA_ARCH=sm_90a; large tiles occupy the device");
        return body(LargeShape());
    }
    if (middle <= small) {
        context.chose("tensor copies and wgmma, 128 x 128", "MMK_CUDA_ARCH=sm_90a; fewest rounds of the device");
        return body(MiddleShape());
    }
    context.chose("tensor copies and wgmma, 64 x 128", "MMK_CUDA_ARCH=sm_90a; fewest rounds of the device");
    body(SmallShape());
}

template <class Shape, class Problem> void launch_products(Context& context, const Problem& problem,
                                                           const Schedule<Shape>& schedule,
                                                           const Ending<typename Problem::Element>& ending) {
    const int64_t resident = schedule.count < context.multiprocessors ? schedule.count : context.multiprocessors;
    if (resident > 0)
        MMK_LAUNCH(context, (products_on_hopper<Shape, Problem>), grid_of(resident), threads, Shape::shared, problem,
                   schedule, ending);
}

// A map of the tensor whose axes are innermost first; strides (in elements) of axes of one element do not matter.
template <class T, int rank> void encode(CUtensorMap& map, const T* data, const int64_t (&extent)[rank],
                                         const int64_t (&stride)[rank], const int (&box)[rank],
                                         const int* steps = nullptr, Swizzle swizzle = Swizzle::bytes128) {
    uint64_t extents[rank], strides[rank];
    uint32_t sizes[rank], every[rank];
    for (int i = 0; i < rank; ++i) {
        extents[i] = uint64_t(extent[i]), sizes[i] = uint32_t(box[i]), every[i] = steps ? uint32_t(steps[i]) : 1;
        if (i > 0) strides[i - 1] = 2 * uint64_t(extent[i] == 1 ? ceil_div(extent[0], 8) * 8 : stride[i]);
    }
    if (!encode_tensor_map(map, data, rank, extents, strides, sizes, swizzle, every))
        fail("the driver does not encode a tensor map of products");
}

} // namespace mmk::cuda::hopper
