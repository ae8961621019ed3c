#include "../ops/boxes.h"

#include "boxes.quads.cuh"

namespace mmk::cuda {
namespace {

constexpr int threads = 256;

template <class T, int In, int Out> struct Rows {
    const T* in[In];
    T* out[Out];
    int64_t count;
    bool packed; // all of them
};

// A thread makes one box.
template <class T, int In, int Out, int Columns, class F> __global__ void __launch_bounds__(threads)
    map_rows(F f, Rows<T, In, Out> rows) {
    for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < rows.count - (MMK_DEFECT(boxes_last_row) ? 1 : 0);
         i += int64_t(gridDim.x) * threads) {
        Quad<Compute<T>> x[In], y[Out];
#pragma unroll
        for (int k = 0; k < In; ++k)
            x[k] = load_quad(rows.in[k] + 4 * (MMK_DEFECT(boxes_next_row) ? i + 1 : i), rows.packed);
        f(x, y);
#pragma unroll
        for (int k = 0; k < Out; ++k)
            if constexpr (Columns == 1)
                rows.out[k][MMK_DEFECT(boxes_area_stride) ? 4 * i : i] = narrow<T>(y[k].at[0].v);
            else
                store_quad(y[k], rows.out[k] + 4 * i, rows.packed);
    }
}

template <class T, int Columns = 4, class F, int In, int Out>
void map_boxes(Context& context, const F& f, const Tensor* const (&x)[In], const Tensor* const (&y)[Out]) {
    Rows<T, In, Out> rows{};
    rows.count = y[0]->size() / Columns, rows.packed = true;
    if (rows.count == 0) return;
    Tensor written[Out];
    for (int k = 0; k < In; ++k) {
        rows.in[k] = Dense<T>(context, *x[k]).get();
        rows.packed = rows.packed && rows_are_packed(rows.in[k]);
    }
    for (int k = 0; k < Out; ++k) {
        written[k] = y[k]->contiguous() ? *y[k] : contiguous_scratch(context, *y[k]);
        rows.out[k] = static_cast<T*>(written[k].data);
        rows.packed = rows.packed && (Columns == 1 || rows_are_packed(rows.out[k]));
    }
    MMK_LAUNCH(context, (map_rows<T, In, Out, Columns, F>), grid_of(ceil_div(rows.count, threads)), threads, 0, f,
               rows);
    for (int k = 0; k < Out; ++k)
        if (written[k].data != y[k]->data) copy_strided(context, *y[k], written[k]);
}
template <class C, class Op> void copy_weights(const Op& op, C (&to)[4]) {
    for (int k = 0; k < 4; ++k) to[k] = C(op.weights[k]);
}

} // namespace

void box_convert(const BoxConvert& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        ConvertBox<Compute<T>> f;
        op.matrix(f.m);
        map_boxes<T>(context, f, {&op.x}, {&op.y});
    });
}
void clip_boxes(const ClipBoxes& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        using C = Compute<T>;
        map_boxes<T>(context, ClipBox<C>{C(op.width), C(op.height)}, {&op.x}, {&op.y});
    });
}
void clip_boxes_grad(const ClipBoxesGrad& op, Context& context) {
    visit_storage(op.gx.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        using C = Compute<T>;
        map_boxes<T>(context, ClipBoxGrad<C>{C(op.width), C(op.height)}, {&op.gy, &op.x}, {&op.gx});
    });
}
void box_area(const BoxAreas& op, Context& context) {
    visit_storage(op.y.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        map_boxes<T, 1>(context, BoxArea<Compute<T>>(), {&op.x}, {&op.y});
    });
}
void box_encode(const BoxEncode& op, Context& context) {
    visit_storage(op.deltas.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        EncodeBox<Compute<T>> f;
        copy_weights(op, f.weights);
        map_boxes<T>(context, f, {&op.boxes, &op.anchors}, {&op.deltas});
    });
}
void box_decode(const BoxDecode& op, Context& context) {
    visit_storage(op.boxes.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        DecodeBox<Compute<T>> f;
        copy_weights(op, f.weights), f.most = Compute<T>(op.log_clip);
        map_boxes<T>(context, f, {&op.deltas, &op.anchors}, {&op.boxes});
    });
}
void box_decode_grad(const BoxDecodeGrad& op, Context& context) {
    visit_storage(op.gdeltas.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        DecodeBoxGrad<Compute<T>> f;
        copy_weights(op, f.weights), f.most = Compute<T>(op.log_clip);
        map_boxes<T>(context, f, {&op.gboxes, &op.deltas, &op.anchors}, {&op.gdeltas, &op.ganchors});
    });
}
void distance_decode(const DistanceDecode& op, Context& context) {
    visit_storage(op.boxes.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        map_boxes<T>(context, DecodeDistances<Compute<T>>(), {&op.distances, &op.cells}, {&op.boxes});
    });
}
void distance_decode_grad(const DistanceDecodeGrad& op, Context& context) {
    visit_storage(op.gdistances.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        map_boxes<T>(context, DecodeDistancesGrad<Compute<T>>(), {&op.gboxes, &op.cells}, {&op.gdistances});
    });
}

} // namespace mmk::cuda
