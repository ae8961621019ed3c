#include "conv.weight.cuh"

#include "conv.h"
#include "conv.implicit.cuh"
#include "products.tensor.cuh"

namespace mmk::cuda::conv {
namespace {

template <class T>
void gradient_by_threads(Context& context, const Correlation& c, const T* x, const T* gy, T* gweight) {
    context.chose("direct, a thread for every chunk", "a group has few outputs");
    const bool last = c.source.c == 1 && c.groups * c.channels > 1;
    const WeightFinish<T> finish(c, gweight, c.channels, last ? WeightOrder::filters : WeightOrder::taps);
    WeightFinish<T> all = finish; // one row of all weights
    all.outputs = 1;
    const int64_t weights = finish.filters * c.channels * c.taps(), products = c.pixels();
    const ProductExtents extents{1, 1, weights, products ? products : 1}; // an empty sum is one empty chunk
    in_slices<Compute<T>>(context, all, extents, chunk_products, ceil_div(weights, weight_threads),
                          [&](const auto& sums, const ProductSlices& slices) {
                              MMK_LAUNCH(context, (sum_weight_chunks<T>),
                                         grid_of(ceil_div(weights * slices.count, weight_threads)), weight_threads, 0,
                                         c, finish, x, gy, slices, sums.sums);
                          });
}

// As RegisterShapes' large tile, but half as wide: 128 registers a thread would not hold its places as well, 168 do.
template <class T> struct WeightShape : RegisterShapes<T>::Large {};
template <> struct WeightShape<float> : RegisterShape<float, 128, 64, 8, 8, 3> {};

template <class Shape, class T>
void gradient_by_products(Context& context, const Correlation& c, const T* x, const T* gy, T* gweight) {
    context.chose("implicit product", "many outputs in a group");
    const WeightFinish<T> finish(c, gweight, c.channels, WeightOrder::taps);
    launch_chunked_register_products<Shape>(context, ResultOperand<T, false, 1>(c, gy),
                                            SourceOperand<T, false, 1>(c, x), finish,
                                            {c.groups, c.outputs, c.channels * c.taps(), c.pixels()});
}

// Parts of the sum, which are added in order: they depend on the extents alone. 512 tiles of 128 x 128 in all, but no
// part of fewer than 512 pixels, nor of more than tensor_slice.
int64_t pixels_of_part(const Correlation& c) {
    const int64_t pixels = c.pixels();
    const int64_t tiles = c.groups * ceil_div(c.outputs, 128) * ceil_div(c.channels * c.taps(), 128);
    const int64_t part = larger(512, ceil_div(pixels, ceil_div(512, tiles)));
    return ceil_div(smaller(part, tensor_slice), 32) * 32;
}
template <class Shape, class T>
void gradient_on_tensor_cores(Context& context, const Correlation& c, const T* x, const T* gy, T* gweight) {
    context.chose("implicit product on tensor cores", "many outputs in a group");
    Correlation v = c;
    x = channel_vectors(context, x, source_extents(c), v.channels, v.source);
    gy = channel_vectors(context, gy, result_extents(c), v.outputs, v.result);
    v.before[0] -= c.front();
    const ResultOperand<T, true, piece<T>> rows(v, gy);
    const SourceOperand<T, true, piece<T>> columns(v, x);
    const WeightFinish<T> finish(c, gweight, v.channels, WeightOrder::channels);
    const ProductExtents extents{c.groups, v.outputs, v.channels * c.taps(), c.pixels()};
    const int64_t tiles = Tiles<Shape>(extents).count;
    const auto launch = [&](const auto& to, const ProductSlices& slices) {
        using To = std::decay_t<decltype(to)>;
        MMK_LAUNCH(context,
                   (tensor_products<Shape, ResultOperand<T, true, piece<T>>, SourceOperand<T, true, piece<T>>, To>),
                   grid_of(tiles * slices.count), Shape::threads, Shape::shared, rows, columns, to, extents, slices);
    };
    in_slices<float>(context, finish, extents, pixels_of_part(c), tiles, launch);
}

} // namespace

template <class T> void weight_gradient(Context& context, const Correlation& c, const T* x, const T* gy, T* gweight) {
    const int64_t pixels = c.pixels();
    if constexpr (!is_tf32<T>)
        if (!products_cover<T>(c) || pixels == 0 || pixels >> 31)
            return gradient_by_threads(context, c, x, gy, gweight);
    if constexpr (on_tensor_cores<T>) {
        if constexpr (sizeof(T) == 2)
            if (weight_gradient_sm90(context, c, x, gy, gweight)) return;
        if (c.outputs > 64)
            gradient_on_tensor_cores<LargeTensorShape>(context, c, x, gy, gweight);
        else
            gradient_on_tensor_cores<SmallTensorShape>(context, c, x, gy, gweight);
    } else {
        Correlation p = c;
        x = image_planes(context, x, source_extents(c), p.source);
        gy = image_planes(context, gy, result_extents(c), p.result);
        p.before[0] -= c.front();
        if (c.outputs > 64)
            gradient_by_products<WeightShape<T>>(context, p, x, gy, gweight);
        else
            gradient_by_products<typename RegisterShapes<T>::Small>(context, p, x, gy, gweight);
    }
}
template void weight_gradient<float>(Context&, const Correlation&, const float*, const float*, float*);
template void weight_gradient<double>(Context&, const Correlation&, const double*, const double*, double*);
template void weight_gradient<float16>(Context&, const Correlation&, const float16*, const float16*, float16*);
template void weight_gradient<tf32>(Context&, const Correlation&, const tf32*, const tf32*, tf32*);
template void weight_gradient<bfloat16>(Context&, const Correlation&, const bfloat16*, const bfloat16*, bfloat16*);

} // namespace mmk::cuda::conv
