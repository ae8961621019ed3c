// The packed form of attention: views of its operands, and starts that rise, for the padded form's kernels. Starts stay on
// the device: how long sequences are shows in no launch, and blocks beyond a sequence's end have nothing to do.
#include "attention.cuh"
#include "elementwise.cuh"

namespace mmk::cuda {
namespace {

using namespace flash;

constexpr int threads = 256;

// to[i] = the largest of from[0..i], between 0 and `rows`: each thread a run of starts, then what came before it.
template <class I> __global__ void __launch_bounds__(threads)
    rising_starts(const I* from, int64_t stride, int64_t count, int64_t rows, int64_t* to) {
    SHARED(int64_t, largest, [threads]);
    const int thread = int(threadIdx.x);
    const int64_t each = ceil_div(count, threads), begin = thread * each;
    const int64_t end = begin + each < count ? begin + each : count;
    int64_t last = 0;
    for (int64_t i = begin; i < end; ++i) {
        const int64_t start = int64_t(from[i * stride]);
        last = start > last ? start : last;
        to[i] = last = last > rows ? rows : last;
    }
    largest[thread] = last;
    if (!MMK_DEFECT(attention_packed_early_starts)) __syncthreads();
    int64_t before = 0;
    for (int i = 0; i < thread; ++i) before = largest[i] > before ? largest[i] : before;
    for (int64_t i = begin; i < end; ++i) to[i] = to[i] < before ? before : to[i];
}

Tensor starts_of(Context& context, const Tensor& x, int64_t rows) {
    int64_t* const starts = context.scratch<int64_t>(x.extent[0]);
    visit_index(x.dtype, [&](auto type) {
        using I = typename decltype(type)::type;
        MMK_LAUNCH(context, rising_starts<I>, dim3(1), threads, 0, static_cast<const I*>(x.data), x.stride[0],
                   x.extent[0], rows, starts);
    });
    return packed_starts(x, starts, rows);
}
// Rows as every kernel wants them; views would otherwise be packed once per sequence.
Tensor in_rows(Context& context, const Tensor& x) {
    return !x || rows_lie(x, itemsize(x.dtype) == 2 ? 8 : 1) ? x : pack(context, x);
}
template <class C> __global__ void __launch_bounds__(threads) fill_infinity(C* x, int64_t count) {
    for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < count; i += int64_t(gridDim.x) * threads)
        x[i] = minus_infinity<C>();
}
template <class C> void fill_lse(Context& context, const Tensor& x) {
    MMK_LAUNCH(context, fill_infinity<C>, grid_of(ceil_div(x.size(), threads)), threads, 0, static_cast<C*>(x.data),
               x.size());
}
// Several results lie as the library makes them: contiguous.
void clear(Context& context, const Tensor& x) {
    if (x.size() > 0) fill_zero(context, x.data, x.size() * itemsize(x.dtype));
}
int64_t most(int64_t given, int64_t rows) { return given >= 0 && given < rows ? given : rows; }

// 16-bit problems that tensor cores do not take are widened before they become views.
template <class Op> bool is_widened(const Op& op) {
    const int64_t depth = op.q.extent[2], columns = op.v.extent[2];
    const bool fits = depth % 8 == 0 && columns % 8 == 0 && depth <= 256 && columns > 0 && columns <= 256;
    return itemsize(op.q.dtype) == 2 && (!fits || op.slopes || op.softcap > 0);
}
Tensor wide_like(Context& context, const Tensor& x) {
    Tensor wide = x;
    wide.dtype = DType::float32;
    return contiguous_scratch(context, wide);
}
template <class T> struct Widen {
    __device__ float operator()(T x) const { return widen(x); }
};
template <class T> struct Narrow {
    __device__ T operator()(float x) const { return narrow<T>(x); }
};
template <class Op, class Run> void run_wide(Context& context, const Op& op, std::initializer_list<Tensor Op::*> in,
                                             std::initializer_list<Tensor Op::*> out, const Run& run) {
    const auto visit = [&](auto&& body) {
        if (op.q.dtype == DType::float16) return body(Type<float16>());
        body(Type<bfloat16>());
    };
    Op wide = op;
    visit([&](auto type) {
        using T = typename decltype(type)::type;
        for (const auto x : in)
            if (op.*x) map<float, T>(context, Widen<T>(), wide.*x = wide_like(context, op.*x), op.*x);
    });
    for (const auto y : out) wide.*y = wide_like(context, op.*y);
    run(wide);
    visit([&](auto type) {
        using T = typename decltype(type)::type;
        for (const auto y : out) map<T, float>(context, Narrow<T>(), op.*y, wide.*y);
    });
}

} // namespace

