// matmul and linear of float16 and bfloat16 on Hopper (products.sm90.cuh).
//
// An operand is copied as it lies where tensor copies can walk it: k or rows as neighbours, the other stride and that of
// batches multiples of 16 bytes; batches may share it. Any other one is packed first, k as neighbours: so no layout
// decides which kernel runs, and with it the order of sums. Nor does a free extent, but for ones above 2^30; without
// products (K = 0) results are given.

#include "products.sm90.cuh"

#include "matmul.cuh"

namespace mmk::cuda {
namespace {

using hopper::atom, hopper::depth, hopper::Job;

template <class T, bool a_turned_, bool b_turned_> struct MatrixProblem {
    using Element = T;
    static constexpr bool a_turned = a_turned_, b_turned = b_turned_, only_sums = false, ragged = true,
                          has_residual = false;
    static constexpr int pieces = 1;
    CUtensorMap a, b, results;
    T* y;
    int64_t rows;
    bool a_shared, b_shared, whole;

    struct Place {
        int batch, row, column;
    };
    template <class Shape> MMK_PTX Place place(const Job& job) const {
        return {int(job.at.batch), int(job.at.row), int(job.at.column)};
    }
    template <class Shape> MMK_PTX void prepare(char*) const {}
    MMK_PTX void prefetch() const { prefetch_tensor_map(a), prefetch_tensor_map(b); }
    template <class Shape> MMK_PTX uint32_t bytes() const { return Shape::stage; }
    MMK_PTX int64_t row(const Place& place, int row) const {
        const int64_t at = int64_t(place.row) + row;
        return at < rows || MMK_DEFECT(matmul_sm90_ragged_rows) ? at : -1;
    }

    // A box of 64 k and all rows; turned, boxes of 64 rows and 64 k.
    template <int count, bool turned>
    MMK_PTX static void load_operand(char* to, const CUtensorMap& map, uint64_t* full, int row, int k, int batch) {
        if constexpr (turned)
            for (int i = 0; i < count / 64; ++i) tensor_load(to + i * atom, map, full, row + 64 * i, k, batch);
        else
            tensor_load(to, map, full, k, row, batch);
    }
    template <class Shape> MMK_PTX void load(char* left, uint64_t* full, const Place& place, int step) const {
        const int k = step * depth, batch = MMK_DEFECT(matmul_sm90_one_batch) ? 0 : place.batch;
        load_operand<Shape::rows, a_turned>(left, a, full, place.row, k, a_shared ? 0 : batch);
        load_operand<Shape::columns, b_turned>(left + Shape::left_bytes, b, full, place.column, k,
                                               b_shared ? 0 : place.batch);
    }
    MMK_PTX void store(const char* box, const Place& place, int row, int column) const {
        if (place.row + row < rows) tensor_store(results, box, column, place.row + row, place.batch);
    }
};

// An operand as a tensor map walks it: [batch][row][k], or, turned, [batch][k][row].
template <class T> struct Operand {
    const T* data;
    bool turned, shared; // by all batches
    int64_t stride, batch_stride;
};

bool steps_in_pieces(int64_t stride) { return stride > 0 && stride % 8 == 0; }

template <class T>
Operand<T> operand_in_rows(Context& context, const MatrixView& m, int64_t batches, int64_t rows, int64_t products) {
    bool shared = true;
    for (int axis = 0; axis < m.batches.rank; ++axis) shared &= m.batches.stride[0][axis] == 0;
    const int64_t batch_stride = shared ? 0 : m.batches.stride[0][0];
    const int64_t row_stride = m.rows.rank ? m.rows.stride[0][0] : 0;
    const auto* const data = static_cast<const T*>(m.data);
    if (aligned(data, 16) && m.rows.rank <= 1 && (shared || (m.batches.rank == 1 && steps_in_pieces(batch_stride)))) {
        if (m.depth_stride == 1 && (rows == 1 || steps_in_pieces(row_stride)))
            return {data, false, shared, row_stride, batch_stride};
        if (row_stride == 1 && (products == 1 || steps_in_pieces(m.depth_stride)))
            return {data, true, shared, m.depth_stride, batch_stride};
    }
    MatrixView one = m;
    if (shared) one.batches = {};
    const MatrixView dense = pack_rows<T>(context, one, (shared ? 1 : batches) * rows, products);
    const int64_t pitch = ceil_div(products, 8) * 8;
    return {static_cast<const T*>(dense.data), false, shared, pitch, rows * pitch};
}

template <class Shape, class T> void encode_operand(CUtensorMap& map, const Operand<T>& x, int tile_rows,
                                                    int64_t batches, int64_t rows, int64_t products) {
    const int64_t inner = x.turned ? rows : products, outer = x.turned ? products : rows;
    hopper::encode<T, 3>(map, x.data, {inner, outer, x.shared ? 1 : batches}, {1, x.stride, x.batch_stride},
                         {depth, x.turned ? depth : tile_rows, 1});
}

template <class Shape, bool a_turned, bool b_turned, class T>
auto problem_of(const Operand<T>& a, const Operand<T>& b, T* y, const ProductExtents& e) {
    MatrixProblem<T, a_turned, b_turned> p{};
    encode_operand<Shape>(p.a, a, Shape::rows, e.batches, e.rows, e.depth);
    encode_operand<Shape>(p.b, b, Shape::columns, e.batches, e.columns, e.depth);
    p.y = y, p.rows = e.rows, p.a_shared = a.shared, p.b_shared = b.shared;
    p.whole = aligned(y, 16) && e.columns % 8 == 0;
    if (p.whole)
        hopper::encode<T, 3>(p.results, y, {e.columns, e.rows, e.batches}, {1, e.columns, e.rows * e.columns},
                             {hopper::box_columns, hopper::group_rows, 1});
    return p;
}

template <class Shape, bool a_turned, bool b_turned, class T>
void launch(Context& context, const Product& product, const Operand<T>& a, const Operand<T>& b, T* y) {
    const ProductExtents& e = product.extents;
    const auto problem = problem_of<Shape, a_turned, b_turned>(a, b, y, e);
    const auto run = [&](float* sums, const ProductSlices& slices) {
        const hopper::Schedule<Shape> schedule(e, int(ceil_div(e.depth, depth)), slices);
        hopper::launch_products(
            context, problem, schedule,
            {static_cast<const T*>(product.bias), 0, product.activation, sums, e.batches, e.rows, e.columns});
    };
    if (e.depth <= tensor_slice) return run(nullptr, one_slice(e));
    in_slices<float>(context, dense_finish(product, y), e, tensor_slice, Tiles<Shape>(e).count,
                     [&](const auto& sums, const ProductSlices& slices) { run(sums.sums, slices); });
}

bool serves(const ProductExtents& e) {
    constexpr int64_t most = int64_t(1) << 30;
    return e.depth > 0 && e.depth <= most && e.batches <= most && e.rows <= most && e.columns <= most;
}

} // namespace

template <class T> bool tensor_product_sm90(Context& context, const Product& product, T* y) {
    const ProductExtents& e = product.extents;
    if (!serves(e) || !context.hopper()) return false;
    if (e.batches * e.rows * e.columns == 0) return true;
    const Operand<T> a = operand_in_rows<T>(context, product.a, e.batches, e.rows, e.depth);
    const Operand<T> b = operand_in_rows<T>(context, product.b, e.batches, e.columns, e.depth);
    ProductExtents work = e;
    work.batches *= ceil_div(e.depth, tensor_slice);
    hopper::visit_shape(context, work, [&]<class Shape>(Shape) {
        if (a.turned)
            b.turned ? launch<Shape, true, true>(context, product, a, b, y)
                     : launch<Shape, true, false>(context, product, a, b, y);
        else
            b.turned ? launch<Shape, false, true>(context, product, a, b, y)
                     : launch<Shape, false, false>(context, product, a, b, y);
    });
    return true;
}

template bool tensor_product_sm90<float16>(Context&, const Product&, float16*);
template bool tensor_product_sm90<bfloat16>(Context&, const Product&, bfloat16*);

} // namespace mmk::cuda
