#include "../ops/pointwise.h"

#include "../core/layout.h"
#include "../core/reduce.h"

namespace mmk::cpu::MMK_ISA {

using namespace mmk::MMK_ISA;

namespace {

constexpr int64_t grain = 8192; // elements for which a second thread pays

template <class T, class F> void binary_kernel(const T* a, const T* b, T* y, int64_t n, F f) {
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) f(Vec<T>::load(a + i), Vec<T>::load(b + i)).store(y + i);
    if (i < n) f(Vec<T>::load(a + i, n - i), Vec<T>::load(b + i, n - i)).store(y + i, n - i);
}
template <class T, class F> void binary_scalar_kernel(const T* a, T b, T* y, int64_t n, F f) {
    const Vec<T> vb(b);
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) f(Vec<T>::load(a + i), vb).store(y + i);
    if (i < n) f(Vec<T>::load(a + i, n - i), vb).store(y + i, n - i);
}

bool one_value(const Tensor& t) {
    for (int i = 0; i < t.rank; ++i)
        if (t.extent[i] != 1 && t.stride[i] != 0) return false;
    return true;
}

template <class F> void binary(const Binary& op, Context& context, F f) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const int64_t n = op.y.size();
        if (same_dense(op.a, op.y) && (same_dense(op.b, op.y) || one_value(op.b))) {
            const T *a = static_cast<const T*>(op.a.data), *b = static_cast<const T*>(op.b.data);
            T* y = static_cast<T*>(op.y.data);
            const bool scalar = !same_dense(op.b, op.y);
            parallel_ranges(context, n, grain, [&](int64_t begin, int64_t end, int) {
                if (scalar)
                    binary_scalar_kernel(a + begin, *b, y + begin, end - begin, f);
                else
                    binary_kernel(a + begin, b + begin, y + begin, end - begin, f);
            });
            return;
        }
        const Dense<T> a(context, op.a), b(context, op.b);
        const DenseOut<T> y(context, op.y);
        parallel_ranges(context, n, grain, [&](int64_t begin, int64_t end, int) {
            binary_kernel(a + begin, b + begin, y + begin, end - begin, f);
        });
    });
}

template <class T> void greater_kernel(const T* a, const T* b, uint8_t* y, int64_t n) {
    for (int64_t i = 0; i < n; ++i) y[i] = a[i] > b[i];
}
template <class T> void where_kernel(const uint8_t* c, const T* a, const T* b, T* y, int64_t n) {
    for (int64_t i = 0; i < n; ++i) y[i] = c[i] ? a[i] : b[i];
}

// Rows of the axes that are summed, for every index of the others.
template <class T, class Finish> void reduce(const Reduction& op, Context& context, Finish finish) {
    int64_t rows, count;
    const Tensor x = summed_last(op, rows, count);
    const Dense<T> dense(context, x);
    const DenseOut<T> y(context, op.y);
    parallel_ranges(context, rows, 1 + grain / (1 + count), [&](int64_t begin, int64_t end, int) {
        for (int64_t row = begin; row < end; ++row) y[row] = finish(long_sum(dense + row * count, count), count);
    });
}

} // namespace

void add(const Binary& op, Context& context) {
    binary(op, context, [](auto a, auto b) { return a + b; });
}
void sub(const Binary& op, Context& context) {
    binary(op, context, [](auto a, auto b) { return a - b; });
}
void mul(const Binary& op, Context& context) {
    binary(op, context, [](auto a, auto b) { return a * b; });
}
void div(const Binary& op, Context& context) {
    binary(op, context, [](auto a, auto b) { return a / b; });
}
void greater(const Binary& op, Context& context) {
    visit_float(op.a.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Dense<T> a(context, op.a), b(context, op.b);
        const DenseOut<uint8_t> y(context, op.y);
        parallel_ranges(context, op.y.size(), grain, [&](int64_t begin, int64_t end, int) {
            greater_kernel(a + begin, b + begin, y + begin, end - begin);
        });
    });
}
void where(const Where& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Dense<uint8_t> condition(context, op.condition);
        const Dense<T> a(context, op.a), b(context, op.b);
        const DenseOut<T> y(context, op.y);
        parallel_ranges(context, op.y.size(), grain, [&](int64_t begin, int64_t end, int) {
            where_kernel(condition + begin, a + begin, b + begin, y + begin, end - begin);
        });
    });
}
void sum(const Reduction& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        reduce<T>(op, context, [](T s, int64_t) { return s; });
    });
}
void mean(const Reduction& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        reduce<T>(op, context, [](T s, int64_t count) { return s / T(count); });
    });
}

} // namespace mmk::cpu::MMK_ISA
