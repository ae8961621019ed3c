// Attention of many short sequences in float32, such as that over the frames of a video: a warp takes a sequence of at most
// 32 queries and 32 keys alone, from rows that lie anywhere, so that time need not be brought next to the channels. There
// is one block of keys, so the scalar kernel's order comes down to: chains over d, p, their sum in key order, chains over
// keys. Memory-bound: 16 x 16 x 40 moves 10 KB for 20,000 fused multiply-adds.
#include "attention.cuh"

namespace mmk::cuda::flash {
namespace {

constexpr int most_warps = 4, chunk = 256;
constexpr int64_t most_shared = 96 << 10; // every device since sm_80 has 99 KB

// A warp's shared memory, in floats: rows of q, k and v, p as [key][query], and 1 / sum p of each query.
struct Layout {
    int queries, keys, wide_queries; // the last: 8, 16 or 32, so that 4, 2 or 1 lanes share a query
    int pitch, pitch_v;
    int k, v, p, inverse, size;

    explicit Layout(const Shape& shape)
        : queries(int(shape.queries)), keys(int(shape.keys)), wide_queries(queries <= 8    ? 8
                                                                           : queries <= 16 ? 16
                                                                                           : 32),
          // an odd number of 16 bytes: eight rows' pieces of one column lie in different banks
          pitch(4 * (((shape.depth + 3) / 4) | 1)), pitch_v(4 * ((shape.columns + 3) / 4)), k(queries * pitch),
          v(k + keys * pitch), p(v + keys * pitch_v), inverse(p + keys * wide_queries), size(inverse + 32) {}
};

// W floats at a time.
template <int W>
MMK_PTX void load_rows(float* to, int pitch, const float* from, int64_t row, int rows, int columns, int lane) {
    const int pieces = columns / W;
    for (int i = lane; i < rows * pieces; i += 32) {
        const int r = i / pieces, c = i % pieces * W;
        cp_async<4 * W>(to + r * pitch + c, from + r * row + c);
    }
}

// A warp's room, and of the queries and keys the lane's: query `row`, and every `parts`-th key or four keys.
struct Lane {
    const Layout& layout;
    float *q, *k, *v, *p, *inverse;
    int lane, wide, row, part, parts;

    MMK_PTX Lane(const Layout& layout_, float* memory)
        : layout(layout_), q(memory + int(threadIdx.x) / 32 * layout.size), k(q + layout.k), v(q + layout.v),
          p(q + layout.p), inverse(q + layout.inverse), lane(int(threadIdx.x) % 32), wide(layout.wide_queries),
          row(lane % wide), part(lane / wide), parts(32 / wide) {}
};

// The products of the lane's query and four keys from `first` on: chains over 256 d, added in order.
template <int W> MMK_PTX void dot_products(float (&total)[4], const Lane& l, int first, int depth, float folded) {
    const float* const query = l.q + (l.row < l.layout.queries ? l.row : 0) * l.layout.pitch;
    const float* key[4];
    float sum[4] = {};
#pragma unroll
    for (int j = 0; j < 4; ++j) key[j] = l.k + (first + j < l.layout.keys ? first + j : 0) * l.layout.pitch;
    for (int begin = 0; begin < depth; begin += chunk) {
        const int end = depth - begin < chunk ? depth : begin + chunk;
        for (int d = begin; d < end; d += W) {
            const auto x = *reinterpret_cast<const Pack<float, W>*>(query + d);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const auto y = *reinterpret_cast<const Pack<float, W>*>(key[j] + d);
#pragma unroll
                for (int i = 0; i < W; ++i) sum[j] = fma_scalar(x.at[i] * folded, y.at[i], sum[j]);
            }
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) total[j] = begin == 0 ? sum[j] : total[j] + sum[j], sum[j] = 0.0f;
    }
}

// p becomes the scores of base 2 of what the queries see.
template <int W> MMK_PTX void find_scores(const Lane& l, const Forward<float>& f, int64_t b, int64_t h) {
    const Grid<uint8_t>& grid = f.shape.mask;
    const uint8_t* const mask = grid.of(b, h);
    const float* const bias = f.dress.bias.of(b, h);
    const int seen = int(f.shape.item(b).limit(l.row));
    for (int first = 4 * l.part; first < l.layout.keys; first += 4 * l.parts) {
        float score[4];
        dot_products<W>(score, l, first, f.shape.depth, f.folded);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const int key = first + j;
            if (key >= l.layout.keys) continue;
            const bool sees = key < seen && (!mask || mask[l.row * grid.row + key * grid.step]);
            if (bias && sees)
                score[j] =
                    fma_scalar(bias[l.row * f.dress.bias.row + key * f.dress.bias.step], float(log2_e), score[j]);
            l.p[key * l.wide + l.row] = sees ? score[j] : hidden<float>();
        }
    }
}

