// attention of float16 and bfloat16 on Hopper, by its tensor copies and wgmma.
//
// A block takes 128 queries at a time: two consumer warpgroups of 64 queries, and a producer warpgroup whose first warp
// copies queries, keys and values into shared memory, some tiles ahead. A consumer has its scores and results in
// registers; it issues the next tile's scores before the softmax of this one, and the two consumers take turns at the
// tensor cores, so that one's softmax runs under the other's products (Shah et al. 2024, arXiv 2407.08608).
//
// Order: key tiles count from key 0. In a tile s = q k by wgmma over d; with m the running maximum of s and c = scale
// log2(e), p = 2^fma(s, c, -m c), a = 2^fma(m_before, c, -m c). Each thread adds the p of its columns in order, l = fma(l,
// a, sum); a row's four threads are added last, as (0 + 1) + (2 + 3). O = O a, then O += p v by wgmma with p rounded to 16
// bits. Keys that a row does not see multiply a tile's values with +0, which changes nothing as long as these are
// finite: values that are not are taken out of tiles with hidden keys, and given to the rows that see them afterwards.
#include "attention.sm90.cuh"

namespace mmk::cuda::flash {
namespace {

constexpr int inspectors = 3; // the producer's other warps
constexpr float infinity = __builtin_inff();

// Head dimensions are filled up with zeros to 64, 128 or 256. A consumer's thread has keys / 2 scores, keys / 4 registers
// of probabilities and width / 2 results: 96 + 32, 96 + 64, 48 + 128 of its 232 registers.
template <int width> struct Tiles {
    static constexpr int keys = width == 256 ? 64 : 128, atoms = width / atom;
    static constexpr int stages = width == 64 ? 4 : 2; // a power of two; 144, 160 and 192 KB in all
    static constexpr uint32_t query_bytes = group_rows * width * 2, tile_bytes = keys * width * 2;
    static constexpr size_t shared_bytes = consumers * query_bytes + 2 * stages * tile_bytes;
};

template <int width> struct Room {
    char *queries, *keys, *values; // [consumer], [stage], [stage]; each [atom][row][64 columns], swizzled
};

template <int stages> struct Barriers {
    uint64_t queries_full, queries_empty;
    uint64_t keys_full[stages], keys_empty[stages];
    uint64_t values_full[stages], values_checked[stages], values_empty[stages];
    int not_finite[stages][inspectors]; // whether a warp has found such values

    MMK_PTX void begin() {
        mbarrier_init(&queries_full, 1), mbarrier_init(&queries_empty, consumers);
        for (int i = 0; i < stages; ++i) {
            mbarrier_init(&keys_full[i], 1), mbarrier_init(&values_full[i], 1);
            mbarrier_init(&keys_empty[i], 4 * consumers), mbarrier_init(&values_empty[i], 4 * consumers);
            mbarrier_init(&values_checked[i], 32 * inspectors);
        }
        fence_mbarrier_init();
    }
};

// 128 queries of a head, and the key tiles that any of them sees: of those before `whole`, all see every key.
struct Work {
    int batch, head, first, tiles, whole;
};

struct Problem {
    int64_t blocks; // of 128 queries
    int heads, group, queries, keys, columns;
    int diagonal; // query i sees the keys below i + diagonal
    bool causal;
    float scale; // times log2(e)
    const uint16_t* values;
    int64_t value_batch, value_head, value_row;
    float* lse; // [batch, heads, queries], or null