void attention_packed(const AttentionPacked& op, Context& context) {
    using A = AttentionPacked;
    if (is_widened(op))
        return run_wide<A>(context, op, {&A::q, &A::k, &A::v, &A::sink}, {&A::y},
                           [&](const A& wide) { attention_packed(wide, context); });
    A rows = op;
    for (const auto x : {&A::q, &A::k, &A::v}) rows.*x = in_rows(context, op.*x);
    rows.y = op.y.contiguous() ? op.y : contiguous_scratch(context, op.y);
    clear(context, rows.y);
    if (op.lse && op.lse.size() > 0) {
        if (op.lse.dtype == DType::float64)
            fill_lse<double>(context, op.lse);
        else
            fill_lse<float>(context, op.lse);
    }
    Attention padded;
    share_packed(padded, rows, starts_of(context, op.query_starts, op.q.extent[0]),
                 starts_of(context, op.key_starts, op.k.extent[0]), most(op.max_queries, op.q.extent[0]),
                 most(op.max_keys, op.k.extent[0]));
    padded.sink = op.sink;
    attention(padded, context);
    if (rows.y.data != op.y.data) copy_strided(context, op.y, rows.y);
}

void attention_packed_grad(const AttentionPackedGrad& op, Context& context) {
    using A = AttentionPackedGrad;
    if (is_widened(op))
        return run_wide<A>(context, op, {&A::q, &A::k, &A::v, &A::y, &A::gy}, {&A::gq, &A::gk, &A::gv},
                           [&](const A& wide) { attention_packed_grad(wide, context); });
    A rows = op;
    for (const auto x : {&A::q, &A::k, &A::v, &A::y, &A::gy}) rows.*x = in_rows(context, op.*x);
    for (const auto x : {&A::gq, &A::gk, &A::gv}) clear(context, op.*x);
    const int64_t queries = most(op.max_queries, op.q.extent[0]), keys = most(op.max_keys, op.k.extent[0]);
    const int64_t sequences = op.query_starts.extent[0] - 1;
    AttentionGrad padded;
    share_packed(padded, rows, starts_of(context, op.query_starts, op.q.extent[0]),
                 starts_of(context, op.key_starts, op.k.extent[0]), queries, keys);
    padded.gy = packed_view(rows.gy, sequences, queries), padded.glse = op.glse;
    padded.gq = packed_view(op.gq, sequences, queries), padded.gk = packed_view(op.gk, sequences, keys);
    padded.gv = packed_view(op.gv, sequences, keys);
    attention_grad(padded, context);
}

void attention_packed_slopes_grad(const AttentionPackedSlopesGrad& op, Context& context) {
    using A = AttentionPackedSlopesGrad;
    if (itemsize(op.q.dtype) == 2)
        return run_wide<A>(context, op, {&A::q, &A::k, &A::v, &A::y, &A::gy}, {},
                           [&](const A& wide) { attention_packed_slopes_grad(wide, context); });
    A rows = op;
    for (const auto x : {&A::q, &A::k, &A::v, &A::y, &A::gy}) rows.*x = in_rows(context, op.*x);
    const int64_t queries = most(op.max_queries, op.q.extent[0]), keys = most(op.max_keys, op.k.extent[0]);
    AttentionSlopesGrad padded;
    share_packed(padded, rows, starts_of(context, op.query_starts, op.q.extent[0]),
                 starts_of(context, op.key_starts, op.k.extent[0]), queries, keys);
    padded.gy = packed_view(rows.gy, op.query_starts.extent[0] - 1, queries), padded.glse = op.glse;
    padded.gslopes = op.gslopes;
    attention_slopes_grad(padded, context);
}

} // namespace mmk::cuda