// Scores become p, but for their division by the sum. Gives the greatest score.
MMK_PTX float find_weights(const Lane& l) {
    float top = minus_infinity<float>();
    for (int j = l.part; j < l.layout.keys; j += l.parts)
        if (const float s = l.p[j * l.wide + l.row]; !is_hidden(s) && top < s) top = s;
    for (int bit = l.wide; bit < 32; bit *= 2) {
        const float other = __shfl_xor_sync(0xffffffffu, top, bit);
        top = top < other ? other : top;
    }
    const float safe = top == minus_infinity<float>() ? 0.0f : top; // -inf - -inf would be NaN
    for (int j = l.part; j < l.layout.keys; j += l.parts)
        if (float& s = l.p[j * l.wide + l.row]; !is_hidden(s)) s = softmax_exp2(s - safe);
    return top;
}
// 1 / the sum of a query's p, -1 if it sees nothing, by the first lane that has it; and its lse, if that is wanted.
MMK_PTX void add_weights(const Lane& l, float top, float* lse) {
    if (l.part != 0 || l.row >= l.layout.queries) return;
    float sum = 0.0f;
    for (int j = 0; j < l.layout.keys; ++j)
        if (const float x = l.p[j * l.wide + l.row]; !is_hidden(x)) sum = sum + x;
    const bool alive = sum != 0.0f;
    l.inverse[l.row] = alive ? 1.0f / sum : -1.0f; // the sum is positive or NaN
    if (lse) lse[l.row] = alive ? fma_scalar(top, float(ln_2), log(sum)) : minus_infinity<float>();
}

// y: a lane's columns of four queries at a time.
MMK_PTX void mix_values(const Lane& l, float* y, int64_t y_row, int columns) {
    for (int first = 0; first < l.layout.queries; first += 4)
        for (int c = l.lane; c < columns; c += 32) {
            float sum[4] = {};
            for (int j = 0; j < l.layout.keys; ++j) {
                const auto x = *reinterpret_cast<const Pack<float, 4>*>(l.p + j * l.wide + first);
                const float value = l.v[j * l.layout.pitch_v + c];
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    if (!is_hidden(x.at[i])) sum[i] = fma_scalar(x.at[i], value, sum[i]);
            }
#pragma unroll
            for (int i = 0; i < 4; ++i)
                if (const int at = first + i; at < l.layout.queries)
                    y[at * y_row + c] = l.inverse[at] == -1.0f ? 0.0f : sum[i] * l.inverse[at] + 0.0f;
        }
}

template <int W> __global__ void __launch_bounds__(32 * most_warps)
    attend(Forward<float> f, Layout layout, int64_t tasks) {
    DYN_SHARED(float, memory);
    const Lane l(layout, memory);
    const int warps = int(blockDim.x) / 32, warp = int(threadIdx.x) / 32;
    const Shape& shape = f.shape;
    for (int64_t task = int64_t(blockIdx.x) * warps + warp; task < tasks; task += int64_t(gridDim.x) * warps) {
        const int64_t b = task / shape.heads, h = task % shape.heads, key_head = h / shape.group;
        __syncwarp(); // the last sequence has been read
        load_rows<W>(l.q, layout.pitch, f.q.of(b, h), f.q.row, layout.queries, shape.depth, l.lane);
        load_rows<W>(l.k, layout.pitch, f.k.of(b, key_head), f.k.row, layout.keys, shape.depth, l.lane);
        load_rows<W>(l.v, layout.pitch_v, f.v.of(b, key_head), f.v.row, layout.keys, shape.columns, l.lane);
        cp_async_commit();
        if (!MMK_DEFECT(attention_missing_wait)) cp_async_wait<0>();
        __syncwarp();
        find_scores<W>(l, f, b, h);
        __syncwarp();
        const float top = find_weights(l);
        __syncwarp();
        add_weights(l, top, f.lse ? f.lse + task * shape.queries : nullptr);
        __syncwarp();
        mix_values(l, f.y.of(b, h), f.y.row, shape.columns);
    }
}

} // namespace

bool forward_short(Context& context, const Forward<float>& f) {
    const Shape& shape = f.shape;
    if (shape.queries > short_sequence || shape.keys > short_sequence || shape.keys == 0) return false;
    if (!shape.plain() || f.dress.more_than_bias() || f.sink) return false;
    const Layout layout(shape);
    const int64_t bytes = layout.size * int64_t(sizeof(float)), tasks = shape.batch * shape.heads;
    if (bytes > most_shared || tasks == 0) return false;
    const int64_t fit = most_shared / bytes;
    const int warps = int(fit < most_warps ? fit : most_warps);
    context.chose("a warp a sequence", "float32, at most 32 queries and 32 keys");
    const auto in_fours = [](const Rows<const float>& x) {
        bool good = aligned(x.data, 16) && x.head % 4 == 0 && x.row % 4 == 0;
        for (int axis = 0; axis < x.items.rank; ++axis) good &= x.batch[axis] % 4 == 0;
        return good;
    };
    const dim3 grid = grid_of(ceil_div(tasks, warps));
    if (shape.depth % 4 == 0 && shape.columns % 4 == 0 && in_fours(f.q) && in_fours(f.k) && in_fours(f.v))
        MMK_LAUNCH(context, attend<4>, grid, 32 * warps, size_t(warps) * size_t(bytes), f, layout, tasks);
    else
        MMK_LAUNCH(context, attend<1>, grid, 32 * warps, size_t(warps) * size_t(bytes), f, layout, tasks);
    return true;
}

} // namespace mmk::cuda::flash
