// The gradients of attention of float16 and bfloat16 on Hopper, where no key is hidden, by its tensor copies and wgmma.
//
// As in attention.tensor_grad.cu a kernel owns queries and adds up gq over tiles of keys, another owns keys and adds up gk
// and gv over tiles of queries: nothing is added by atomics. Both are this one: a block owns 128 rows of two operands (q
// and gy, or k and v), 64 for each consumer warpgroup, and a producer warp brings tiles of 64 rows of the two others.
//
// Order: tiles count from row 0, those of keys through the query heads of a group, one head after another. s = x y over
// the head dimension by wgmma, dp likewise, p = 2^fma(lse, -log2(e), s scale log2(e)), ds = p (dp - delta); then gq += ds
// k, or gv += p gy and gk += ds q, with p and ds rounded to 16 bits; gq and gk are multiplied with the scale last.
// A query without a score above -inf (lse is -inf) takes no part: its gq is 0, and its rows of q and gy are cleared
// before they meet keys.
#include "attention.sm90.cuh"

namespace mmk::cuda::flash {
namespace {

constexpr int tile_rows = 64;
constexpr int atom_bytes = 64 * 128;
constexpr float infinity = __builtin_inff();

// Head dimensions are filled up with zeros to 64 or 128. A consumer's thread has 32 registers each of s and dp, and width
// / 2 of every sum: 128 + 64 of its 232 for gk and gv at 128 columns.
template <int width> struct GradientTiles {
    static constexpr int atoms = width / atom, stages = 4; // a power of two; 96 and 192 KB in all
    static constexpr uint32_t bytes = tile_rows * width * 2;
    static constexpr size_t shared_bytes = (consumers * 2 + stages * 2) * bytes;
};

template <int stages> struct GradientBarriers {
    uint64_t own_full, own_empty, full[stages], checked[stages], empty[stages];
    float lse[stages][tile_rows], delta[stages][tile_rows]; // of a tile of queries

    MMK_PTX void begin() {
        mbarrier_init(&own_full, 1), mbarrier_init(&own_empty, consumers);
        for (int i = 0; i < stages; ++i) {
            mbarrier_init(&full[i], 1), mbarrier_init(&empty[i], 4 * consumers);
            mbarrier_init(&checked[i], tile_rows);
        }
        fence_mbarrier_init();
    }
};

struct GradientMaps {
    CUtensorMap own[2], other[2], to[2]; // q and gy; k and v; gq. Or k and v; q and gy; gk and gv
};
struct GradientProblem {
    int64_t blocks; // of 128 own rows
    int heads, own_heads, group, own_rows, other_rows, columns[2];
    float scale, folded;      // folded: times log2(e)
    const float *lse, *delta; // [batch, heads, queries]
};

// 128 own rows of a head. Tiles of keys, each with the group's queries, come head after head.
struct GradientWork {
    int batch, head, first;
};
template <bool of_keys> struct GradientOrder {
    const GradientProblem& problem;
    int each; // tiles of a head
    explicit MMK_PTX GradientOrder(const GradientProblem& p)
        : problem(p), each((p.other_rows + tile_rows - 1) / tile_rows) {}
    MMK_PTX GradientWork work(int64_t index) const {
        const int per_head = (problem.own_rows + block_rows - 1) / block_rows;
        const int64_t sample = index / per_head;
        return {int(sample / problem.own_heads), int(sample % problem.own_heads), int(index % per_head) * block_rows};
    }
    MMK_PTX int tiles() const { return of_keys ? each * problem.group : each; }
    MMK_PTX int head(const GradientWork& work, int tile) const {
        return of_keys ? work.head * problem.group + tile / each : work.head / problem.group;
    }
    MMK_PTX int first(int tile) const { return (of_keys ? tile % each : tile) * tile_rows; }
};

template <int width, bool of_keys> struct GradientProducer {
    using S = GradientTiles<width>;
    const GradientProblem& problem;
    const GradientMaps& maps;
    GradientBarriers<S::stages>& barriers;
    char *own, *stages; // [consumer][operand], [stage][operand]; each [atom][row][64 columns], swizzled

    MMK_PTX static void load_rows(char* to, const CUtensorMap& map, uint64_t* full, int first, int head, int batch) {
        for (int i = 0; i < S::atoms; ++i) tensor_load(to + i * atom_bytes, map, full, i * atom, first, head, batch);
    }
    // One thread.
    MMK_PTX void copy() const {
        const GradientOrder<of_keys> order(problem);
        uint32_t count = 0, parity = 0;
        for (int64_t index = blockIdx.x; index < problem.blocks; index += gridDim.x, parity ^= 1) {
            const GradientWork work = order.work(index);
            if (!MMK_DEFECT(attention_grad_sm90_rows_overwritten)) mbarrier_wait(&barriers.own_empty, parity ^ 1);
            mbarrier_arrive_expect(&barriers.own_full, consumers * 2 * S::bytes);
            for (int i = 0; i < 2 * consumers; ++i)
                load_rows(own + i * S::bytes, maps.own[i % 2], &barriers.own_full, work.first + i / 2 * group_rows,
                          work.head, work.batch);
            for (int tile = 0; tile < order.tiles(); ++tile, ++count) {
                const Slot<S::stages> slot(count);
                uint64_t* const full = &barriers.full[slot.stage];
                mbarrier_wait(&barriers.empty[slot.stage], slot.parity ^ 1);
                mbarrier_arrive_expect(full, 2 * S::bytes);
                for (int i = 0; i < 2; ++i)
                    load_rows(stages + (2 * slot.stage + i) * S::bytes, maps.other[i], full, order.first(tile),
                              order.head(work, tile), work.batch);
            }
        }
    }
    // Two of its other warps: a thread for each query of a tile.
    MMK_PTX void check(int row) const {
        const GradientOrder<of_keys> order(problem);
        uint32_t count = 0;
        for (int64_t index = blockIdx.x; index < problem.blocks; index += gridDim.x) {
            const GradientWork work = order.work(index);
            for (int tile = 0; tile < order.tiles(); ++tile, ++count) {
                const Slot<S::stages> slot(count);
                const int query = order.first(tile) + row;
                const int64_t at =
                    (int64_t(work.batch) * problem.heads + order.head(work, tile)) * problem.other_rows + query;
                const bool exists = query < problem.other_rows;
                const float lse = exists ? problem.lse[at] : 0.0f, delta = exists ? problem.delta[at] : 0.0f;
                mbarrier_wait(&barriers.full[slot.stage], slot.parity);
                barriers.lse[slot.stage][row] = lse, barriers.delta[slot.stage][row] = delta;
                if (lse == -infinity) clear_row(stages + 2 * slot.stage * S::bytes, row);
                fence_proxy_async();
                mbarrier_arrive(&barriers.checked[slot.stage]);
            }
        }
    }
    MMK_PTX static void clear_row(char* tiles, int row) {
#pragma unroll 1
        for (int i = 0; i < 2 * S::atoms * 8; ++i)
            *reinterpret_cast<uint4*>(tiles + i / 8 * atom_bytes + row * 128 + i % 8 * 16) = make_uint4(0, 0, 0, 0);
    }
};

// A warpgroup's 64 rows. Thread w has the rows w/32 * 16 + w%32/4 and 8 below; element i of s, dp and sums is in row i/2 %
// 2 of these, column i/4 * 8 + w%4 * 2 + i%2.
template <class T, int width, bool of_keys> struct GradientConsumer {
    using S = GradientTiles<width>;
    using Fragments = uint32_t[tile_rows / 16][4];
    const GradientProblem& problem;
    GradientBarriers<S::stages>& barriers;
    char *own, *stages;
    int group, thread;
    float s[tile_rows / 2], dp[tile_rows / 2];
    float sums[of_keys ? 2 : 1][width / 2]; // gq, or gk and gv
    float lse[2], delta[2];                 // of own queries

    MMK_PTX GradientConsumer(const GradientProblem& problem_, GradientBarriers<S::stages>& barriers_, char* own_,
                             char* stages_, int group_)
        : problem(problem_), barriers(barriers_), own(own_ + group_ * 2 * S::bytes), stages(stages_), group(group_),
          thread(int(threadIdx.x) % 128) {}

    MMK_PTX int row(int half) const { return group * group_rows + thread / 32 * 16 + thread % 32 / 4 + 8 * half; }
    MMK_PTX void meet() const { barrier_sync(1 + group, 128); }

    // d = 64 x 64 products of rows
    MMK_PTX static void start_rows(float (&d)[tile_rows / 2], const char* a, const char* b) {
#pragma unroll
        for (int step = 0; step < width / 16; ++step) {
            const int at = step / 4 * atom_bytes + step % 4 * 32;
            wgmma<T>(d, wgmma_descriptor(a + at, 16, 1024, Swizzle::bytes128),
                     wgmma_descriptor(b + at, 16, 1024, Swizzle::bytes128), step > 0);
        }
        wgmma_commit();
    }
    // sum += factors times the tile's rows
    MMK_PTX static void start_sum(float (&sum)[width / 2], const Fragments& factors, const char* tile) {
#pragma unroll
        for (int step = 0; step < tile_rows / 16; ++step)
            wgmma<T, true>(sum, factors[step],
                           wgmma_descriptor(tile + step * 2048, atom_bytes, 1024, Swizzle::bytes128), true);
        wgmma_commit();
    }
    MMK_PTX static void round(Fragments& to, const float (&from)[tile_rows / 2]) {
#pragma unroll
        for (int i = 0; i < tile_rows / 4; ++i) to[i / 4][i % 4] = pack_pair<T>(from[2 * i], from[2 * i + 1]);
    }

    MMK_PTX void find_probabilities(int stage) {
        const int first = thread % 4 * 2;
#pragma unroll
        for (int i = 0; i < tile_rows / 2; ++i) {
            const float l = of_keys ? barriers.lse[stage][first + i / 4 * 8 + i % 2] : lse[i / 2 % 2];
            s[i] = softmax_exp2(fma_scalar(float(-log2_e), l, s[i] * problem.folded));
            if (of_keys && l == -infinity) s[i] = 0.0f;
        }
    }
    // dp becomes ds; keys past the end are none.
    MMK_PTX void find_differences(int stage, int left) {
        const int first = thread % 4 * 2;
#pragma unroll
        for (int i = 0; i < tile_rows / 2; ++i) {
            const int column = i / 4 * 8 + i % 2;
            const float e = of_keys ? barriers.delta[stage][first + column] : delta[i / 2 % 2];
            dp[i] = s[i] * (dp[i] - e);
            if (!of_keys && column >= left - first) dp[i] = 0.0f;
            if (of_keys && barriers.lse[stage][first + column] == -infinity) dp[i] = 0.0f;
        }
    }

    MMK_PTX void add_tile(Slot<S::stages> slot, int left) {
        const char *const one = stages + 2 * slot.stage * S::bytes, *const two = one + S::bytes;
        if (!MMK_DEFECT(attention_grad_sm90_skipped_full)) mbarrier_wait(&barriers.full[slot.stage], slot.parity);
        if (of_keys && !MMK_DEFECT(attention_grad_sm90_skipped_check))
            mbarrier_wait(&barriers.checked[slot.stage], slot.parity);
        wgmma_fence();
        start_rows(s, own, one);
        start_rows(dp, own + S::bytes, two);
        wgmma_wait<1>();
        wgmma_keep(s);
        find_probabilities(slot.stage);
        Fragments p, ds;
        if constexpr (of_keys) round(p, s);
        wgmma_wait<0>();
        wgmma_keep(dp);
        find_differences(slot.stage, left);
        round(ds, dp);
        wgmma_fence();
        if constexpr (of_keys) start_sum(sums[1], p, two);
        start_sum(sums[0], ds, one);
        wgmma_wait<0>();
        for (auto& sum : sums) wgmma_keep(sum);
        __syncwarp();
        if (thread % 32 == 0) mbarrier_arrive(&barriers.empty[slot.stage]);
    }

    // Through the memory of this warpgroup's rows, which it is done with.
    MMK_PTX void write(const GradientMaps& maps, const GradientWork& work) {
        const int lane = thread % 32, line = thread / 32 * 16 + lane % 16;
        constexpr int results = of_keys ? 2 : 1;
        meet();
#pragma unroll
        for (int which = 0; which < results; ++which)
#pragma unroll
            for (int step = 0; step < width / 16; ++step) {
                const float scale = which == 0 ? problem.scale : 1.0f;
                uint32_t pairs[4];
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    pairs[i] = pack_pair<T>(sums[which][8 * step + 2 * i] * scale + 0.0f,
                                            sums[which][8 * step + 2 * i + 1] * scale + 0.0f);
                const int piece = step % 4 * 2 + lane / 16;
                stmatrix(own + which * S::bytes + step / 4 * atom_bytes + line * 128 + (piece ^ line % 8) * 16, pairs);
            }
        fence_proxy_async();
        meet();
        if (thread == 0) {
            const int first = work.first + group * group_rows;
            for (int i = 0; i < results * S::atoms; ++i)
                if (i % S::atoms * atom < problem.columns[i / S::atoms] && first < problem.own_rows)
                    tensor_store(maps.to[i / S::atoms], own + i * atom_bytes, i % S::atoms * atom, first, work.head,
                                 work.batch);
            bulk_commit();
            if (!MMK_DEFECT(attention_grad_sm90_unread_results)) bulk_wait_read<0>();
            mbarrier_arrive(&barriers.own_empty);
        }
        __syncwarp();
    }
    MMK_PTX void begin(const GradientWork& work) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int query = work.first + row(half);
            const bool exists = !of_keys && query < problem.own_rows;
            const int64_t at = (int64_t(work.batch) * problem.heads + work.head) * problem.own_rows + query;
            lse[half] = exists ? problem.lse[at] : 0.0f, delta[half] = exists ? problem.delta[at] : 0.0f;
        }
        for (auto& sum : sums)
#pragma unroll
            for (float& value : sum) value = 0.0f;
    }
    MMK_PTX void run(const GradientMaps& maps) {
        const GradientOrder<of_keys> order(problem);
        uint32_t count = 0, parity = 0;
        for (int64_t index = blockIdx.x; index < problem.blocks; index += gridDim.x, parity ^= 1) {
            const GradientWork work = order.work(index);
            begin(work);
            mbarrier_wait(&barriers.own_full, parity);
#pragma unroll 1
            for (int tile = 0; tile < order.tiles(); ++tile, ++count)
                add_tile(Slot<S::stages>(count), problem.other_rows - order.first(tile));
            if constexpr (!of_keys)
#pragma unroll
                for (int i = 0; i < width / 2; ++i)
                    if (lse[i / 2 % 2] == -infinity) sums[0][i] = 0.0f;
            write(maps, work);
        }
    }
};

