#include "deform.cuh"

namespace mmk::cuda::deform {
namespace {

template <class T, bool along_k_> struct SplitOperand {
    using Element = T;
    static constexpr bool along_k = along_k_;
    static constexpr int width = 1;
    using Row = const T*;
    using Depth = int64_t;

    const T* data;
    int64_t batch;
    Split rows, depths;

    explicit SplitOperand(const Matrix& m)
        : data(static_cast<const T*>(m.data)), batch(m.batch), rows(m.rows), depths(m.depth) {}
    MMK_MEMBER Row row(int64_t b, int64_t row) const { return data + b * batch + rows.at(row); }
    MMK_MEMBER Depth depth(int64_t k) const { return depths.at(k); }
    MMK_MEMBER const T* at(Row row, Depth k) const { return row + k; }
};

template <class T> struct SplitFinish {
    static constexpr bool along_rows = false;
    static constexpr int width = 16 / int(sizeof(T));

    Result<T> to;
    int64_t rows;
    bool whole; // `width` neighbours are stored at once

    SplitFinish(const Result<T>& r, const ProductExtents& e) : to(r), rows(e.rows) {
        const Split& c = r.columns;
        whole = c.inner == 1 && c.first % width == 0 && e.columns % width == 0 &&
                (c.run.by() == INT64_MAX || c.run.by() % width == 0) && c.outer % width == 0 && r.batch % width == 0 &&
                r.row % width == 0 && aligned(r.data, 16);
    }
    MMK_MEMBER void operator()(int64_t batch, int64_t row, int64_t column, const T (&sum)[width], int count) const {
        const T added = to.bias ? to.bias[(MMK_DEFECT(deform_bias_of_group) ? 0 : batch * rows) + row] : T(0);
        T* const line = to.data + batch * to.batch + row * to.row;
        Pack<T, width> value;
        visit_activation(to.activation, [&](auto activate) {
#pragma unroll
            for (int i = 0; i < width; ++i) value.at[i] = activate(Vec<T>(sum[i] + added)).v;
        });
        if (whole) {
            *reinterpret_cast<Pack<T, width>*>(line + to.columns.at(column)) = value;
            return;
        }
#pragma unroll
        for (int i = 0; i < width; ++i)
            if (i < count || MMK_DEFECT(deform_ragged_columns)) line[to.columns.at(column + i)] = value.at[i];
    }
};

// As RegisterShapes' large tile, but half as wide: 128 registers a thread would not hold its places as well, 168 do.
template <class T> struct LargeShape : RegisterShapes<T>::Large {};
template <> struct LargeShape<float> : RegisterShape<float, 128, 64, 8, 8, 3> {};

} // namespace

template <class T> void multiply_filters(Context& context, const Matrix& a, const Matrix& b, const Result<T>& result,
                                         const ProductExtents& e, int64_t chunk) {
    using Shapes = RegisterShapes<T>;
    const SplitOperand<T, true> left(a);
    const SplitOperand<T, false> right(b);
    const SplitFinish<T> finish(result, e);
    if (sizeof(T) == 4 && e.rows > 64 && Tiles<LargeShape<T>>(e).count >= 2 * context.multiprocessors)
        launch_register_products<LargeShape<T>>(context, left, right, finish, e, chunk);
    else
        launch_chunked_register_products<typename Shapes::Small>(context, left, right, finish, e, chunk);
}
template <class T> void multiply_back(Context& context, const Matrix& a, const Matrix& b, const Result<T>& result,
                                      const ProductExtents& e) {
    launch_register_products<typename RegisterShapes<T>::Small>(
        context, SplitOperand<T, false>(a), SplitOperand<T, false>(b), SplitFinish<T>(result, e), e);
}
template <class T> void multiply_pixels(Context& context, const Matrix& a, const Matrix& b, const Result<T>& result,
                                        const ProductExtents& e, MakeColumns& make) {
    using Shape = typename RegisterShapes<T>::Small;
    const SplitOperand<T, true> left(a);
    SplitOperand<T, true> right(b);
    in_slices<T>(context, SplitFinish<T>(result, e), e, chunk_products, Tiles<Shape>(e).count,
                 [&](const auto& sums, const ProductSlices& slices) {
                     const int64_t first = slices.first * slices.length;
                     const int64_t wanted = slices.count * slices.length, left_over = e.depth - first;
                     const int64_t count = wanted < left_over ? wanted : left_over;
                     right.data = static_cast<const T*>(make(first, count));
                     right.batch = MMK_DEFECT(deform_first_group) ? 0 : b.batch * count, right.rows = steps(count),
                     right.depths.first = -first;
                     launch_register_products<Shape>(context, left, right, sums, e, slices);
                 });
}
#define MMK_PRODUCTS(T)                                                                                                \
    template void multiply_filters<T>(Context&, const Matrix&, const Matrix&, const Result<T>&, const ProductExtents&, \
                                      int64_t);                                                                        \
    template void multiply_back<T>(Context&, const Matrix&, const Matrix&, const Result<T>&, const ProductExtents&);   \
    template void multiply_pixels<T>(Context&, const Matrix&, const Matrix&, const Result<T>&, const ProductExtents&,  \
                                     MakeColumns&);
MMK_PRODUCTS(float)
MMK_PRODUCTS(double)

// ---- 16 bits -------------------------------------------------------------------------------------------------------

namespace {

template <class T> struct Widen {
    MMK_MEMBER float operator()(T x) const { return widen(x); }
};
template <class T> struct Narrow {
    MMK_MEMBER T operator()(float x) const { return narrow<T>(x); }
};

} // namespace

Tensor wide_scratch(Context& context, const Tensor& y) {
    if (!is_half(y)) return y;
    Tensor like = y;
    like.dtype = DType::float32;
    return contiguous_scratch(context, like);
}
Tensor widened(Context& context, const Tensor& x) {
    if (!is_half(x)) return x;
    const Tensor wide = wide_scratch(context, x);
    if (x.dtype == DType::float16)
        map<float, float16>(context, Widen<float16>(), wide, x);
    else
        map<float, bfloat16>(context, Widen<bfloat16>(), wide, x);
    return wide;
}
void round_to(Context& context, const Tensor& y, const Tensor& wide) {
    if (y.dtype == DType::float16)
        map<float16, float>(context, Narrow<float16>(), y, wide);
    else if (y.dtype == DType::bfloat16)
        map<bfloat16, float>(context, Narrow<bfloat16>(), y, wide);
}

} // namespace mmk::cuda::deform
