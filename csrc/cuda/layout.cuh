// Kernels that want contiguous memory bring strided operands into that form with Dense and DenseOut, as on the CPU
// floor; kernels that walk strides themselves use Walk. A copy never changes a bit.
#pragma once

#include "launch.cuh"

namespace mmk::cuda {

// The extents that N operands share, neighbours joined where every operand walks on: what an index must be taken
// apart into. Strides in elements.
template <int N> struct Walk {
    int rank = 0;
    int64_t extent[max_rank] = {};
    int64_t stride[N][max_rank] = {};

    // Offsets of element `index`, in logical order.
    MMK_MEMBER void offsets(int64_t index, int64_t (&offset)[N]) const {
        for (int k = 0; k < N; ++k) offset[k] = 0;
        for (int axis = rank - 1; axis > 0; --axis) {
            const int64_t next = index / extent[axis], rest = index - next * extent[axis];
            index = next;
            for (int k = 0; k < N; ++k) offset[k] += rest * stride[k][axis];
        }
        if (rank)
            for (int k = 0; k < N; ++k) offset[k] += index * stride[k][0];
    }
};
// All tensors have the extents of the first, strides of 0 where they broadcast.
template <int N> Walk<N> walk_of(const Tensor* const (&tensors)[N]) {
    Walk<N> walk;
    const Tensor& first = *tensors[0];
    for (int axis = 0; axis < first.rank; ++axis) {
        if (first.extent[axis] == 1) continue;
        bool joins = walk.rank > 0;
        for (int k = 0; k < N && joins; ++k)
            joins = walk.stride[k][walk.rank - 1] == tensors[k]->stride[axis] * first.extent[axis];
        const int at = joins ? walk.rank - 1 : walk.rank++;
        walk.extent[at] = (joins ? walk.extent[at] : 1) * first.extent[axis];
        for (int k = 0; k < N; ++k) walk.stride[k][at] = tensors[k]->stride[axis];
    }
    return walk;
}

// Element by element, in logical order; extents are equal, dtypes too.
void copy_strided(Context& context, const Tensor& to, const Tensor& from);
// The same extents and dtype, contiguous, in scratch memory.
Tensor contiguous_scratch(Context& context, const Tensor& like);
Tensor pack(Context& context, const Tensor& x);
void fill_zero(Context& context, void* data, int64_t bytes);

template <class T> class Dense {
  public:
    Dense(Context& context, const Tensor& x)
        : data_(static_cast<const T*>(x && !x.contiguous() ? pack(context, x).data : x.data)) {}
    operator const T*() const { return data_; }
    const T* get() const { return data_; }

  private:
    const T* data_;
};

// A place to write; finish() brings what was written to the real output. Destructors may not throw, launches may:
// so it is the host function's last line.
template <class T> class DenseOut {
  public:
    DenseOut(Context& context, const Tensor& y)
        : context_(context), target_(y), written_(y && !y.contiguous() ? contiguous_scratch(context, y) : y) {}
    DenseOut(const DenseOut&) = delete;
    DenseOut& operator=(const DenseOut&) = delete;
    void finish() {
        if (written_.data != target_.data) copy_strided(context_, target_, written_);
    }
    operator T*() const { return static_cast<T*>(written_.data); }
    T* get() const { return static_cast<T*>(written_.data); }

  private:
    Context& context_;
    const Tensor& target_;
    Tensor written_;
};

} // namespace mmk::cuda