    MMK_PTX int limit(int query) const {
        const int end = query + diagonal;
        return end < 0 ? 0 : end > keys ? keys : end;
    }
    // A head's last queries come first: under a triangle they see most, and short work fills the gaps at the end.
    template <int width> MMK_PTX Work work(int64_t index) const {
        const int per_head = (queries + block_rows - 1) / block_rows;
        const int64_t sample = index / per_head;
        const int first = (per_head - 1 - int(index % per_head)) * block_rows;
        const int last = (first + block_rows < queries ? first + block_rows : queries) - 1;
        constexpr int tile = Tiles<width>::keys;
        return {int(sample / heads), int(sample % heads), first, (limit(last) + tile - 1) / tile, limit(first) / tile};
    }
};

// ---- the producer ------------------------------------------------------------------------------------------------------

struct Maps {
    const CUtensorMap &q, &k, &v;
};

template <int width> struct Producer {
    const Problem& problem;
    const Maps& maps;
    const Room<width>& room;
    Barriers<Tiles<width>::stages>& barriers;
    using S = Tiles<width>;

    MMK_PTX void load_queries(const Work& work, uint32_t parity) const {
        if (!MMK_DEFECT(attention_sm90_queries_overwritten)) mbarrier_wait(&barriers.queries_empty, parity ^ 1);
        mbarrier_arrive_expect(&barriers.queries_full, consumers * S::query_bytes);
        for (int i = 0; i < consumers * S::atoms; ++i)
            tensor_load(room.queries + i * group_rows * 128, maps.q, &barriers.queries_full, i % S::atoms * atom,
                        work.first + i / S::atoms * group_rows, work.head, work.batch);
    }
    MMK_PTX void load_tile(const Work& work, int tile, char* to, const CUtensorMap& map, uint64_t* full) const {
        mbarrier_arrive_expect(full, S::tile_bytes);
        for (int i = 0; i < S::atoms; ++i)
            tensor_load(to + i * S::keys * 128, map, full, i * atom, tile * S::keys, work.head / problem.group,
                        work.batch);
    }
    MMK_PTX void load_keys(const Work& work, int tile, uint32_t count) const {
        const Slot<S::stages> slot(count);
        mbarrier_wait(&barriers.keys_empty[slot.stage], slot.parity ^ 1);
        load_tile(work, tile, room.keys + slot.stage * S::tile_bytes, maps.k, &barriers.keys_full[slot.stage]);
    }
    MMK_PTX void load_values(const Work& work, int tile, uint32_t count) const {
        const Slot<S::stages> slot(count);
        mbarrier_wait(&barriers.values_empty[slot.stage], slot.parity ^ 1);
        load_tile(work, tile, room.values + slot.stage * S::tile_bytes, maps.v, &barriers.values_full[slot.stage]);
    }

    // One thread. In the order in which the consumers want them.
    MMK_PTX void run() const {
        prefetch_tensor_map(maps.q), prefetch_tensor_map(maps.k), prefetch_tensor_map(maps.v);
        uint32_t count = 0, parity = 0;
        for (int64_t index = blockIdx.x; index < problem.blocks; index += gridDim.x, parity ^= 1) {
            const Work work = problem.work<width>(index);
            if (work.tiles > 0) load_keys(work, 0, count);
            load_queries(work, parity);
            for (int tile = 0; tile < work.tiles; ++tile, ++count) {
                if (tile + 1 < work.tiles) load_keys(work, tile + 1, count + 1);
                load_values(work, tile, count);
            }
        }
    }
};

// ---- values that are not finite -----------------------------------------------------------------------------------------

template <class T> inline constexpr uint32_t exponent_bits = std::is_same_v<T, float16> ? 0x7c007c00u : 0x7f807f80u;
template <class T> inline constexpr uint32_t exponent_unit = std::is_same_v<T, float16> ? 0x04000400u : 0x00800080u;

// Of two 16-bit numbers: the sign bits' places, set where a number is an infinity or NaN.
template <class T> MMK_PTX uint32_t not_finite(uint32_t pair) {
    return ((pair & exponent_bits<T>)+exponent_unit<T>)&0x80008000u;
}
template <class T> MMK_PTX bool clear_not_finite(uint32_t& pair) {
    const uint32_t found = not_finite<T>(pair);
    pair &= ~((found >> 15) * 0xffffu);
    return found != 0;
}
template <class T> MMK_PTX float upper_half(uint32_t pair) {
    if constexpr (std::is_same_v<T, float16>)
        return widen_bits(float16{uint16_t(pair >> 16)});
    else
        return widen_bits(bfloat16{uint16_t(pair >> 16)});
}

// The producer's other warps: they clear such values in tiles where keys are hidden from some rows.
template <class T, int width>
MMK_PTX void inspect(const Problem& problem, const Room<width>& room, Barriers<Tiles<width>::stages>& barriers) {
    using S = Tiles<width>;
    const int thread = int(threadIdx.x) - 32, warp = thread / 32;
    uint32_t count = 0;
    for (int64_t index = blockIdx.x; index < problem.blocks; index += gridDim.x) {
        const Work work = problem.work<width>(index);
        for (int tile = 0; tile < work.tiles; ++tile, ++count) {
            const Slot<S::stages> slot(count);
            mbarrier_wait(&barriers.values_full[slot.stage], slot.parity);
            bool found = false;
            if (tile >= work.whole) {
                auto* const pieces = reinterpret_cast<uint4*>(room.values + slot.stage * S::tile_bytes);
#pragma unroll 2
                for (int i = thread; i < int(S::tile_bytes / 16); i += 32 * inspectors) {
                    uint4 piece = pieces[i];
                    const bool any = clear_not_finite<T>(piece.x) | clear_not_finite<T>(piece.y) |
                                     clear_not_finite<T>(piece.z) | clear_not_finite<T>(piece.w);
                    if (any) pieces[i] = piece;
                    found |= any;
                }
            }
            found = __any_sync(0xffffffffu, found);
            if (thread % 32 == 0) barriers.not_finite[slot.stage][warp] = found;
            fence_proxy_async();
            mbarrier_arrive(&barriers.values_checked[slot.stage]);
        }
    }
}

// ---- the consumers ------------------------------------------------------------------------------------------------------

// 14 instructions for a score, where wgmma takes the time of 16 at 128 columns and of 8 at 64: the softmax is what limits
// this kernel. exp2_approximate would be two.
MMK_PTX float power(float x) { return softmax_exp2(x); }
MMK_PTX float sum_of_four(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
MMK_PTX float max_of_four(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// A warpgroup's 64 queries. Thread w has the rows w/32 * 16 + w%32/4 and 8 below; element i of s and o is in row i/2 % 2
// of these, column i/4 * 8 + w%4 * 2 + i%2.
template <class T, int width> struct Consumer {
    using S = Tiles<width>;
    const Problem& problem;
    const Room<width>& room;
    Barriers<S::stages>& barriers;
    int group, thread;
    float s[S::keys / 2], o[width / 2];
    uint32_t p[S::keys / 16][4];
    float maximum[2], total[2], factor[2];

    MMK_PTX Consumer(const Problem& problem_, const Room<width>& room_, Barriers<S::stages>& barriers_, int group_)
        : problem(problem_), room(room_), barriers(barriers_), group(group_), thread(int(threadIdx.x) % 128) {}

    MMK_PTX char* queries() const { return room.queries + group * S::query_bytes; }
    MMK_PTX int row(const Work& work, int half) const {
        return work.first + group * group_rows + thread / 32 * 16 + thread % 32 / 4 + 8 * half;
    }

    // Named barriers: 1 and 2 are the turns of the consumers, 3 and 4 their own.
    MMK_PTX void take_turn() const { barrier_sync(1 + group, 128 * consumers); }
    MMK_PTX void pass_turn() const { barrier_arrive(2 - group, 128 * consumers); }
    MMK_PTX void meet() const { barrier_sync(3 + group, 128); }

    MMK_PTX void await_keys(Slot<S::stages> slot) const { mbarrier_wait(&barriers.keys_full[slot.stage], slot.parity); }
    MMK_PTX void await_values(Slot<S::stages> slot) const {
        if (!MMK_DEFECT(attention_sm90_skipped_full)) mbarrier_wait(&barriers.values_full[slot.stage], slot.parity);
        if (problem.causal) mbarrier_wait(&barriers.values_checked[slot.stage], slot.parity);
    }
    // Each warp says that its own products have been waited for.
    MMK_PTX void release(uint64_t* empty) const {
        __syncwarp();
        if (thread % 32 == 0) mbarrier_arrive(empty);
    }

    MMK_PTX void start_scores(int stage) {
        const char *const q = queries(), *const k = room.keys + stage * S::tile_bytes;
#pragma unroll
        for (int step = 0; step < width / 16; ++step) {
            const int column = step % 4 * 32, at = step / 4;
            wgmma<T>(s, wgmma_descriptor(q + at * group_rows * 128 + column, 16, 1024, Swizzle::bytes128),
                     wgmma_descriptor(k + at * S::keys * 128 + column, 16, 1024, Swizzle::bytes128), step > 0);
        }
        wgmma_commit();
    }
    MMK_PTX void start_results(int stage) {
        const char* const v = room.values + stage * S::tile_bytes;
#pragma unroll
        for (int step = 0; step < S::keys / 16; ++step)
            wgmma<T, true>(o, p[step], wgmma_descriptor(v + step * 2048, S::keys * 128, 1024, Swizzle::bytes128), true);
        wgmma_commit();
    }

    MMK_PTX void hide(const Work& work, int tile) {
        const int first = tile * S::keys + thread % 4 * 2;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int visible = problem.limit(row(work, half)) - first + MMK_DEFECT(attention_sm90_one_key_more);
#pragma unroll
            for (int i = 0; i < S::keys / 2; ++i)
                if (i / 2 % 2 == half && i / 4 * 8 + i % 2 >= visible) s[i] = -infinity;
        }
    }
    // s becomes p, before rounding; what was summed before has to be multiplied with factor.
    MMK_PTX void exponentials() {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float m = maximum[half];
#pragma unroll
            for (int i = 0; i < S::keys / 2; ++i)
                if (i / 2 % 2 == half) m = fmaxf(m, s[i]);
            m = max_of_four(m);
            const float shift = m == -infinity ? 0.0f : m * problem.scale; // -inf - -inf would be NaN
            factor[half] = power(fma_scalar(maximum[half], problem.scale, -shift));
            maximum[half] = m;
            float sum = 0.0f;
#pragma unroll
            for (int i = 0; i < S::keys / 2; ++i)
                if (i / 2 % 2 == half) {
                    s[i] = power(fma_scalar(s[i], problem.scale, -shift));
                    sum += s[i];
                }
            total[half] = fma_scalar(total[half], factor[half], sum);
        }
    }
    MMK_PTX void softmax(const Work& work, int tile) {
        if (tile >= work.whole) hide(work, tile);
        exponentials();
    }
    MMK_PTX void round_probabilities() {
#pragma unroll
        for (int i = 0; i < S::keys / 4; ++i) p[i / 4][i % 4] = pack_pair<T>(s[2 * i], s[2 * i + 1]);
    }
    MMK_PTX void rescale() {
#pragma unroll
        for (int i = 0; i < width / 2; ++i) o[i] *= factor[i / 2 % 2];
    }

    // What rows see of the values that inspect() has taken out; their weights are taken to be above 0. Rare: the loop over
    // columns is one at run time, so that it takes few registers beside s and o.
    MMK_PTX void add_not_finite(const Work& work, int tile) {
        const uint16_t* const values =
            problem.values + work.batch * problem.value_batch + work.head / problem.group * problem.value_head;
        const int end = (tile + 1) * S::keys < problem.keys ? (tile + 1) * S::keys : problem.keys;
#pragma unroll 1
        for (int key = tile * S::keys; key < end; ++key) {
            const bool sees[2] = {key < problem.limit(row(work, 0)), key < problem.limit(row(work, 1))};
#pragma unroll 1
            for (int column = thread % 4 * 2; column < problem.columns; column += 8) {
                const auto pair = *reinterpret_cast<const uint32_t*>(values + key * problem.value_row + column);
                const uint32_t found = not_finite<T>(pair);
                if (found == 0) continue;
                const float low = found & 0x8000u ? upper_half<T>(pair << 16) : 0.0f;
                const float high = found >> 16 ? upper_half<T>(pair) : 0.0f;
#pragma unroll
                for (int i = 0; i < width / 2; ++i)
                    if (i / 4 == column / 8 && sees[i / 2 % 2]) o[i] += i % 2 ? high : low;
            }
        }
    }
    // After the wait for the results of a tile.
    MMK_PTX void end_results(const Work& work, int tile, int stage) {
        bool found = false;
        if (problem.causal)
            for (int i = 0; i < inspectors; ++i) found |= barriers.not_finite[stage][i] != 0;
        release(&barriers.values_empty[stage]);
        if (found) add_not_finite(work, tile);
    }

    MMK_PTX void attend(const Work& work, uint32_t count) {
        Slot<S::stages> slot(count);
        await_keys(slot);
        take_turn();
        wgmma_fence();
        start_scores(slot.stage);
        pass_turn();
        wgmma_wait<0>();
        wgmma_keep(s);
        release(&barriers.keys_empty[slot.stage]);
        softmax(work, 0);
        round_probabilities();
#pragma unroll 1
        for (int tile = 1; tile < work.tiles; ++tile) {
            const Slot<S::stages> next(count + tile);
            await_keys(next);
            await_values(slot);
            take_turn();
            wgmma_fence();
            start_scores(next.stage);
            start_results(slot.stage);
            pass_turn();
            wgmma_wait<1>();
            wgmma_keep(s);
            release(&barriers.keys_empty[next.stage]);
            softmax(work, tile);
            wgmma_wait<0>();
            wgmma_keep(o);
            end_results(work, tile - 1, slot.stage);
            rescale();
            round_probabilities();
            slot = next;
        }
        await_values(slot);
        wgmma_fence();
        start_results(slot.stage);
        wgmma_wait<0>();
        wgmma_keep(o);
        end_results(work, work.tiles - 1, slot.stage);
    }

    // Through the queries' memory: this warpgroup is done with them.
    MMK_PTX void write(const Work& work, const CUtensorMap& y) {
        float inverse[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float sum = sum_of_four(total[half]);
            const bool alive = sum != 0.0f; // NaN, too
            inverse[half] = 1.0f / sum;
            if (!alive)
#pragma unroll
                for (int i = 0; i < width / 2; ++i)
                    if (i / 2 % 2 == half) o[i] = 0.0f;
            if (!alive) inverse[half] = 1.0f;
            const int query = row(work, half);
            if (problem.lse && thread % 4 == 0 && query < problem.queries)
                problem.lse[(int64_t(work.batch) * problem.heads + work.head) * problem.queries + query] =
                    alive ? fma_scalar(maximum[half] * problem.scale, float(ln_2), log(sum)) : -infinity;
        }
        meet();
        const int lane = thread % 32, line = thread / 32 * 16 + lane % 16;
#pragma unroll
        for (int step = 0; step < width / 16; ++step) {
            uint32_t pairs[4];
#pragma unroll
            for (int i = 0; i < 4; ++i)
                pairs[i] = pack_pair<T>(o[8 * step + 2 * i] * inverse[i % 2] + 0.0f,
                                        o[8 * step + 2 * i + 1] * inverse[i % 2] + 0.0f);
            const int piece = step % 4 * 2 + lane / 16;
            stmatrix(queries() + step / 4 * group_rows * 128 + line * 128 + (piece ^ line % 8) * 16, pairs);
        }
        fence_proxy_async();
        if (!MMK_DEFECT(attention_sm90_early_store)) meet();
        if (thread == 0) {
            for (int i = 0; i < S::atoms && i * atom < problem.columns; ++i)
                tensor_store(y, queries() + i * group_rows * 128, i * atom, work.first + group * group_rows, work.head,
                             work.batch);
            bulk_commit();
            if (!MMK_DEFECT(attention_sm90_unread_results)) bulk_wait_read<0>();
            mbarrier_arrive(&barriers.queries_empty);
        }
        __syncwarp();
    }

    MMK_PTX void run(const CUtensorMap& y) {
        uint32_t count = 0, parity = 0;
        if (group == 1) pass_turn();
        for (int64_t index = blockIdx.x; index < problem.blocks; index += gridDim.x, parity ^= 1) {
            const Work work = problem.work<width>(index);
            maximum[0] = maximum[1] = -infinity, total[0] = total[1] = 0.0f;
#pragma unroll
            for (int i = 0; i < width / 2; ++i) o[i] = 0.0f;
            mbarrier_wait(&barriers.queries_full, parity);
            if (work.tiles > 0) attend(work, count);
            count += work.tiles;
            write(work, y);
        }
        if (group == 0) take_turn(); // nobody leaves a barrier half full
    }
};

template <class T, int width> __global__ void __launch_bounds__(hopper_threads, 1)
    attention_on_hopper(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                        const __grid_constant__ CUtensorMap v, const __grid_constant__ CUtensorMap y,
                        const __grid_constant__ Problem problem) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
    using S = Tiles<width>;
    DYN_SHARED(char, memory);
    SHARED(Barriers<S::stages>, barriers, [1]);
    const Room<width> room{memory, memory + consumers * S::query_bytes,
                           memory + consumers * S::query_bytes + S::stages * S::tile_bytes};
    if (threadIdx.x == 0) barriers[0].begin();
    __syncthreads();
    if (threadIdx.x < 128) {
        registers_decrease<40>(); // 40 + 2 * 232 = 3 * 168, with which the threads were launched
        const Maps maps{q, k, v};
        if (threadIdx.x == 0)
            Producer<width>{problem, maps, room, barriers[0]}.run();
        else if (threadIdx.x >= 32 && problem.causal)
            inspect<T, width>(problem, room, barriers[0]);
    } else {
        registers_increase<232>();
        Consumer<T, width>(problem, room, barriers[0], int(threadIdx.x) / 128 - 1).run(y);
    }
#else
    __trap(); // a build without sm_90a
#endif
}

// ---- on the host --------------------------------------------------------------------------------------------------------

template <class T, int width> void launch(Context& context, const Attention& op, const Tensor& y, float* lse) {
    using S = Tiles<width>;
    const auto in_rows = [&](const Tensor& x) { return lies_in_rows(x) ? x : pack(context, x); };
    const Tensor q = in_rows(op.q), k = in_rows(op.k), v = in_rows(op.v);
    const int queries = int(q.extent[2]), keys = int(k.extent[2]), heads = int(q.extent[1]);
    const int64_t blocks = q.extent[0] * heads * ceil_div(queries, block_rows);
    if (blocks == 0) return;
    const Problem problem{
        blocks,
        heads,
        heads / int(k.extent[1]),
        queries,
        keys,
        int(v.extent[3]),
        op.causal == 0   ? keys
        : op.causal == 1 ? 1
                         : 1 + keys - queries,
        op.causal != 0,
        float(op.scale * log2_e),
        static_cast<const uint16_t*>(v.data),
        v.stride[0],
        v.stride[1],
        v.stride[2],
        lse,
    };
    // Blocks of equal work stay and take the next; where work differs, the device gives it to who comes free first.
    const int64_t resident = problem.causal || blocks < context.multiprocessors ? blocks : context.multiprocessors;
    MMK_LAUNCH(context, (attention_on_hopper<T, width>), grid_of(resident), hopper_threads, S::shared_bytes,
               map_of<T>(q, group_rows), map_of<T>(k, S::keys), map_of<T>(v, S::keys), map_of<T>(y, group_rows),
               problem);
}

template <class T> void launch(Context& context, const Attention& op, const Tensor& y, float* lse) {
    const int64_t width = op.q.extent[3] > op.v.extent[3] ? op.q.extent[3] : op.v.extent[3];
    if (width <= 64) return launch<T, 64>(context, op, y, lse);
    if (width <= 128) return launch<T, 128>(context, op, y, lse);
    launch<T, 256>(context, op, y, lse);
}

// What decides is no free extent, but for extents beyond 2^30 and for no keys at all, whose results are given.
bool serves(const Attention& op) {
    if (has_options(op) || op.sink || op.query_starts) return false;
    const int64_t depth = op.q.extent[3], columns = op.v.extent[3], keys = op.k.extent[2];
    const float scale = float(op.scale * log2_e);
    return itemsize(op.q.dtype) == 2 && !op.mask && !op.bias && depth % 8 == 0 && depth <= 256 && columns % 8 == 0 &&
           columns > 0 && columns <= 256 && scale > 0 && scale < infinity && keys > 0 && keys <= 1 << 30 &&
           op.q.extent[2] <= 1 << 30 && op.q.extent[0] <= 1 << 30;
}

} // namespace

bool attention_sm90(const Attention& op, Context& context) {
    if (!serves(op) || !context.hopper()) return false;
    context.chose("tensor copies and wgmma", "MMK_CUDA_ARCH=sm_90a; no mask, no bias, no option but causal");
    const Tensor y = lies_in_rows(op.y) ? op.y : contiguous_scratch(context, op.y);
    DenseOut<float> lse(context, op.lse);
    if (op.q.dtype == DType::float16)
        launch<float16>(context, op, y, op.lse ? lse.get() : nullptr);
    else
        launch<bfloat16>(context, op, y, op.lse ? lse.get() : nullptr);
    if (y.data != op.y.data) copy_strided(context, op.y, y);
    if (op.lse) lse.finish();
    return true;
}

} // namespace mmk::cuda::flash
