// Functions of each element, sixteen at a time.
#pragma once

#include "../core/layout.h"
#include "../core/simd.h"

namespace mmk::cpu::MMK_ISA {

using namespace mmk::MMK_ISA;

inline constexpr int64_t grain = 4096; // elements for which a second thread pays

template <class T, class F, class... In> MMK_FLATTEN void elementwise_kernel(T* y, int64_t n, F f, const In*... x) {
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) f(Vec<T>::load(x + i)...).store(y + i);
    if (i < n) f(Vec<T>::load(x + i, n - i)...).store(y + i, n - i);
}

// y = f(x...), element by element; operands that are not dense like the result are packed first.
template <class F, class... In> void elementwise(Context& context, F f, const Tensor& y, const In&... x) {
    visit_float(y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const auto run = [&](T* to, const auto*... from) {
            parallel_ranges(context, y.size(), grain, [&](int64_t begin, int64_t end, int) {
                elementwise_kernel(to + begin, end - begin, f, from + begin...);
            });
        };
        if ((same_dense(x, y) && ...))
            run(static_cast<T*>(y.data), static_cast<const T*>(x.data)...);
        else
            run(DenseOut<T>(context, y).get(), Dense<T>(context, x).get()...);
    });
}

} // namespace mmk::cpu::MMK_ISA
