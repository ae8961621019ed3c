#include "../ops/boxes.h"

#include "../core/box_iou.h"
#include "boxes.quads.h"
#include "elementwise.h"

namespace mmk::cpu::MMK_ISA {
namespace {

constexpr int64_t block = 512;       // boxes of a line that are turned into vectors at once: 16 KB for both operands
constexpr int64_t pair_grain = 8192; // pairs for which a second thread pays

// The pairs' last extent is a line; lines are numbered in logical order. Strides of 0 say what is shared: of N x M
// pairs the second operand's line is turned once for many lines.
struct Lines {
    Tensor x;
    int64_t length, step, next; // along a line, and from number to number

    explicit Lines(const Tensor& boxes)
        : x(boxes), length(boxes.rank > 1 ? boxes.extent_at(-2) : 1),
          step(boxes.rank > 1 ? boxes.stride[boxes.rank - 2] : 0), next(boxes.stride[boxes.rank - 1]) {}
    int64_t offset(int64_t line) const {
        int64_t at = 0;
        for (int axis = x.rank - 3; axis >= 0; --axis) {
            at += line % x.extent[axis] * x.stride[axis];
            line /= x.extent[axis];
        }
        return at;
    }
};
// A block of a line, by vectors; one vector if all its boxes are one.
template <class T> struct Turned {
    Quad<T>* quads;
    const T* of = nullptr;
    bool one = false;

    void turn(const Lines& lines, const T* from, int64_t n) {
        if (from == of) return;
        of = from, one = lines.step == 0;
        for (int64_t k = 0; k < (one ? 1 : n); k += lanes)
            quads[k / lanes] = load_quad(from + k * lines.step, lines.step, lines.next, one ? lanes : n - k);
    }
    MMK_MEMBER const Quad<T>& operator[](int64_t k) const { return quads[one ? 0 : k]; }
};

// body(first pair, pairs, a, b) for every block of every line; blocks of neighbouring lines stand beside each other.
template <class T, class Body>
void for_blocks(Context& context, const Tensor& boxes1, const Tensor& boxes2, Body&& body) {
    const Lines a(boxes1), b(boxes2);
    const int64_t pairs = boxes1.size(0, boxes1.rank - 1);
    if (pairs == 0) return;
    const int64_t lines = pairs / a.length, blocks = (a.length + block - 1) / block;
    const int64_t each = 1 + pair_grain / (a.length < block ? a.length : block);
    Quad<T>* const quads = context.scratch<Quad<T>>(2 * block / lanes * context.threads);
    const T *const from1 = static_cast<const T*>(boxes1.data), *const from2 = static_cast<const T*>(boxes2.data);
    parallel_ranges(context, lines * blocks, each, [&](int64_t begin, int64_t end, int worker) {
        Turned<T> first{quads + 2 * worker * (block / lanes)}, second{quads + (2 * worker + 1) * (block / lanes)};
        for (int64_t i = begin; i < end; ++i) {
            const int64_t line = i % lines, start = i / lines * block;
            const int64_t n = a.length - start < block ? a.length - start : block;
            first.turn(a, from1 + a.offset(line) + start * a.step, n);
            second.turn(b, from2 + b.offset(line) + start * b.step, n);
            body(line * a.length + start, n, first, second);
        }
    });
}

template <class T>
MMK_FLATTEN void overlaps(Overlap kind, T eps, int64_t n, const Turned<T>& a, const Turned<T>& b, T* y) {
    for (int64_t k = 0; k < n; k += lanes)
        box_overlap(kind, a[k / lanes], b[k / lanes], Vec<T>(eps)).store(y + k, n - k);
}
template <class T> MMK_FLATTEN void gradients(Overlap kind, T eps, int64_t n, const Turned<T>& a, const Turned<T>& b,
                                              const T* g, T* g1, T* g2) {
    for (int64_t k = 0; k < n; k += lanes) {
        Quad<T> ga, gb;
        box_overlap_grad(kind, a[k / lanes], b[k / lanes], Vec<T>(eps), Vec<T>::load(g + k, n - k), ga, gb);
        store_quad<4>(ga, g1 + 4 * k, n - k);
        store_quad<4>(gb, g2 + 4 * k, n - k);
    }
}

} // namespace

void box_iou(const BoxIou& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const DenseOut<T> y(context, op.y);
        for_blocks<T>(context, op.boxes1, op.boxes2, [&](int64_t at, int64_t n, const auto& a, const auto& b) {
            overlaps(Overlap(op.kind), T(op.eps), n, a, b, y + at);
        });
    });
}
void box_iou_grad(const BoxIouGrad& op, Context& context) {
    visit_float(op.gy.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Dense<T> g(context, op.gy);
        const DenseOut<T> g1(context, op.g1), g2(context, op.g2);
        for_blocks<T>(context, op.boxes1, op.boxes2, [&](int64_t at, int64_t n, const auto& a, const auto& b) {
            gradients(Overlap(op.kind), T(op.eps), n, a, b, g + at, g1 + 4 * at, g2 + 4 * at);
        });
    });
}

void box_angle(const BoxAngle& op, Context& context) {
    elementwise(
        context, [](auto width, auto height) { return diagonal_angle(width, height); }, op.y, op.width, op.height);
}

} // namespace mmk::cpu::MMK_ISA
