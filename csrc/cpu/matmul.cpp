#include "../ops/matmul.h"

#include "../core/layout.h"
#include "../core/products.h"

#include "tf32.h"

namespace mmk::cpu::MMK_ISA {

using namespace mmk::MMK_ISA;

namespace {

// The place of an element, by its number in logical order over the first `rank` extents.
MMK_INLINE int64_t place(const Tensor& t, int rank, int64_t index) {
    int64_t at = 0;
    for (int axis = rank - 1; axis >= 0; --axis) {
        at += index % t.extent[axis] * t.stride[axis];
        index /= t.extent[axis];
    }
    return at;
}

// a's extents are batch..., rows, depth; b's begin with the batch.
template <class T> struct Product {
    const Tensor &a, &b;
    int64_t batches, rows, columns, depth; // of each matrix; batches: those of b
    int64_t b_depth, b_column;             // b's strides
    Finish<T> finish;
};

template <class T> void multiply(Context& context, const Product<T>& p) {
    using Shape = ProductShape<T>;
    const int64_t panels = (p.columns + Shape::width - 1) / Shape::width;
    const int64_t tiles = (p.rows + Shape::rows - 1) / Shape::rows;
    int64_t blocks = (p.rows + Shape::block - 1) / Shape::block;
    if (p.batches * panels < context.threads && blocks < context.threads)
        blocks = tiles < context.threads ? tiles : context.threads;
    const int64_t slice = 8 * chunk_products, width = Shape::width;

    const T *const a = static_cast<const T*>(p.a.data), *const b = static_cast<const T*>(p.b.data);
    int64_t* const offset = context.scratch<int64_t>(p.depth);
    for (int64_t t = 0; t < p.depth; ++t) offset[t] = t * p.a.stride[p.a.rank - 1];
    const auto pack = [&](int64_t batch, int64_t panel, int64_t begin, int64_t end, T* to) {
        const int64_t n0 = panel * width, count = p.columns - n0 < width ? p.columns - n0 : width;
        pack_panel(b + place(p.b, p.b.rank - 2, p.batches > 1 ? batch : 0) + begin * p.b_depth + n0 * p.b_column,
                   p.b_depth, p.b_column, end - begin, count, count > lanes ? width : lanes, to);
    };

    // Panels that one task uses are packed there, slice by slice; panels that many use, beforehand.
    const bool ahead = blocks > 1;
    context.chose(ahead ? "panels packed ahead" : "panels packed in passing",
                  ahead ? "several tasks use each" : "one task uses each");
    const int64_t panel_size = (ahead ? p.depth : slice) * width;
    T* const packed = context.scratch<T>((ahead ? p.batches * panels : context.threads) * panel_size);
    if (ahead)
        parallel_for(context, p.batches * panels, [&](int64_t index, int) {
            pack(index / panels, index % panels, 0, p.depth, packed + index * panel_size);
        });

    constexpr int64_t sums_size = (Shape::block + Shape::rows) * Shape::width;
    T* const sums = context.scratch<T>(context.threads * sums_size);
    parallel_for(context, p.batches * panels * blocks, [&](int64_t index, int worker) {
        const int64_t block = index % blocks, panel = index / blocks % panels, batch = index / blocks / panels;
        const int64_t first = tiles * block / blocks * Shape::rows, last = tiles * (block + 1) / blocks * Shape::rows;
        const int64_t count = (last < p.rows ? last : p.rows) - first;
        const int64_t n0 = panel * width, columns = p.columns - n0 < width ? p.columns - n0 : width;
        const T* row[Shape::block + 2 * Shape::rows];
        int64_t to[Shape::block + Shape::rows];
        const bool vector = p.a.rank < 2; // linear takes one: a single row
        const int64_t step = vector ? 0 : p.a.stride[p.a.rank - 2], matrix = vector ? 1 : p.a.extent[p.a.rank - 2];
        for (int64_t i = 0, left = 0; i < count; ++i, --left) {
            const int64_t number = batch * p.rows + first + i;
            to[i] = number * p.columns;
            row[i] = left ? row[i - 1] + step : a + place(p.a, p.a.rank - 1, number);
            if (!left) left = matrix - number % matrix;
        }
        TileWork<T> w;
        w.offset = offset;
        w.chunk = chunk_products;
        w.sums = sums + worker * sums_size;
        w.sums_stride = columns > lanes ? width : lanes;
        w.begin = 0;
        do {
            w.end = p.depth - w.begin < slice ? p.depth : w.begin + slice;
            w.first = w.begin == 0;
            if (ahead) {
                w.b = packed + (batch * panels + panel) * panel_size + w.begin * w.sums_stride;
            } else {
                pack(batch, panel, w.begin, w.end, packed + worker * panel_size);
                w.b = packed + worker * panel_size;
            }
            panel_rows(w, row, count, w.sums_stride);
            w.begin = w.end;
        } while (w.end < p.depth);
        finish_rows(p.finish, w.sums, w.sums_stride, to, count, n0, columns);
    });
}

} // namespace

void matmul(const Matmul& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Dense<T> bias(context, op.bias);
        const DenseOut<T> y(context, op.y);
        const Tensor a = factors(context, op.a, op.algorithm), b = factors(context, op.b, op.algorithm);
        const int rank = op.y.rank;
        bool shared = true;
        for (int i = 0; i < rank - 2; ++i) shared = shared && (b.extent[i] == 1 || b.stride[i] == 0);
        const int64_t batches = op.y.size(0, rank - 2), rows = op.y.extent[rank - 2];
        multiply<T>(context, {a,
                              b,
                              shared ? 1 : batches,
                              shared ? batches * rows : rows,
                              op.y.extent[rank - 1],
                              a.extent[rank - 1],
                              b.stride[rank - 2],
                              b.stride[rank - 1],
                              {y, bias, nullptr, 1, op.activation}});
    });
}

void linear(const Linear& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Dense<T> bias(context, op.bias);
        const DenseOut<T> y(context, op.y);
        const Tensor x = factors(context, op.x, op.algorithm), weight = factors(context, op.weight, op.algorithm);
        const int rank = op.y.rank;
        multiply<T>(context, {x,
                              weight,
                              1,
                              op.y.size(0, rank - 1),
                              op.y.extent[rank - 1],
                              weight.extent[1],
                              weight.stride[1],
                              weight.stride[0],
                              {y, bias, nullptr, 1, op.activation}});
    });
}

} // namespace mmk::cpu::MMK_ISA
