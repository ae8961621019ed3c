// Tensors N C *S whose channels have numbers: functions of each element and its channel's numbers.
#pragma once

#include "../core/layout.h"
#include "../core/orders.h"
#include "../core/simd.h"

namespace mmk::cpu::MMK_ISA {

using namespace mmk::MMK_ISA;

// numbers: an array of K pointers, each to one number per channel.
template <int K, class T, class F, class... In>
MMK_FLATTEN void plane_kernel(const T* const* numbers, int64_t channel, T* y, int64_t size, F f, const In*... x) {
    Vec<T> number[K];
    for (int k = 0; k < K; ++k) number[k] = Vec<T>(numbers[k][channel]);
    int64_t i = 0;
    for (; i + lanes <= size; i += lanes) f(number, Vec<T>::load(x + i)...).store(y + i);
    if (i < size) f(number, Vec<T>::load(x + i, size - i)...).store(y + i, size - i);
}
template <int K, class T, class F, class... In>
MMK_FLATTEN void pixel_kernel(const T* const* numbers, int64_t channels, T* y, F f, const In*... x) {
    Vec<T> number[K];
    for (int64_t c = 0; c < channels; c += lanes) {
        for (int k = 0; k < K; ++k) number[k] = Vec<T>::load(numbers[k] + c, channels - c);
        f(number, Vec<T>::load(x + c, channels - c)...).store(y + c, channels - c);
    }
}

// y = f(the channel's K numbers, x...), element by element.
template <int K, class T, class F, class... In>
void map_channels(Context& context, const T* const (&numbers)[K], F f, const Tensor& y, const In&... x) {
    constexpr int64_t grain = 4096; // elements for which a second thread pays
    const int64_t channels = y.extent[1], size = y.size(2, y.rank);
    if (y.size() == 0) return;
    const T* const* const at = numbers;
    if (has_channels_inside(y) && (has_channels_inside(x) && ...)) {
        context.chose("pixels", "channels are neighbours in memory");
        const auto run = [&](T* to, const auto*... from) {
            parallel_ranges(context, y.size() / channels, 1 + grain / channels, [&](int64_t begin, int64_t end, int) {
                for (int64_t p = begin; p < end; ++p)
                    pixel_kernel<K>(at, channels, to + p * channels, f, from + p * channels...);
            });
        };
        return run(static_cast<T*>(y.data), static_cast<const T*>(x.data)...);
    }
    context.chose("planes", "pixels of a channel are neighbours in memory");
    const auto run = [&](T* to, const auto*... from) {
        parallel_ranges(context, y.extent[0] * channels, 1 + grain / size, [&](int64_t begin, int64_t end, int) {
            for (int64_t p = begin; p < end; ++p)
                plane_kernel<K>(at, p % channels, to + p * size, size, f, from + p * size...);
        });
    };
    run(DenseOut<T>(context, y).get(), Dense<T>(context, x).get()...);
}

} // namespace mmk::cpu::MMK_ISA
