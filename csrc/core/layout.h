// Kernels read and write contiguous memory; Dense and DenseOut bring any strided operand into that form.
// A copy never changes a bit, so layouts and strides cannot either.
#pragma once

#include "context.h"

namespace mmk {

// Element by element, in logical order; extents are equal, dtypes too.
void copy_strided(Context& context, const Tensor& to, const Tensor& from);
// The same extents and dtype, contiguous, in scratch memory.
Tensor contiguous_scratch(Context& context, const Tensor& like);
void* pack(Context& context, const Tensor& x);

template <class T> class Dense {
  public:
    MMK_MEMBER Dense(Context& context, const Tensor& x) : data_(static_cast<const T*>(x.data)) {
        if (x && !x.contiguous()) data_ = static_cast<const T*>(pack(context, x));
    }
    MMK_MEMBER operator const T*() const { return data_; }
    MMK_MEMBER const T* get() const { return data_; }

  private:
    const T* data_;
};

// A place to write; the destructor brings what was written to the real output.
template <class T> class DenseOut {
  public:
    MMK_MEMBER DenseOut(Context& context, const Tensor& y)
        : context_(context), target_(y), written_(y && !y.contiguous() ? contiguous_scratch(context, y) : y) {}
    MMK_MEMBER ~DenseOut() {
        if (written_.data != target_.data) copy_strided(context_, target_, written_);
    }
    DenseOut(const DenseOut&) = delete;
    DenseOut& operator=(const DenseOut&) = delete;
    MMK_MEMBER operator T*() const { return static_cast<T*>(written_.data); }
    MMK_MEMBER T* get() const { return static_cast<T*>(written_.data); }

  private:
    Context& context_;
    const Tensor& target_;
    Tensor written_;
};

} // namespace mmk
