#include <initializer_list>

#include "attention.cuh"
#include "elementwise.cuh"
#include "reduce.cuh"

namespace mmk::cuda {
namespace {

using namespace flash;

constexpr int threads = 256;

// delta = sum(gy y) - glse: a thread a row, in chunks of 256 products like every dot product. A head has `each` rows.
template <class T> __global__ void __launch_bounds__(threads)
    find_delta(int64_t heads, int64_t each, int columns, Rows<const T> gy, Rows<const T> y, const Compute<T>* glse,
               Compute<T>* delta, int64_t rows) {
    using C = Compute<T>;
    for (int64_t row = int64_t(blockIdx.x) * threads + threadIdx.x; row < rows; row += int64_t(gridDim.x) * threads) {
        const int64_t sample = row / each, query = row % each;
        const int64_t b = sample / heads, h = sample % heads;
        const T *const a = gy.of(b, h) + query * gy.row, *const o = y.of(b, h) + query * y.row;
        C sum = C(0);
        for (int begin = 0; begin < columns; begin += 256) {
            const int end = columns - begin < 256 ? columns : begin + 256;
            C chunk = C(0);
#pragma unroll 8
            for (int d = begin; d < end; ++d) chunk = fma_scalar(widen(a[d]), widen(o[d]), chunk);
            sum = sum + chunk;
        }
        delta[row] = sum - (glse ? glse[row] : C(0));
    }
}

template <class T, class Op> Compute<T>* delta_of(Context& context, const Op& op) {
    using C = Compute<T>;
    const int64_t heads = op.y.extent_at(-3), each = op.lse.extent_at(-1), rows = op.lse.size();
    C* const delta = context.scratch<C>(rows);
    const Dense<C> glse(context, op.glse);
    if (rows > 0)
        MMK_LAUNCH(context, find_delta<T>, grid_of(ceil_div(rows, threads)), threads, 0, heads, each,
                   int(op.y.extent_at(-1)), rows_in<T>(context, op.gy, 1), rows_in<T>(context, op.y, 1), glse.get(),
                   delta, rows);
    return delta;
}

// gsink of a head, from the delta of its rows. float64's exponential wants twice the registers.
template <class T> inline constexpr int sink_threads = sizeof(T) == 8 ? threads / 2 : threads;
template <class T> __global__ void __launch_bounds__(sink_threads<T>)
    sum_sinks(const T* sink, const Compute<T>* lse, const Compute<T>* delta, int64_t heads, int64_t batch,
              int64_t queries, T* gsink) {
    using C = Compute<T>;
    using Room = BlockSum<C, sink_threads<T>>;
    SHARED(Room, room, [1]);
    for (int64_t h = blockIdx.x; h < heads; h += gridDim.x) {
        const C own = widen(sink[h]);
        const C sum = block_sum<C, sink_threads<T>>(room[0], batch * queries, [&](int64_t i) {
            const int64_t row = (i / queries * heads + h) * queries + i % queries;
            const C term = exp(Vec<C>(own - lse[row])).v * delta[row];
            return lse[row] == minus_infinity<C>() ? C(0) : term;
        });
        if (threadIdx.x == 0) gsink[h] = narrow<T>(C(0) - sum);
        __syncthreads(); // the next head's sum
    }
}

// 16-bit problems that tensor cores do not take are the float32 problem on widened operands, rounded once.
template <class T> struct Widen {
    __device__ float operator()(T x) const { return widen(x); }
};
template <class T> struct Narrow {
    __device__ T operator()(float x) const { return narrow<T>(x); }
};
template <class T> void widen_in_place(Context& context, Tensor& x) {
    if (!x || x.dtype == DType::float32) return;
    Tensor once = x; // each element, where a bias broadcasts
    for (int axis = 0; axis < x.rank; ++axis)
        if (x.stride[axis] == 0) once.extent[axis] = once.extent[axis] > 0;
    Tensor wide = once;
    wide.dtype = DType::float32;
    wide = contiguous_scratch(context, wide);
    map<float, T>(context, Widen<T>(), wide, once);
    for (int axis = 0; axis < x.rank; ++axis) {
        if (once.extent[axis] != x.extent[axis]) wide.stride[axis] = 0;
        wide.extent[axis] = x.extent[axis];
    }
    x = wide;
}
// run(wide op) with what `in` and `out` list in float32.
template <class T, class Op, class Run> void run_widened(Context& context, const Op& op,
                                                         std::initializer_list<Tensor Op::*> in,
                                                         std::initializer_list<Tensor Op::*> out, const Run& run) {
    Op wide = op;
    for (const auto x : in) widen_in_place<T>(context, wide.*x);
    for (const auto y : out) {
        (wide.*y).dtype = DType::float32;
        if (op.*y) wide.*y = contiguous_scratch(context, wide.*y);
    }
    run(wide);
    for (const auto y : out) map<T, float>(context, Narrow<T>(), op.*y, wide.*y);
}

// Rows that cp.async copies begin at multiples of 16 bytes.
template <class T> inline constexpr int64_t row_elements = sizeof(T) == 2 ? 8 : 1;

template <class T> void forward(const Attention& op, Context& context) {
    RowsOut<T> y(context, op.y, row_elements<T>);
    DenseOut<Compute<T>> lse(context, op.lse);
    const Forward<T> problem(context, op, y, op.lse ? lse.get() : nullptr, row_elements<T>);
    if constexpr (sizeof(T) == 2)
        forward_tensor(context, problem);
    else if constexpr (std::is_same_v<T, float>) {
        if (!forward_short(context, problem)) forward_scalar(context, problem);
    } else
        forward_scalar(context, problem);
    y.finish();
    if (op.lse) lse.finish();
}

template <class T> void backward(const AttentionGrad& op, Context& context) {
    const Dense<Compute<T>> lse(context, op.lse);
    const Compute<T>* const delta = delta_of<T>(context, op);
    if constexpr (sizeof(T) == 2)
        if (attention_grad_sm90(context, op, lse, delta)) return;
    Backward<T> problem(context, op, lse, delta, row_elements<T>);
    RowsOut<T> gq(context, op.gq, row_elements<T>), gk(context, op.gk, row_elements<T>);
    RowsOut<T> gv(context, op.gv, row_elements<T>);
    problem.gq = gq.rows(), problem.gk = gk.rows(), problem.gv = gv.rows();
    if constexpr (sizeof(T) == 2) {
        backward_queries_tensor(context, problem);
        backward_keys_tensor(context, problem);
    } else {
        backward_queries_scalar(context, problem);
        backward_keys_scalar(context, problem);
    }
    gq.finish(), gk.finish(), gv.finish();
}

template <class T> void backward_bias(const AttentionBiasGrad& op, Context& context) {
    const Dense<Compute<T>> lse(context, op.lse);
    Backward<T> problem(context, op, lse, delta_of<T>(context, op), row_elements<T>);
    DenseOut<T> gbias(context, op.gbias);
    problem.gbias = gbias;
    if constexpr (sizeof(T) == 2)
        backward_queries_tensor(context, problem);
    else
        backward_queries_scalar(context, problem);
    gbias.finish();
}

template <class T> void backward_relative(const AttentionTableGrad& op, Context& context) {
    const Dense<Compute<T>> lse(context, op.lse);
    const Backward<T> problem(context, op, lse, delta_of<T>(context, op), row_elements<T>);
    DenseOut<T> gtable(context, op.gtable);
    backward_table<T>(context, problem, op.table.extent[1], gtable);
    gtable.finish();
}
template <class T> void backward_relative(const AttentionSharedBiasGrad& op, Context& context) {
    const Dense<T> lse(context, op.lse);
    const Backward<T> problem(context, op, lse, delta_of<T>(context, op), row_elements<T>);
    DenseOut<T> gbias(context, op.gbias);
    backward_shared_bias<T>(context, problem, gbias);
    gbias.finish();
}
template <class T> void backward_relative(const AttentionSlopesGrad& op, Context& context) {
    const Dense<T> lse(context, op.lse);
    const Backward<T> problem(context, op, lse, delta_of<T>(context, op), row_elements<T>);
    DenseOut<T> gslopes(context, op.gslopes);
    backward_slopes<T>(context, problem, gslopes);
    gslopes.finish();
}
template <class T> void backward_sink(const AttentionSinkGrad& op, Context& context) {
    const Dense<Compute<T>> lse(context, op.lse);
    const Dense<T> sink(context, op.sink);
    DenseOut<T> gsink(context, op.gsink);
    const int64_t heads = op.gsink.extent[0], queries = op.lse.extent_at(-1);
    const Compute<T>* const delta = delta_of<T>(context, op);
    MMK_LAUNCH(context, sum_sinks<T>, grid_of(heads), sink_threads<T>, 0, sink.get(), lse.get(), delta, heads,
               batch_of(op.y).size(), queries, gsink.get());
    gsink.finish();
}

// narrow(type) where tensor cores take the problem, wide(type) for other 16-bit problems, plain(type) for wide types.
template <class Op, class OnTensorCores, class Widened, class Plain>
void choose(const Op& op, Context& context, const OnTensorCores& on_tensor_cores, const Widened& widened,
            const Plain& plain) {
    switch (op.q.dtype) {
    case DType::float32: context.chose("scalar", "float32"); return plain(Type<float>());
    case DType::float64: context.chose("scalar", "float64"); return plain(Type<double>());
    default: break;
    }
    const auto half = [&](auto type) {
        if (fits_tensor_cores(Shape(op)) && !op.table && !op.slopes && op.softcap == 0) {
            context.chose("tensor cores", "16-bit operands, head dimensions of multiples of 8 up to 256");
            return on_tensor_cores(type);
        }
        context.chose("scalar", "other head dimensions than multiples of 8 up to 256, or slopes, a table, a soft cap");
        widened(type);
    };
    if (op.q.dtype == DType::float16) return half(Type<float16>());
    if (op.q.dtype == DType::bfloat16) return half(Type<bfloat16>());
    unexpected_dtype();
}

} // namespace

#define MMK_T typename decltype(type)::type

void attention(const Attention& op, Context& context) {
    if (attention_sm90(op, context)) return;
    choose(
        op, context, [&](auto type) { forward<MMK_T>(op, context); },
        [&](auto type) {
            using A = Attention;
            run_widened<MMK_T>(context, op, {&A::q, &A::k, &A::v, &A::bias, &A::sink, &A::table}, {&A::y},
                               [&](const A& wide) { forward<float>(wide, context); });
        },
        [&](auto type) { forward<MMK_T>(op, context); });
}

void attention_grad(const AttentionGrad& op, Context& context) {
    choose(
        op, context, [&](auto type) { backward<MMK_T>(op, context); },
        [&](auto type) {
            using A = AttentionGrad;
            run_widened<MMK_T>(context, op, {&A::q, &A::k, &A::v, &A::y, &A::gy, &A::bias, &A::table},
                               {&A::gq, &A::gk, &A::gv}, [&](const A& wide) { backward<float>(wide, context); });
        },
        [&](auto type) { backward<MMK_T>(op, context); });
}

void attention_bias_grad(const AttentionBiasGrad& op, Context& context) {
    choose(
        op, context, [&](auto type) { backward_bias<MMK_T>(op, context); },
        [&](auto type) {
            using A = AttentionBiasGrad;
            run_widened<MMK_T>(context, op, {&A::q, &A::k, &A::v, &A::y, &A::gy, &A::bias, &A::table}, {&A::gbias},
                               [&](const A& wide) { backward_bias<float>(wide, context); });
        },
        [&](auto type) { backward_bias<MMK_T>(op, context); });
}

void attention_table_grad(const AttentionTableGrad& op, Context& context) {
    visit_storage(op.q.dtype, [&](auto type) {
        using T = MMK_T;
        if constexpr (sizeof(T) == 2) {
            using A = AttentionTableGrad;
            run_widened<T>(context, op, {&A::q, &A::k, &A::v, &A::y, &A::gy, &A::bias, &A::table}, {&A::gtable},
                           [&](const A& wide) { backward_relative<float>(wide, context); });
        } else
            backward_relative<T>(op, context);
    });
}

void attention_shared_bias_grad(const AttentionSharedBiasGrad& op, Context& context) {
    visit_storage(op.q.dtype, [&](auto type) {
        using T = MMK_T;
        if constexpr (sizeof(T) == 2) {
            using A = AttentionSharedBiasGrad;
            run_widened<T>(context, op, {&A::q, &A::k, &A::v, &A::y, &A::gy, &A::bias, &A::table}, {&A::gbias},
                           [&](const A& wide) { backward_relative<float>(wide, context); });
        } else
            backward_relative<T>(op, context);
    });
}

void attention_slopes_grad(const AttentionSlopesGrad& op, Context& context) {
    visit_storage(op.q.dtype, [&](auto type) {
        using T = MMK_T;
        if constexpr (sizeof(T) == 2) {
            using A = AttentionSlopesGrad;
            run_widened<T>(context, op, {&A::q, &A::k, &A::v, &A::y, &A::gy, &A::bias, &A::table}, {},
                           [&](const A& wide) { backward_relative<float>(wide, context); });
        } else
            backward_relative<T>(op, context);
    });
}

void attention_sink_grad(const AttentionSinkGrad& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) { backward_sink<MMK_T>(op, context); });
}

} // namespace mmk::cuda
