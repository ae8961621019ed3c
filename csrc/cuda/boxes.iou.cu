#include "../ops/boxes.h"

#include "../core/box_iou.h"
#include "boxes.quads.cuh"
#include "elementwise.cuh"

namespace mmk::cuda {
namespace {

constexpr int threads = 256;

template <class T> struct Angle {
    __device__ T operator()(T width, T height) const {
        using V = Vec<Compute<T>>;
        return narrow<T>(diagonal_angle(V(widen(width)), V(widen(height))).v);
    }
};

// The pairs of boxes of two operands, by their strides (0 where one is shared).
template <class T> struct Pairs {
    Walk<2> walk;
    const T *first, *second;
    int64_t next_first, next_second; // from number to number
    int64_t count;
    Overlap kind;
    Compute<T> eps;

    __device__ Quad<Compute<T>> row(const T* from, int64_t next) const {
        const T x[4] = {from[0], from[next], from[2 * next], from[3 * next]};
        return quad_of(x);
    }
    // body(k, a, b) for N pairs from i on; the index is taken apart once, and again where a line ends
    template <int N, class Body> __device__ void each(int64_t i, const Body& body) const {
        const int last = walk.rank - 1;
        const int64_t length = walk.rank ? walk.extent[last] : 1;
        int64_t offset[2], left = 0;
#pragma unroll
        for (int k = 0; k < N; ++k) {
            if (i + k >= count) break;
            if (left == 0) {
                walk.offsets(i + k, offset);
                left = length - (i + k) % length;
            } else if (!MMK_DEFECT(boxes_same_pair)) {
                for (int of = 0; of < 2; ++of) offset[of] += walk.stride[of][last];
            }
            --left;
            body(k, row(first + offset[0], next_first), row(second + offset[1], next_second));
        }
    }
};
template <class T, class Op> Pairs<T> pairs_of(const Op& op) {
    Tensor a = op.boxes1, b = op.boxes2;
    const int columns = a.rank - 1;
    a.rank = b.rank = columns; // the corners aside
    const Tensor* const both[2] = {&a, &b};
    return {walk_of(both),
            static_cast<const T*>(a.data),
            static_cast<const T*>(b.data),
            op.boxes1.stride[columns],
            op.boxes2.stride[columns],
            a.size(),
            Overlap(op.kind),
            Compute<T>(op.eps)};
}

// Four pairs a thread: their overlaps leave in one access.
template <class T> __global__ void __launch_bounds__(threads) overlaps(Pairs<T> pairs, T* y, bool packed) {
    constexpr int N = 4;
    for (int64_t i = (int64_t(blockIdx.x) * threads + threadIdx.x) * N; i < pairs.count;
         i += int64_t(gridDim.x) * threads * N) {
        Pack<T, N> result{};
        pairs.template each<N>(i, [&](int k, const auto& a, const auto& b) {
            result.at[k] = narrow<T>(box_overlap(pairs.kind, a, b, Vec<Compute<T>>(pairs.eps)).v);
        });
        if (packed && (i + N <= pairs.count || MMK_DEFECT(boxes_ragged_pairs)))
            *reinterpret_cast<Pack<T, N>*>(y + i) = result;
        else
            for (int k = 0; k < N && i + k < pairs.count; ++k) y[i + k] = result.at[k];
    }
}
template <class T> __global__ void __launch_bounds__(threads)
    gradients(Pairs<T> pairs, const T* g, T* g1, T* g2, bool packed) {
    using V = Vec<Compute<T>>;
    for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < pairs.count; i += int64_t(gridDim.x) * threads)
        pairs.template each<1>(i, [&](int, const auto& a, const auto& b) {
            Quad<Compute<T>> ga, gb;
            box_overlap_grad(pairs.kind, a, b, V(pairs.eps), V(widen(g[i])), ga, gb);
            store_quad(ga, g1 + 4 * i, packed);
            store_quad(gb, (MMK_DEFECT(boxes_one_gradient) ? g1 : g2) + 4 * i, packed);
        });
}

} // namespace

void box_iou(const BoxIou& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const Pairs<T> pairs = pairs_of<T>(op);
        DenseOut<T> y(context, op.y);
        MMK_LAUNCH(context, (overlaps<T>), grid_of(ceil_div(pairs.count, 4 * threads)), threads, 0, pairs, y.get(),
                   rows_are_packed(y.get()));
        y.finish();
    });
}
void box_iou_grad(const BoxIouGrad& op, Context& context) {
    visit_storage(op.gy.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        const Pairs<T> pairs = pairs_of<T>(op);
        const Dense<T> g(context, op.gy);
        DenseOut<T> g1(context, op.g1), g2(context, op.g2);
        MMK_LAUNCH(context, (gradients<T>), grid_of(ceil_div(pairs.count, threads)), threads, 0, pairs, g.get(),
                   g1.get(), g2.get(), rows_are_packed(g1.get()) && rows_are_packed(g2.get()));
        g1.finish(), g2.finish();
    });
}

void box_angle(const BoxAngle& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        map<T, T, T>(context, Angle<T>(), op.y, op.width, op.height);
    });
}

} // namespace mmk::cuda
