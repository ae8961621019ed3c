#include "tf32.cuh"

#include "layout.cuh"

namespace mmk::cuda {
namespace {

constexpr int rounding_threads = 256;
__global__ void __launch_bounds__(rounding_threads) round_factors(float* x, int64_t count) {
    for (int64_t i = int64_t(blockIdx.x) * rounding_threads + threadIdx.x; i < count;
         i += int64_t(gridDim.x) * rounding_threads)
        if (!MMK_DEFECT(tf32_unrounded_copy)) x[i] = factor(tf32(x[i]));
}

} // namespace

Tensor rounded_to_tf32(Context& context, const Tensor& x) {
    const Tensor copy = pack(context, x);
    if (const int64_t count = copy.size())
        MMK_LAUNCH(context, round_factors, grid_of(ceil_div(count, rounding_threads)), rounding_threads, 0,
                   static_cast<float*>(copy.data), count);
    return copy;
}

} // namespace mmk::cuda
