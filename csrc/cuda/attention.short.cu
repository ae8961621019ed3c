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

template <int W> __global__ void __launch_bounds__(32 * most_warps)
    attend(Forward<float> f, Layout layout, int64_t tasks) {
    DYN_SHARED(float, memory);
    const int warps = int(blockDim.x) / 32, warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    const int wide = layout.wide_queries, row = lane % wide, part = lane / wide, parts = 32 / wide;
    float *const q = memory + warp * layout.size, *const k = q + layout.k, *const v = q + layout.v;
    float *const p = q + layout.p, *const inverse = q + layout.inverse;
    const Shape& shape = f.shape;
    for (int64_t task = int64_t(blockIdx.x) * warps + warp; task < tasks; task += int64_t(gridDim.x) * warps) {
        const int64_t b = task / shape.heads, h = task % shape.heads;
        const uint8_t* const mask = shape.mask.of(b, h);
        const float* const bias = f.dress.bias.of(b, h);
        const AttentionItem item = shape.item(b);
        __syncwarp(); // the last sequence has been read
        load_rows<W>(q, layout.pitch, f.q.of(b, h), f.q.row, layout.queries, shape.depth, lane);
        load_rows<W>(k, layout.pitch, f.k.of(b, h / shape.group), f.k.row, layout.keys, shape.depth, lane);
        load_rows<W>(v, layout.pitch_v, f.v.of(b, h / shape.group), f.v.row, layout.keys, shape.columns, lane);
        cp_async_commit();
        if (!MMK_DEFECT(attention_missing_wait)) cp_async_wait<0>();
        __syncwarp();
        // the scores of base 2 of a lane's query and four keys at a time
        const int seen = int(item.limit(row)), own = row < layout.queries ? row : 0;
        for (int first = 4 * part; first < layout.keys; first += 4 * parts) {
            const float* key[4];
            float sum[4] = {}, total[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) key[j] = k + (first + j < layout.keys ? first + j : 0) * layout.pitch;
            for (int begin = 0; begin < shape.depth; begin += chunk) {
                const int end = shape.depth - begin < chunk ? shape.depth : begin + chunk;
                for (int d = begin; d < end; d += W) {
                    const auto x = *reinterpret_cast<const Pack<float, W>*>(q + own * layout.pitch + d);
#pragma unroll
                    for (int j = 0; j < 4; ++j) {
                        const auto y = *reinterpret_cast<const Pack<float, W>*>(key[j] + d);
#pragma unroll
                        for (int i = 0; i < W; ++i) sum[j] = fma_scalar(x.at[i] * f.folded, y.at[i], sum[j]);
                    }
                }
#pragma unroll
                for (int j = 0; j < 4; ++j) total[j] = begin == 0 ? sum[j] : total[j] + sum[j], sum[j] = 0.0f;
            }
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int other = first + j;
                if (other >= layout.keys) continue;
                const bool sees = other < seen && (!mask || mask[row * shape.mask.row + other * shape.mask.step]);
                if (bias && sees)
                    total[j] =
                        fma_scalar(bias[row * f.dress.bias.row + other * f.dress.bias.step], float(log2_e), total[j]);
                p[other * wide + row] = sees ? total[j] : hidden<float>();
            }
        }
        __syncwarp();
        float top = minus_infinity<float>();
        for (int j = part; j < layout.keys; j += parts)
            if (const float s = p[j * wide + row]; !is_hidden(s) && top < s) top = s;
        for (int bit = wide; bit < 32; bit *= 2) {
            const float other = __shfl_xor_sync(0xffffffffu, top, bit);
            top = top < other ? other : top;
        }
        const float safe = top == minus_infinity<float>() ? 0.0f : top; // -inf - -inf would be NaN
        for (int j = part; j < layout.keys; j += parts)
            if (float& s = p[j * wide + row]; !is_hidden(s)) s = softmax_exp2(s - safe);
        __syncwarp();
        if (part == 0 && row < layout.queries) {
            float sum = 0.0f;
            for (int j = 0; j < layout.keys; ++j)
                if (const float x = p[j * wide + row]; !is_hidden(x)) sum = sum + x;
            const bool alive = sum != 0.0f;
            inverse[row] = alive ? 1.0f / sum : -1.0f; // the sum is positive or NaN
            if (f.lse)
                f.lse[task * shape.queries + row] =
                    alive ? fma_scalar(top, float(ln_2), log(sum)) : minus_infinity<float>();
        }
        __syncwarp();
        // a lane's columns of four queries at a time
        float* const y = f.y.of(b, h);
        for (int first = 0; first < layout.queries; first += 4)
            for (int c = lane; c < shape.columns; c += 32) {
                float sum[4] = {};
                for (int j = 0; j < layout.keys; ++j) {
                    const auto x = *reinterpret_cast<const Pack<float, 4>*>(p + j * wide + first);
                    const float value = v[j * layout.pitch_v + c];
#pragma unroll
                    for (int i = 0; i < 4; ++i)
                        if (!is_hidden(x.at[i])) sum[i] = fma_scalar(x.at[i], value, sum[i]);
                }
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    if (const int at = first + i; at < layout.queries)
                        y[at * f.y.row + c] = inverse[at] == -1.0f ? 0.0f : sum[i] * inverse[at] + 0.0f;
            }
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
