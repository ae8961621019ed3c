#include "conv.tensor.cuh"

namespace mmk::cuda::conv {

#define MMK_TENSOR(T)                                                                                                  \
    template const T* channel_vectors<T>(Context&, const T*, const Extents&, int64_t&, Strides5&);                     \
    template Prepared<T> prepare_products<T>(Context&, const Correlation&, const Operands<T>&);                        \
    template void correlate_products<T>(Context&, const Prepared<T>&, const Correlation&, const Operands<T>&, bool);
MMK_TENSOR(float16)
MMK_TENSOR(bfloat16)

} // namespace mmk::cuda::conv
