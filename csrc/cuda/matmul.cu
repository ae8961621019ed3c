#include "../ops/matmul.h"

#include "products.cuh"

#include "matmul.cuh"

namespace mmk::cuda {
namespace {

// Axes [first, last) of a tensor.
Walk<1> walk_axes(const Tensor& t, int first, int last) {
    Tensor part;
    part.rank = last - first;
    for (int axis = first; axis < last; ++axis)
        part.extent[axis - first] = t.extent[axis], part.stride[axis - first] = t.stride[axis];
    const Tensor* const one[1] = {&part};
    return walk_of(one);
}

void plain_product(Context& context, const Product& p, double* y) {
    context.chose("register tiles", "float64");
    launch_chunked_register_products<RegisterShapes<double>::Large>(
        context, operand_of<true, 1, double>(p.a), operand_of<true, 1, double>(p.b), dense_finish(p, y), p.extents);
}
void plain_product(Context& context, const Product& p, float* y) {
    using Shapes = RegisterShapes<float>;
    const bool few = p.extents.rows <= Shapes::FewRows::rows;
    const bool large = Tiles<Shapes::Large>(p.extents).count >= 2 * context.multiprocessors;
    context.chose(few     ? "few rows"
                  : large ? "large tiles"
                          : "small tiles",
                  few     ? "at most 16 rows"
                  : large ? "they occupy the device"
                          : "large ones would not occupy the device");
    const auto with = [&](const auto& a, const auto& b) {
        if (large)
            launch_register_products<Shapes::Large>(context, a, b, dense_finish(p, y), p.extents);
        else
            launch_chunked_register_products<Shapes::Small>(context, a, b, dense_finish(p, y), p.extents);
    };
    // b's columns are its rows here
    const bool a_along_rows = whole_pieces<float>(p.a, false, 0), b_along_rows = whole_pieces<float>(p.b, false, 0);
    const auto a_along_k = operand_of<true, 1, float>(p.a), b_along_k = operand_of<true, 1, float>(p.b);
    const auto a_pieces = operand_of<false, 4, float>(p.a), b_pieces = operand_of<false, 4, float>(p.b);
    if (few && b_along_rows)
        launch_chunked_register_products<Shapes::FewRows>(context, a_along_k, b_pieces, dense_finish(p, y), p.extents);
    else if (few)
        launch_chunked_register_products<Shapes::FewRows>(context, a_along_k, b_along_k, dense_finish(p, y), p.extents);
    else if (a_along_rows && b_along_rows)
        with(a_pieces, b_pieces);
    else if (a_along_rows)
        with(a_pieces, b_along_k);
    else if (b_along_rows)
        with(a_along_k, b_pieces);
    else
        with(a_along_k, b_along_k);
}

void multiply(Context& context, Product& p, Algorithm algorithm, const Tensor& bias_tensor, const Tensor& y_tensor) {
    visit_factors(y_tensor.dtype, algorithm, [&](auto type) {
        using T = typename decltype(type)::type;
        const Dense<T> bias(context, bias_tensor);
        DenseOut<T> y(context, y_tensor);
        p.bias = bias.get();
        if constexpr (is_tf32<T>)
            tf32_product(context, p, y.get());
        else if constexpr (sizeof(T) == 2)
            tensor_product<T>(context, p, y.get());
        else
            plain_product(context, p, y.get());
        y.finish();
    });
}

} // namespace

void matmul(const Matmul& op, Context& context) {
    const Tensor &a = op.a, &b = op.b, &y = op.y;
    const int batch_axes = y.rank - 2;
    int64_t batches = y.size(0, batch_axes), rows = y.extent[batch_axes];
    bool shared = true;
    for (int i = 0; i < batch_axes; ++i) shared = shared && (b.extent[i] == 1 || b.stride[i] == 0);
    Product p{};
    // a b that all batches share meets their rows as those of one matrix
    const int a_batch_axes = shared ? 0 : batch_axes;
    if (shared) rows *= batches, batches = 1;
    p.a = {a.data, walk_axes(a, 0, a_batch_axes), walk_axes(a, a_batch_axes, a.rank - 1), a.stride[a.rank - 1]};
    p.b = {b.data, walk_axes(b, 0, batch_axes), walk_axes(b, b.rank - 1, b.rank), b.stride[b.rank - 2]};
    p.extents = {batches, rows, y.extent[y.rank - 1], a.extent[a.rank - 1]};
    p.activation = op.activation;
    multiply(context, p, op.algorithm, op.bias, y);
}

void linear(const Linear& op, Context& context) {
    const Tensor &x = op.x, &w = op.weight, &y = op.y;
    Product p{};
    p.a = {x.data, {}, walk_axes(x, 0, x.rank - 1), x.stride[x.rank - 1]};
    p.b = {w.data, {}, walk_axes(w, 0, 1), w.stride[1]};
    p.extents = {1, y.size(0, y.rank - 1), y.extent[y.rank - 1], w.extent[1]};
    p.activation = op.activation;
    multiply(context, p, op.algorithm, op.bias, y);
}

} // namespace mmk::cuda
