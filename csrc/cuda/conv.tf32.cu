// Convolution of float32 that asks for TF32, and its input gradient.
#include "conv.tensor.cuh"

namespace mmk::cuda::conv {

template const tf32* channel_vectors<tf32>(Context&, const tf32*, const Extents&, int64_t&, Strides5&);
template Prepared<tf32> prepare_products<tf32>(Context&, const Correlation&, const Operands<tf32>&);
template void correlate_products<tf32>(Context&, const Prepared<tf32>&, const Correlation&, const Operands<tf32>&,
                                       bool);

} // namespace mmk::cuda::conv
