#include "../ops/boxes.h"

#include "boxes.quads.h"

namespace mmk::cpu::MMK_ISA {
namespace {

constexpr int64_t grain = 2048; // boxes for which a second thread pays

template <class T, int In, int Out, int Columns, class F>
MMK_FLATTEN void map_kernel(const F& f, const T* const (&in)[In], T* const (&out)[Out], int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += lanes) {
        Quad<T> x[In], y[Out];
        for (int k = 0; k < In; ++k) x[k] = load_quad(in[k] + 4 * i, 4, 1, end - i);
        f(x, y);
        for (int k = 0; k < Out; ++k) store_quad<Columns>(y[k], out[k] + Columns * i, end - i);
    }
}

// f(x, y) for every box of dense operands; results have as many columns as Columns says.
template <class T, int Columns = 4, class F, int In, int Out>
void map_boxes(Context& context, const F& f, const Tensor* const (&x)[In], const Tensor* const (&y)[Out]) {
    const int64_t count = y[0]->size() / Columns;
    const T* in[In];
    T* out[Out];
    Tensor written[Out];
    for (int k = 0; k < In; ++k) in[k] = Dense<T>(context, *x[k]).get();
    for (int k = 0; k < Out; ++k) {
        written[k] = y[k]->contiguous() ? *y[k] : contiguous_scratch(context, *y[k]);
        out[k] = static_cast<T*>(written[k].data);
    }
    parallel_ranges(context, count, grain,
                    [&](int64_t begin, int64_t end, int) { map_kernel<T, In, Out, Columns>(f, in, out, begin, end); });
    for (int k = 0; k < Out; ++k)
        if (out[k] != y[k]->data) copy_strided(context, *y[k], written[k]);
}
template <class T, class Op> void copy_weights(const Op& op, T (&to)[4]) {
    for (int k = 0; k < 4; ++k) to[k] = T(op.weights[k]);
}

} // namespace

void box_convert(const BoxConvert& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        ConvertBox<decltype(zero)> f;
        op.matrix(f.m);
        map_boxes<decltype(zero)>(context, f, {&op.x}, {&op.y});
    });
}
void clip_boxes(const ClipBoxes& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        map_boxes<T>(context, ClipBox<T>{T(op.width), T(op.height)}, {&op.x}, {&op.y});
    });
}
void clip_boxes_grad(const ClipBoxesGrad& op, Context& context) {
    visit_float(op.gx.dtype, [&](auto zero) {
        using T = decltype(zero);
        map_boxes<T>(context, ClipBoxGrad<T>{T(op.width), T(op.height)}, {&op.gy, &op.x}, {&op.gx});
    });
}
void box_area(const BoxAreas& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        map_boxes<T, 1>(context, BoxArea<T>(), {&op.x}, {&op.y});
    });
}
void box_encode(const BoxEncode& op, Context& context) {
    visit_float(op.deltas.dtype, [&](auto zero) {
        EncodeBox<decltype(zero)> f;
        copy_weights(op, f.weights);
        map_boxes<decltype(zero)>(context, f, {&op.boxes, &op.anchors}, {&op.deltas});
    });
}
void box_decode(const BoxDecode& op, Context& context) {
    visit_float(op.boxes.dtype, [&](auto zero) {
        DecodeBox<decltype(zero)> f;
        copy_weights(op, f.weights), f.most = decltype(zero)(op.log_clip);
        map_boxes<decltype(zero)>(context, f, {&op.deltas, &op.anchors}, {&op.boxes});
    });
}
void box_decode_grad(const BoxDecodeGrad& op, Context& context) {
    visit_float(op.gdeltas.dtype, [&](auto zero) {
        DecodeBoxGrad<decltype(zero)> f;
        copy_weights(op, f.weights), f.most = decltype(zero)(op.log_clip);
        map_boxes<decltype(zero)>(context, f, {&op.gboxes, &op.deltas, &op.anchors}, {&op.gdeltas, &op.ganchors});
    });
}
void distance_decode(const DistanceDecode& op, Context& context) {
    visit_float(op.boxes.dtype, [&](auto zero) {
        using T = decltype(zero);
        map_boxes<T>(context, DecodeDistances<T>(), {&op.distances, &op.cells}, {&op.boxes});
    });
}
void distance_decode_grad(const DistanceDecodeGrad& op, Context& context) {
    visit_float(op.gdistances.dtype, [&](auto zero) {
        using T = decltype(zero);
        map_boxes<T>(context, DecodeDistancesGrad<T>(), {&op.gboxes, &op.cells}, {&op.gdistances});
    });
}

} // namespace mmk::cpu::MMK_ISA
