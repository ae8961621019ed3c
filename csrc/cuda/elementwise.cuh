// map: y[i] = operation(a[i], b[i], ...), 16 bytes an access where arrays are dense and begin at a multiple of it, else
// element by element.
#pragma once

#include <utility>

#include "layout.cuh"

namespace mmk::cuda {

inline constexpr int map_threads = 256;
// Blocks that a multiprocessor shall have room for: 1536 threads of 40 registers, 1024 of 64. Left to itself the assembler
// spills some functions to get 32.
template <class Y> inline constexpr int map_blocks = sizeof(Y) == 8 ? 4 : 6;

// One thread makes N neighbouring elements; the ragged end is made element by element.
template <int N, class Operation, class Y, class... X> __global__ void __launch_bounds__(map_threads, map_blocks<Y>)
    map_dense(Operation operation, int64_t count, Y* y, const X*... x) {
    for (int64_t i = (int64_t(blockIdx.x) * map_threads + threadIdx.x) * N; i < count;
         i += int64_t(gridDim.x) * map_threads * N) {
        if (i + N <= count || MMK_DEFECT(map_ragged_end)) {
            Pack<Y, N> result;
            [&](const auto&... in) {
                for (int k = 0; k < N; ++k) result.at[k] = operation(in.at[k]...);
            }(*reinterpret_cast<const Pack<X, N>*>(x + i)...);
            *reinterpret_cast<Pack<Y, N>*>(y + i) = result;
        } else {
            for (int64_t k = i + (MMK_DEFECT(map_skipped_end) ? 1 : 0); k < count; ++k) y[k] = operation(x[k]...);
        }
    }
}

// Any strides: the index is taken apart, one element a thread.
template <class Operation, class Y, size_t... K, class... X> MMK_INLINE void
map_one(const Operation& operation, const int64_t* offset, std::index_sequence<K...>, Y* y, const X*... x) {
    y[offset[0]] = operation(x[offset[1 + K]]...);
}
template <class Operation, class Y, class... X> __global__ void __launch_bounds__(map_threads, map_blocks<Y>)
    map_strided(Operation operation, Walk<1 + sizeof...(X)> walk, int64_t count, Y* y, const X*... x) {
    for (int64_t i = int64_t(blockIdx.x) * map_threads + threadIdx.x; i < count;
         i += int64_t(gridDim.x) * map_threads) {
        int64_t offset[1 + sizeof...(X)];
        walk.offsets(i, offset);
        map_one(operation, offset, std::index_sequence_for<X...>(), y, x...);
    }
}

// operation(X...) -> Y, a function object with a const operator(). All tensors have y's extents.
template <class Y, class... X, class Operation, class... Tensors>
void map(Context& context, Operation operation, const Tensor& y, const Tensors&... x) {
    static_assert(sizeof...(X) == sizeof...(Tensors));
    const int64_t count = y.size();
    if (count == 0) return;
    constexpr int widest = int(sizeof(Y) > 1 ? 16 / sizeof(Y) : 8); // of bytes 16 would spill
    const bool dense = (same_dense(x, y) && ...) && same_dense(y, y);
    if (dense && aligned(y.data, 16) && (aligned(x.data, 16) && ...)) {
        MMK_LAUNCH(context, (map_dense<widest, Operation, Y, X...>), grid_of(ceil_div(count, widest * map_threads)),
                   map_threads, 0, operation, count, static_cast<Y*>(y.data), static_cast<const X*>(x.data)...);
        return;
    }
    const Tensor* const all[1 + sizeof...(X)] = {&y, &x...};
    MMK_LAUNCH(context, (map_strided<Operation, Y, X...>), grid_of(ceil_div(count, map_threads)), map_threads, 0,
               operation, walk_of(all), count, static_cast<Y*>(y.data), static_cast<const X*>(x.data)...);
}

} // namespace mmk::cuda
