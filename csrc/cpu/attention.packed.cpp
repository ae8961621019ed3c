// The packed form of attention: views of its operands, and starts that rise, for the padded form's kernels.
#include "../ops/attention.h"

#include "../core/layout.h"
#include "../core/simd.h"

namespace mmk::cpu::MMK_ISA {

namespace {

struct Starts {
    Tensor tensor;
    int64_t most = 0; // rows of a sequence
};
// Read once: each start between 0 and the rows there are, and no less than those before.
Starts starts_of(Context& context, const Tensor& x, int64_t rows, int64_t limit) {
    const int64_t count = x.extent[0];
    int64_t *const starts = context.scratch<int64_t>(count), most = 0, last = 0;
    for (int64_t i = 0; i < count; ++i) {
        const int64_t at = i * x.stride[0];
        const int64_t start = x.dtype == DType::int64 ? static_cast<const int64_t*>(x.data)[at]
                                                      : int64_t(static_cast<const int32_t*>(x.data)[at]);
        const int64_t here = start < last ? last : start > rows ? rows : start;
        if (i > 0 && here - last > most) most = here - last;
        starts[i] = last = here;
    }
    return {packed_starts(x, starts, rows), limit >= 0 && limit < most ? limit : most};
}
// An operand whose rows are dense; views would otherwise be packed once per sequence.
Tensor in_rows(Context& context, const Tensor& x) {
    if (!x || x.extent[2] <= 1 || x.stride[2] == 1) return x;
    Tensor rows = contiguous_like(x);
    rows.data = pack(context, x);
    return rows;
}
template <class T> void fill(const Tensor& x, T value) {
    T* const to = static_cast<T*>(x.data);
    for (int64_t i = 0; i < x.size(); ++i) to[i] = value;
}
// Several results lie as the library makes them: contiguous.
void clear(const Tensor& x) { std::memset(x.data, 0, size_t(x.size() * itemsize(x.dtype))); }

} // namespace

void attention_packed(const AttentionPacked& op, Context& context) {
    const Starts queries = starts_of(context, op.query_starts, op.q.extent[0], op.max_queries);
    const Starts keys = starts_of(context, op.key_starts, op.k.extent[0], op.max_keys);
    AttentionPacked rows = op;
    for (const auto x : {&AttentionPacked::q, &AttentionPacked::k, &AttentionPacked::v})
        rows.*x = in_rows(context, op.*x);
    rows.y = op.y.contiguous() ? op.y : contiguous_scratch(context, op.y);
    clear(rows.y);
    if (op.lse) visit_float(op.q.dtype, [&](auto zero) { fill(op.lse, decltype(zero)(-__builtin_inff())); });
    Attention padded;
    share_packed(padded, rows, queries.tensor, keys.tensor, queries.most, keys.most);
    padded.sink = op.sink;
    attention(padded, context);
    if (rows.y.data != op.y.data) copy_strided(context, op.y, rows.y);
}

void attention_packed_grad(const AttentionPackedGrad& op, Context& context) {
    const Starts queries = starts_of(context, op.query_starts, op.q.extent[0], op.max_queries);
    const Starts keys = starts_of(context, op.key_starts, op.k.extent[0], op.max_keys);
    using A = AttentionPackedGrad;
    A rows = op;
    for (const auto x : {&A::q, &A::k, &A::v, &A::y, &A::gy}) rows.*x = in_rows(context, op.*x);
    for (const auto x : {&A::gq, &A::gk, &A::gv}) clear(op.*x);
    AttentionGrad padded;
    share_packed(padded, rows, queries.tensor, keys.tensor, queries.most, keys.most);
    const int64_t sequences = op.query_starts.extent[0] - 1;
    padded.gy = packed_view(rows.gy, sequences, queries.most), padded.glse = op.glse;
    padded.gq = packed_view(op.gq, sequences, queries.most);
    padded.gk = packed_view(op.gk, sequences, keys.most), padded.gv = packed_view(op.gv, sequences, keys.most);
    attention_grad(padded, context);
}

void attention_packed_slopes_grad(const AttentionPackedSlopesGrad& op, Context& context) {
    const Starts queries = starts_of(context, op.query_starts, op.q.extent[0], op.max_queries);
    const Starts keys = starts_of(context, op.key_starts, op.k.extent[0], op.max_keys);
    using A = AttentionPackedSlopesGrad;
    A rows = op;
    for (const auto x : {&A::q, &A::k, &A::v, &A::y, &A::gy}) rows.*x = in_rows(context, op.*x);
    AttentionSlopesGrad padded;
    share_packed(padded, rows, queries.tensor, keys.tensor, queries.most, keys.most);
    padded.gy = packed_view(rows.gy, op.query_starts.extent[0] - 1, queries.most), padded.glse = op.glse;
    padded.gslopes = op.gslopes;
    attention_slopes_grad(padded, context);
}

} // namespace mmk::cpu::MMK_ISA
