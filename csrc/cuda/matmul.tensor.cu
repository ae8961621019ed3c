// matmul and linear of float16 and bfloat16.
#include "products.tensor.cuh"

#include "matmul.cuh"

namespace mmk::cuda {
namespace {

template <class Shape, class SlicedShape, class T, class A, class B>
void launch(Context& context, const Product& p, const A& a, const B& b, T* y) {
    launch_tensor_products<Shape, SlicedShape>(context, a, b, dense_finish(p, y), p.extents);
}

template <class T, class A, class B>
void whole_product(Context& context, const Product& p, const A& a, const B& b, T* y) {
    if (p.extents.rows <= FewRowsTensorShape::rows && A::along_k) {
        context.chose("tensor cores, few rows", "at most 16 rows");
        if constexpr (A::along_k) launch<FewRowsTensorShape, LargeTensorShape>(context, p, a, b, y);
    } else if (Tiles<LargeTensorShape>(p.extents).count >= context.multiprocessors) {
        context.chose("tensor cores, large tiles", "a tile for every multiprocessor");
        launch<LargeTensorShape, LargeTensorShape>(context, p, a, b, y);
    } else {
        context.chose("tensor cores, small tiles", "large ones would leave multiprocessors idle");
        launch<SmallTensorShape, LargeTensorShape>(context, p, a, b, y);
    }
}

} // namespace

template <class T> MatrixView pack_rows(Context& context, const MatrixView& m, int64_t count, int64_t depth) {
    const int64_t pitch = ceil_div(depth, piece<T>) * piece<T>;
    Tensor from, to;
    const auto add_axes = [&](const Walk<1>& walk) {
        for (int axis = 0; axis < walk.rank; ++axis, ++from.rank)
            from.extent[from.rank] = walk.extent[axis], from.stride[from.rank] = walk.stride[0][axis];
    };
    add_axes(m.batches), add_axes(m.rows);
    from.data = const_cast<void*>(m.data);
    from.dtype = is_tf32<T> ? DType::float32 : std::is_same_v<T, float16> ? DType::float16 : DType::bfloat16;
    from.extent[from.rank] = depth, from.stride[from.rank++] = m.depth_stride;
    to = from;
    to.data = context.scratch<T>(count * pitch);
    to.stride[to.rank - 1] = 1;
    for (int64_t axis = to.rank - 2, stride = pitch; axis >= 0; stride *= to.extent[axis--]) to.stride[axis] = stride;
    if (pitch != depth) fill_zero(context, to.data, count * pitch * int64_t(sizeof(T)));
    copy_strided(context, to, from);
    MatrixView view{to.data, m.batches, m.rows, 1};
    for (int axis = 0; axis < m.batches.rank; ++axis) view.batches.stride[0][axis] = to.stride[axis];
    for (int axis = 0; axis < m.rows.rank; ++axis) view.rows.stride[0][axis] = to.stride[m.batches.rank + axis];
    return view;
}

template <class T> void tensor_product(Context& context, const Product& product, T* y) {
    if (tensor_product_sm90(context, product, y)) return;
    Product p = product;
    const auto [batches, rows, columns, depth] = p.extents;
    bool a_along_k = whole_pieces<T>(p.a, true, depth), a_along_rows = whole_pieces<T>(p.a, false, depth);
    bool b_along_k = whole_pieces<T>(p.b, true, depth), b_along_rows = whole_pieces<T>(p.b, false, depth);
    if ((!a_along_k && !a_along_rows) || (!b_along_k && !b_along_rows)) {
        if (depth == 0 || Tiles<LargeTensorShape>(p.extents).count < context.multiprocessors) {
            context.chose("tensor cores, element by element", "an operand's pieces of 16 bytes are not whole");
            const auto a = operand_of<true, 1, T>(p.a), b = operand_of<true, 1, T>(p.b);
            return launch<SmallTensorShape, SmallTensorShape>(context, p, a, b, y);
        }
        if (!a_along_k && !a_along_rows) p.a = pack_rows<T>(context, p.a, batches * rows, depth), a_along_k = true;
        if (!b_along_k && !b_along_rows) p.b = pack_rows<T>(context, p.b, batches * columns, depth), b_along_k = true;
    }
    const auto with = [&](const auto& a) {
        if (b_along_k)
            whole_product(context, p, a, operand_of<true, 8, T>(p.b), y);
        else
            whole_product(context, p, a, operand_of<false, 8, T>(p.b), y);
    };
    if (a_along_k)
        with(operand_of<true, 8, T>(p.a));
    else
        with(operand_of<false, 8, T>(p.a));
}

template MatrixView pack_rows<float16>(Context&, const MatrixView&, int64_t, int64_t);
template MatrixView pack_rows<bfloat16>(Context&, const MatrixView&, int64_t, int64_t);
template MatrixView pack_rows<tf32>(Context&, const MatrixView&, int64_t, int64_t);
template void tensor_product<float16>(Context&, const Product&, float16*);
template void tensor_product<bfloat16>(Context&, const Product&, bfloat16*);

} // namespace mmk::cuda
