// What the kernels of the family share: samples of a deformable convolution, long sums over their channels, matrices
// whose rows fall apart into an outer and an inner index, 16-bit operands in float32.
#pragma once

#include "../ops/deform.h"

#include "../core/bilinear.h"
#include "divide.cuh"
#include "elementwise.cuh"
#include "products.cuh"
#include "rows.cuh"

namespace mmk::cuda::deform {

inline constexpr int threads = 256;
// Scratch memory that samples, or their gradients, may take at a time. Little on the emulator, so that tests see several
// rounds.
#if defined(__CUDACC__)
inline constexpr int64_t slab_bytes = int64_t(256) << 20;
#else
inline constexpr int64_t slab_bytes = int64_t(1) << 14;
#endif

template <class T> struct Sampling {
    int64_t H, W, taps, S, P, Q, sets; // sets: groups of offsets
    int64_t stride[2], dilation[2], before[2];
    const T *offset, *mask; // dense; no mask: null
    Divisor by_column, by_tap_column, by_tap;

    template <class Op>
    Sampling(const Op& op, int64_t height, int64_t width, int64_t R, int64_t S_, const T* offset_, const T* mask_)
        : H(height), W(width), taps(R * S_), S(S_), P(op.offset.extent[2]), Q(op.offset.extent[3]),
          sets(op.offset_groups), stride{op.stride[0], op.stride[1]}, dilation{op.dilation[0], op.dilation[1]},
          before{op.padding[0], op.padding[2]}, offset(offset_), mask(mask_), by_column(Q), by_tap_column(S),
          by_tap(taps) {}

    MMK_MEMBER int64_t pixels() const { return P * Q; }
    MMK_MEMBER int64_t plane(int64_t n, int64_t set, int64_t tap) const { return (n * sets + set) * taps + tap; }
    MMK_MEMBER BilinearPlace<T> place(int64_t n, int64_t set, int64_t tap, int64_t pixel) const {
        int64_t p = pixel, r = tap;
        const int64_t q = by_column.take(p), column = by_tap_column.take(r);
        const int64_t h = p * stride[0] + (r * dilation[0] - before[0]);
        const int64_t w = q * stride[1] + (column * dilation[1] - before[1]);
        const T* const moved = offset + 2 * plane(n, set, tap) * pixels() + pixel;
        return {Vec<T>(T(h) + moved[0]), Vec<T>(T(w) + moved[pixels()]), Vec<T>(sampled_extent<T>(H)),
                Vec<T>(sampled_extent<T>(W))};
    }
    // 1 where there is no mask; whoever multiplies asks masked() first
    MMK_MEMBER T factor(int64_t n, int64_t set, int64_t tap, int64_t pixel) const {
        return mask ? mask[plane(n, set, tap) * pixels() + pixel] : T(1);
    }
};

// The four elements of a place in a plane, as offsets, and whether they are there.
struct CornerOffsets {
    int64_t at[4];
    bool exists[4];

    template <class T>
    MMK_MEMBER CornerOffsets(const BilinearPlace<T>& p, int64_t H, int64_t W, int64_t row, int64_t column) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const int64_t h = p.row.v + k / 2, w = p.column.v + k % 2;
            exists[k] = h >= 0 && h < H && w >= 0 && (w < W || MMK_DEFECT(deform_right_border));
            at[k] = h * row + w * column;
        }
    }
    template <class S> MMK_MEMBER Vec<Compute<S>> value(const S* from, int k) const {
        return Vec<Compute<S>>(exists[k] ? widen(from[at[k]]) : Compute<S>(0));
    }
};

// ---- sums over channels --------------------------------------------------------------------------------------------

