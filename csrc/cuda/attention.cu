#include <initializer_list>

#include "attention.cuh"
#include "elementwise.cuh"

namespace mmk::cuda {
namespace {

using namespace flash;

constexpr int threads = 256;

// delta = sum(gy y) - glse: a thread a row, in chunks of 256 products like every dot product.
template <class T> __global__ void __launch_bounds__(threads)
    find_delta(Shape shape, Rows<const T> gy, Rows<const T> y, const Compute<T>* glse, Compute<T>* delta,
               int64_t rows) {
    using C = Compute<T>;
    for (int64_t row = int64_t(blockIdx.x) * threads + threadIdx.x; row < rows; row += int64_t(gridDim.x) * threads) {
        const int64_t sample = row / shape.queries, query = row % shape.queries;
        const int64_t b = sample / shape.heads, h = sample % shape.heads;
        const T *const a = gy.of(b, h) + query * gy.row, *const o = y.of(b, h) + query * y.row;
        C sum = C(0);
        for (int begin = 0; begin < shape.columns; begin += 256) {
            const int end = shape.columns - begin < 256 ? shape.columns : begin + 256;
            C chunk = C(0);
#pragma unroll 8
            for (int d = begin; d < end; ++d) chunk = fma_scalar(widen(a[d]), widen(o[d]), chunk);
            sum = sum + chunk;
        }
        delta[row] = sum - (glse ? glse[row] : C(0));
    }
}

template <class T, class Op> Compute<T>* delta_of(Context& context, const Op& op, const Shape& shape) {
    using C = Compute<T>;
    const int64_t rows = shape.batch * shape.heads * shape.queries;
    C* const delta = context.scratch<C>(rows);
    const Dense<C> glse(context, op.glse);
    if (rows > 0)
        MMK_LAUNCH(context, find_delta<T>, grid_of(ceil_div(rows, threads)), threads, 0, shape,
                   rows_in<T>(context, op.gy, 1), rows_in<T>(context, op.y, 1), glse.get(), delta, rows);
    return delta;
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
    Backward<T> problem(context, op, lse, delta_of<T>(context, op, Shape(op)), row_elements<T>);
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
    Backward<T> problem(context, op, lse, delta_of<T>(context, op, Shape(op)), row_elements<T>);
    DenseOut<T> gbias(context, op.gbias);
    problem.gbias = gbias;
    if constexpr (sizeof(T) == 2)
        backward_queries_tensor(context, problem);
    else
        backward_queries_scalar(context, problem);
    gbias.finish();
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
        if (fits_tensor_cores(Shape(op))) {
            context.chose("tensor cores", "16-bit operands, head dimensions of multiples of 8 up to 256");
            return on_tensor_cores(type);
        }
        context.chose("scalar", "head dimensions other than multiples of 8 up to 256");
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
            run_widened<MMK_T>(context, op, {&A::q, &A::k, &A::v, &A::bias}, {&A::y},
                               [&](const A& wide) { forward<float>(wide, context); });
        },
        [&](auto type) { forward<MMK_T>(op, context); });
}

void attention_grad(const AttentionGrad& op, Context& context) {
    choose(
        op, context, [&](auto type) { backward<MMK_T>(op, context); },
        [&](auto type) {
            using A = AttentionGrad;
            run_widened<MMK_T>(context, op, {&A::q, &A::k, &A::v, &A::y, &A::gy, &A::bias}, {&A::gq, &A::gk, &A::gv},
                               [&](const A& wide) { backward<float>(wide, context); });
        },
        [&](auto type) { backward<MMK_T>(op, context); });
}

void attention_bias_grad(const AttentionBiasGrad& op, Context& context) {
    choose(
        op, context, [&](auto type) { backward_bias<MMK_T>(op, context); },
        [&](auto type) {
            using A = AttentionBiasGrad;
            run_widened<MMK_T>(context, op, {&A::q, &A::k, &A::v, &A::y, &A::gy, &A::bias}, {&A::gbias},
                               [&](const A& wide) { backward_bias<float>(wide, context); });
        },
        [&](auto type) { backward_bias<MMK_T>(op, context); });
}

} // namespace mmk::cuda
