// matmul and linear of float32 that ask for TF32.
#include "products.tensor.cuh"

#include "matmul.cuh"

namespace mmk::cuda {
namespace {

template <class Shape, class A, class B>
void launch(Context& context, const Product& p, const A& a, const B& b, tf32* y) {
    launch_tensor_products<Shape, SmallTensorShape>(context, a, b, dense_finish(p, y), p.extents);
}
template <class A, class B> void whole_product(Context& context, const Product& p, const A& a, const B& b, tf32* y) {
    if (Tiles<LargeTensorShape>(p.extents).count >= context.multiprocessors) {
        context.chose("tensor cores (TF32), large tiles", "a tile for every multiprocessor");
        launch<LargeTensorShape>(context, p, a, b, y);
    } else {
        context.chose("tensor cores (TF32), small tiles", "large ones would leave multiprocessors idle");
        launch<SmallTensorShape>(context, p, a, b, y);
    }
}

} // namespace

// a by pieces of 16 bytes along k, packed where it lies otherwise; b along k or along its rows. Both along rows would
// spill registers at the large tile.
void tf32_product(Context& context, const Product& product, tf32* y) {
    constexpr int width = piece<tf32>;
    Product p = product;
    const auto [batches, rows, columns, depth] = p.extents;
    const bool a_along_k = whole_pieces<tf32>(p.a, true, depth), a_along_rows = whole_pieces<tf32>(p.a, false, depth);
    const bool b_along_k = whole_pieces<tf32>(p.b, true, depth), b_along_rows = whole_pieces<tf32>(p.b, false, depth);
    const bool whole = (a_along_k || a_along_rows) && (b_along_k || b_along_rows);
    if (depth == 0 || (!whole && Tiles<LargeTensorShape>(p.extents).count < context.multiprocessors)) {
        context.chose("tensor cores (TF32), element by element", "an operand's pieces of 16 bytes are not whole");
        return launch<SmallTensorShape>(context, p, operand_of<true, 1, tf32>(p.a), operand_of<true, 1, tf32>(p.b), y);
    }
    if (!a_along_k) p.a = pack_rows<tf32>(context, p.a, batches * rows, depth);
    if (!b_along_k && !b_along_rows) p.b = pack_rows<tf32>(context, p.b, batches * columns, depth);
    const auto a = operand_of<true, width, tf32>(p.a);
    if (!b_along_k && b_along_rows)
        whole_product(context, p, a, operand_of<false, width, tf32>(p.b), y);
    else
        whole_product(context, p, a, operand_of<true, width, tf32>(p.b), y);
}

} // namespace mmk::cuda
