#include "../ops/boxes.h"

#include "../core/box_maps.h"
#include "../core/layout.h"

namespace mmk::cpu::MMK_ISA {

using namespace mmk::MMK_ISA;

namespace {

constexpr int64_t grain = 8192; // numbers for which a second thread pays

template <class T>
void decode_cells(const YoloGridDecode& op, const T* x, T* boxes, T* scores, int64_t begin, int64_t end) {
    const int64_t rows = op.x.extent[1], columns = op.x.extent[2], depth = op.x.extent[3];
    const GridBox<T> box{T(rows), T(columns), T(op.height), T(op.width)};
    for (int64_t cell = begin; cell < end; ++cell) {
        const T *const from = x + cell * depth, *const classes = from + 5 * op.B;
        for (int64_t b = 0; b < op.B; ++b) {
            const T* const five = from + 5 * b;
            const T in[4] = {five[0], five[1], five[2], five[3]};
            T out[4];
            box(cell / columns % rows, cell % columns, in, out);
            std::memcpy(boxes + 4 * (cell * op.B + b), out, sizeof out);
            const Vec<T> confidence(five[4]);
            T* const to = scores + (cell * op.B + b) * op.C;
            for (int64_t c = 0; c < op.C; c += lanes)
                (confidence * Vec<T>::load(classes + c, op.C - c)).store(to + c, op.C - c);
        }
    }
}

} // namespace

void yolo_grid_decode(const YoloGridDecode& op, Context& context) {
    visit_float(op.x.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Dense<T> x(context, op.x);
        const DenseOut<T> boxes(context, op.boxes), scores(context, op.scores);
        parallel_ranges(context, op.x.size(0, 3), 1 + grain / (1 + op.B * (op.C + 4)),
                        [&](int64_t begin, int64_t end, int) {
                            decode_cells<T>(op, x.get(), boxes.get(), scores.get(), begin, end);
                        });
    });
}

} // namespace mmk::cpu::MMK_ISA
