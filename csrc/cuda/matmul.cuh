// What the two operators of matmul have become when a product is made: matmul.cu (float32, float64),
// matmul.tensor.cu, matmul.tf32.cu.
#pragma once

#include "../ops/matmul.h"
#include "tf32.cuh"

namespace mmk::cuda {

// Matrices of a strided tensor: element (i, k) of batch s lies at batches(s) + rows(i) + k * depth_stride.
struct MatrixView {
    const void* data;
    Walk<1> batches, rows;
    int64_t depth_stride;
};
struct Product {
    MatrixView a, b;
    ProductExtents extents;
    const void* bias; // dense, or null
    Activation activation;
};

// Whether all pieces of `width` elements along k (else along rows) lie at multiples of 16 bytes and end where rows end.
template <class T> bool whole_pieces(const MatrixView& m, bool along_k, int64_t depth) {
    constexpr int64_t width = 16 / sizeof(T);
    if (!aligned(m.data, 16)) return false;
    for (int axis = 0; axis < m.batches.rank; ++axis)
        if (m.batches.stride[0][axis] % width) return false;
    const int last = m.rows.rank - 1;
    for (int axis = 0; axis < last + along_k; ++axis)
        if (m.rows.stride[0][axis] % width) return false;
    if (along_k) return m.depth_stride == 1 && depth % width == 0;
    return last >= 0 && m.rows.stride[0][last] == 1 && m.rows.extent[last] % width == 0 && m.depth_stride % width == 0;
}
template <bool along_k, int width, class T> StridedOperand<T, along_k, width> operand_of(const MatrixView& m) {
    return {static_cast<const T*>(m.data), m.batches, m.rows, m.depth_stride};
}

template <class T> DenseFinish<T> dense_finish(const Product& p, T* y) {
    return {y,
            static_cast<const T*>(p.bias),
            p.extents.rows,
            p.extents.columns,
            p.activation,
            aligned(y, 16) && p.extents.columns % DenseFinish<T>::width == 0};
}

// y is dense.
void tf32_product(Context& context, const Product& product, tf32* y);                   // matmul.tf32.cu
template <class T> void tensor_product(Context& context, const Product& product, T* y); // matmul.tensor.cu
// On Hopper; false where it does not serve the call. matmul.sm90.cu
template <class T> bool tensor_product_sm90(Context& context, const Product& product, T* y);

// The matrices (`count` rows in all) with k as neighbours, rows of whole pieces, zeros behind the last product. Products
// read an operand several times, and element by element at a tenth of the speed.
template <class T> MatrixView pack_rows(Context& context, const MatrixView& m, int64_t count, int64_t depth);

} // namespace mmk::cuda
