#include "../ops/boxes.h"

#include "boxes.quads.cuh"
#include "divide.cuh"

namespace mmk::cuda {
namespace {

constexpr int threads = 256;

template <class T> struct Grid {
    const T* x;
    T *boxes, *scores;
    int64_t cells, rows, depth;
    Divisor parts, columns, of_cell; // 1 + classes of a box, columns of the grid, boxes of a cell
    GridBox<Compute<T>> box;
};

// A thread makes a box, or one of its scores: part 0, and parts 1 to C.
template <class T> __global__ void __launch_bounds__(threads) decode_grid(Grid<T> g, int64_t count) {
    using C = Compute<T>;
    for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < count; i += int64_t(gridDim.x) * threads) {
        int64_t at = i;
        const int64_t part = g.parts.take(at), index = at, b = g.of_cell.take(at), cell = at;
        const T *const from = g.x + cell * g.depth, *const five = from + 5 * b;
        if (part > 0) {
            const int64_t c = part - 1, classes = g.parts.by() - 1;
            const C score = widen(five[MMK_DEFECT(boxes_confidence) ? 3 : 4]) * widen(from[5 * g.of_cell.by() + c]);
            g.scores[index * classes + (MMK_DEFECT(boxes_class_shift) ? part : c)] = narrow<T>(score);
            continue;
        }
        int64_t row = cell;
        const int64_t column = g.columns.take(row);
        const C in[4] = {widen(five[0]), widen(five[1]), widen(five[2]), widen(five[3])};
        C out[4];
        g.box(MMK_DEFECT(boxes_row_of_sample) ? row : row % g.rows, column, in, out);
        for (int k = 0; k < 4; ++k) g.boxes[4 * index + k] = narrow<T>(out[k]);
    }
}

} // namespace

void yolo_grid_decode(const YoloGridDecode& op, Context& context) {
    visit_storage(op.x.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        using C = Compute<T>;
        const Dense<T> x(context, op.x);
        DenseOut<T> boxes(context, op.boxes), scores(context, op.scores);
        const int64_t cells = op.x.size(0, 3), rows = op.x.extent[1], columns = op.x.extent[2];
        const int64_t count = cells * op.B * (1 + op.C);
        const Grid<T> grid{x.get(),
                           boxes.get(),
                           scores.get(),
                           cells,
                           rows,
                           op.x.extent[3],
                           Divisor(1 + op.C),
                           Divisor(columns),
                           Divisor(op.B),
                           {C(rows), C(columns), C(op.height), C(op.width)}};
        MMK_LAUNCH(context, (decode_grid<T>), grid_of(ceil_div(count, threads)), threads, 0, grid, count);
        boxes.finish(), scores.finish();
    });
}

} // namespace mmk::cuda