template <class T, int width, bool of_keys> __global__ void __launch_bounds__(hopper_threads, 1)
    differentiate_on_hopper(const __grid_constant__ GradientMaps maps,
                            const __grid_constant__ GradientProblem problem) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
    using S = GradientTiles<width>;
    DYN_SHARED(char, memory);
    SHARED(GradientBarriers<S::stages>, barriers, [1]);
    char* const stages = memory + consumers * 2 * S::bytes;
    if (threadIdx.x == 0) barriers[0].begin();
    __syncthreads();
    if (threadIdx.x < 128) {
        registers_decrease<40>(); // 40 + 2 * 232 = 3 * 168, with which the threads were launched
        const GradientProducer<width, of_keys> producer{problem, maps, barriers[0], memory, stages};
        if (threadIdx.x == 0)
            producer.copy();
        else if (of_keys && threadIdx.x >= 64)
            producer.check(int(threadIdx.x) - 64);
    } else {
        registers_increase<232>();
        GradientConsumer<T, width, of_keys>(problem, barriers[0], memory, stages, int(threadIdx.x) / 128 - 1).run(maps);
    }
#else
    __trap(); // a build without sm_90a
#endif
}

// ---- on the host --------------------------------------------------------------------------------------------------------

// What a kernel owns, what it is brought, and where sums go.
struct Roles {
    Tensor own[2], other[2], to[2];
};
template <class T, int width, bool of_keys>
void launch(Context& context, const AttentionGrad& op, const Roles& roles, const float* lse, const float* delta) {
    const Tensor &own = roles.own[0], &other = roles.other[0];
    const int heads = int(op.q.extent[1]), key_heads = int(op.k.extent[1]);
    const int64_t blocks = own.extent[0] * own.extent[1] * ceil_div(own.extent[2], block_rows);
    if (blocks == 0) return;
    const GradientProblem problem{blocks,
                                  heads,
                                  int(own.extent[1]),
                                  heads / key_heads,
                                  int(own.extent[2]),
                                  int(other.extent[2]),
                                  {int(roles.to[0].extent[3]), int(roles.to[1].extent[3])},
                                  float(op.scale),
                                  float(op.scale * log2_e),
                                  lse,
                                  delta};
    GradientMaps maps;
    for (int i = 0; i < 2; ++i) {
        maps.own[i] = map_of<T>(roles.own[i], group_rows), maps.other[i] = map_of<T>(roles.other[i], tile_rows);
        maps.to[i] = map_of<T>(roles.to[i], group_rows);
    }
    const int64_t resident = blocks < context.multiprocessors ? blocks : context.multiprocessors;
    MMK_LAUNCH(context, (differentiate_on_hopper<T, width, of_keys>), grid_of(resident), hopper_threads,
               GradientTiles<width>::shared_bytes, maps, problem);
}
template <class T, int width> void launch(Context& context, const AttentionGrad& op, const Roles& of_queries,
                                          const Roles& of_keys, const float* lse, const float* delta) {
    launch<T, width, false>(context, op, of_queries, lse, delta);
    launch<T, width, true>(context, op, of_keys, lse, delta);
}