// A sample's three long sums, its channels being dealt out to the sixteen lanes of half a warp: slope along y, slope
// along x, value. term(c): the three of channel c. All at once where counters of few chunks do, else one after another.
inline constexpr int few_levels = 3, few_channels = 7 * sum_chunk; // 2^3 - 1 chunks
template <bool few, class C, class Term>
__device__ __forceinline__ Several<C, 3> sum_channels(int lane, int64_t channels, const Term& term) {
    if constexpr (few) return join_lanes(lane_sum<Several<C, 3>, few_levels>(lane, 0, channels, term));
    Several<C, 3> sums(C(0));
#pragma unroll 1
    for (int which = 0; which < 3; ++which) {
        const C sum = join_lanes(lane_sum<C>(lane, 0, channels, [&](int64_t c) {
            const Several<C, 3> terms = term(c);
            return which == 0 ? terms.at[0] : which == 1 ? terms.at[1] : terms.at[2];
        }));
#pragma unroll
        for (int k = 0; k < 3; ++k)
            if (k == which) sums.at[k] = sum;
    }
    return sums;
}
// Those terms: z is what reaches the sample, `from` its plane at the channel.
template <class S, class C> __device__ __forceinline__ Several<C, 3>
sample_terms(const BilinearPlace<C>& p, const CornerOffsets& corners, const S* from, C z) {
    const Vec<C> v00 = corners.value(from, 0), v01 = corners.value(from, 1), v10 = corners.value(from, 2),
                 v11 = corners.value(from, 3), factor(z);
    Several<C, 3> terms;
    terms.at[0] = (factor * slope_along_y(p.left, p.right, v00, v01, v10, v11)).v;
    terms.at[1] = (factor * slope_along_x(p.top, p.bottom, v00, v01, v10, v11)).v;
    terms.at[2] = (factor * bilinear_sample(p.top * p.left, p.top * p.right, p.bottom * p.left, p.bottom * p.right, v00,
                                            v01, v10, v11))
                      .v;
    return terms;
}

// ---- products ------------------------------------------------------------------------------------------------------

// An index whose neighbours are `inner` apart in runs, and the runs `outer`.
struct Split {
    int64_t first = 0;
    Divisor run{INT64_MAX};
    int64_t outer = 0, inner = 1;
    MMK_MEMBER int64_t at(int64_t i) const {
        i += first;
        const int64_t rest = run.take(i);
        return i * outer + rest * inner;
    }
};
inline Split steps(int64_t step) { return {0, Divisor(INT64_MAX), 0, step}; }
inline Split runs(int64_t first, int64_t length, int64_t outer, int64_t inner) {
    return {first, Divisor(length > 0 ? length : 1), outer, inner};
}

struct Matrix {
    const void* data;
    int64_t batch;
    Split rows, depth;
};
template <class T> struct Result {
    T* data;
    int64_t batch, row;
    Split columns;
    const T* bias; // one per row, or null
    Activation activation;
};

// result[row][column] = sum over k of a[row][k] * b[column][k]. Neighbours in memory: k of a, columns.
template <class T> void multiply_filters(Context& context, const Matrix& a, const Matrix& b, const Result<T>& result,
                                         const ProductExtents& extents, int64_t chunk);
// Neighbours in memory: rows, columns.
template <class T> void multiply_back(Context& context, const Matrix& a, const Matrix& b, const Result<T>& result,
                                      const ProductExtents& extents);
// Neighbours in memory: k of both. make(first, count) gives b for products [first, first + count): rows `count` apart,
// b.batch of them in a batch.
class MakeColumns {
  public:
    virtual const void* operator()(int64_t first, int64_t count) = 0;

  protected:
    ~MakeColumns() = default;
};
template <class T> void multiply_pixels(Context& context, const Matrix& a, const Matrix& b, const Result<T>& result,
                                        const ProductExtents& extents, MakeColumns& make);

// ---- 16 bits -------------------------------------------------------------------------------------------------------

inline bool is_half(const Tensor& t) { return t && (t.dtype == DType::float16 || t.dtype == DType::bfloat16); }
Tensor widened(Context& context, const Tensor& x); // itself if it is wide
Tensor wide_scratch(Context& context, const Tensor& y);
void round_to(Context& context, const Tensor& y, const Tensor& wide);

// run(zero, op) with float32 operands in the place of 16-bit ones; results are rounded to those of `op`.
template <class Op, class Run> void in_wide(Context& context, const Op& op, DType dtype, Run&& run,
                                            std::initializer_list<Tensor Op::*> inputs,
                                            std::initializer_list<Tensor Op::*> outputs) {
    if (dtype == DType::float64) return run(double(0), op);
    if (dtype == DType::float32) return run(float(0), op);
    Op wide = op;
    for (Tensor Op::* input : inputs) wide.*input = widened(context, op.*input);
    for (Tensor Op::* output : outputs) wide.*output = wide_scratch(context, op.*output);
    run(float(0), wide);
    for (Tensor Op::* output : outputs) round_to(context, op.*output, wide.*output);
}

} // namespace mmk::cuda::deform