// What decides is no free extent, but for extents beyond 2^30 and for no queries or keys at all.
bool serves(const AttentionGrad& op) {
    if (has_options(op)) return false;
    const int64_t depth = op.q.extent[3], columns = op.v.extent[3];
    const auto some = [](int64_t extent) { return extent > 0 && extent <= 1 << 30; };
    return itemsize(op.q.dtype) == 2 && !op.mask && !op.bias && op.causal == 0 && depth % 8 == 0 && depth > 0 &&
           depth <= 128 && columns % 8 == 0 && columns > 0 && columns <= 128 && some(op.q.extent[0]) &&
           some(op.k.extent[1]) && some(op.q.extent[2]) && some(op.k.extent[2]);
}

} // namespace

bool attention_grad_sm90(Context& context, const AttentionGrad& op, const float* lse, const float* delta) {
    if (!serves(op) || !context.hopper()) return false;
    context.chose("tensor copies and wgmma", "MMK_CUDA_ARCH=sm_90a; no option, no key hidden, at most 128 columns");
    const auto in_rows = [&](const Tensor& x) { return lies_in_rows(x) ? x : pack(context, x); };
    const auto to_rows = [&](const Tensor& y) { return lies_in_rows(y) ? y : contiguous_scratch(context, y); };
    const Tensor q = in_rows(op.q), k = in_rows(op.k), v = in_rows(op.v), gy = in_rows(op.gy);
    const Tensor gq = to_rows(op.gq), gk = to_rows(op.gk), gv = to_rows(op.gv);
    const Roles of_queries{{q, gy}, {k, v}, {gq, gq}}, of_keys{{k, v}, {q, gy}, {gk, gv}};
    const bool wide = q.extent[3] > 64 || v.extent[3] > 64;
    if (q.dtype == DType::float16)
        wide ? launch<float16, 128>(context, op, of_queries, of_keys, lse, delta)
             : launch<float16, 64>(context, op, of_queries, of_keys, lse, delta);
    else
        wide ? launch<bfloat16, 128>(context, op, of_queries, of_keys, lse, delta)
             : launch<bfloat16, 64>(context, op, of_queries, of_keys, lse, delta);
    const Tensor* const written[3][2] = {{&op.gq, &gq}, {&op.gk, &gk}, {&op.gv, &gv}};
    for (const auto& [to, from] : written)
        if (to->data != from->data) copy_strided(context, *to, *from);
    return true;
}

} // namespace mmk::cuda::flash
