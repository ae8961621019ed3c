#include "../ops/deform.h"

#include "../core/bilinear.h"
#include "../core/layout.h"
#include "../core/products.h"
#include "../core/reduce.h"

namespace mmk::cpu::MMK_ISA {

using namespace mmk::MMK_ISA;

namespace {

constexpr int64_t chunk_terms = 256, grain = 4096; // grain: samples' channels for which a second thread pays

// What is known of every point of a query's head, levels and points counted as one.
template <class T> struct Levels {
    int64_t count, points; // levels and points; points of a level
    int64_t pixels = 0;
    T *height, *width; // of the point's level, padded to whole vectors
    int64_t* first;    // pixel

    MMK_MEMBER Levels(Context& context, const int64_t* shapes, const Tensor& locations)
        : count(locations.extent[3] * locations.extent[4]), points(locations.extent[4]) {
        const int64_t room = count + lanes;
        height = context.scratch<T>(room), width = context.scratch<T>(room), first = context.scratch<int64_t>(room);
        for (int64_t i = 0; i < room; ++i) height[i] = width[i] = T(0), first[i] = 0;
        for (int64_t level = 0; level < locations.extent[3]; ++level) {
            for (int64_t p = 0; p < points; ++p) {
                const int64_t i = level * points + p;
                height[i] = sampled_extent<T>(shapes[2 * level]), width[i] = sampled_extent<T>(shapes[2 * level + 1]);
                first[i] = pixels;
            }
            pixels += shapes[2 * level] * shapes[2 * level + 1];
        }
    }
};

// Sixteen points, and their corners: pixels of the value, or -1 where there is none.
template <class T> struct Points {
    T top[lanes], bottom[lanes], left[lanes], right[lanes];
    int64_t pixel[lanes][4];

    MMK_MEMBER Points(const Levels<T>& levels, const T* locations, int64_t begin) {
        const int64_t some = levels.count - begin < lanes ? levels.count - begin : lanes;
        T x[lanes] = {}, y[lanes] = {};
        for (int64_t k = 0; k < some; ++k) x[k] = locations[2 * (begin + k)], y[k] = locations[2 * (begin + k) + 1];
        const Vec<T> H = Vec<T>::load(levels.height + begin), W = Vec<T>::load(levels.width + begin), half(T(-0.5));
        const BilinearPlace<T> place(fma(Vec<T>::load(y), H, half), fma(Vec<T>::load(x), W, half), H, W);
        place.top.store(top), place.bottom.store(bottom), place.left.store(left), place.right.store(right);
        int32_t row[lanes], column[lanes];
        place.row.store(row), place.column.store(column);
        for (int64_t k = 0; k < some; ++k)
            for (int corner = 0; corner < 4; ++corner) {
                const int64_t height = int64_t(levels.height[begin + k]), width = int64_t(levels.width[begin + k]);
                const int64_t h = row[k] + corner / 2, w = column[k] + corner % 2;
                const bool exists = h >= 0 && h < height && w >= 0 && w < width;
                pixel[k][corner] = exists ? levels.first[begin + k] + h * width + w : -1;
            }
    }
    MMK_MEMBER T weight(int64_t k, int corner) const {
        return (corner / 2 ? bottom[k] : top[k]) * (corner % 2 ? right[k] : left[k]);
    }
};

template <class T> void forward(const MsDeformAttention& op, Context& context) {
    const int64_t S = op.value.extent[1], heads = op.value.extent[2], D = op.value.extent[3];
    const int64_t Q = op.sampling_locations.extent[1], padded = (D + lanes - 1) / lanes * lanes;
    const Dense<T> value(context, op.value), locations(context, op.sampling_locations),
        weights(context, op.attention_weights);
    const DenseOut<T> y(context, op.y);
    const Levels<T> levels(context, op.spatial_shapes, op.sampling_locations);
    T* const zeros = context.scratch<T>(padded);
    for (int64_t d = 0; d < padded; ++d) zeros[d] = T(0);
    T* const chunks = context.scratch<T>(context.threads * 2 * padded); // the sum so far, and the chunk's
    const int64_t rows = op.value.extent[0] * Q * heads;
    parallel_ranges(context, rows, 1 + grain / (1 + levels.count * D), [&](int64_t begin, int64_t end, int worker) {
        T *const total = chunks + worker * 2 * padded, *const chain = total + padded;
        for (int64_t row = begin; row < end; ++row) {
            const int64_t b = row / (Q * heads), head = row % heads;
            for (int64_t d = 0; d < padded; d += lanes)
                Vec<T>::zero().store(total + d), Vec<T>::zero().store(chain + d);
            for (int64_t i = 0; i < levels.count; i += lanes) {
                const Points<T> points(levels, locations + row * levels.count * 2, i);
                for (int64_t k = 0; k < lanes && i + k < levels.count; ++k) {
                    const T* v[4];
                    Vec<T> w[4];
                    for (int corner = 0; corner < 4; ++corner) {
                        const int64_t pixel = points.pixel[k][corner];
                        v[corner] = pixel < 0 ? zeros : value + ((b * S + pixel) * heads + head) * D;
                        w[corner] = Vec<T>(points.weight(k, corner));
                    }
                    const Vec<T> weight(weights[row * levels.count + i + k]);
                    for (int64_t d = 0; d < D; d += lanes) {
                        const int64_t n = D - d;
                        fma(weight,
                            bilinear_sample(w[0], w[1], w[2], w[3], Vec<T>::load(v[0] + d, n),
                                            Vec<T>::load(v[1] + d, n), Vec<T>::load(v[2] + d, n),
                                            Vec<T>::load(v[3] + d, n)),
                            Vec<T>::load(chain + d))
                            .store(chain + d);
                    }
                }
                if ((i + lanes) % chunk_terms == 0 || i + lanes >= levels.count)
                    for (int64_t d = 0; d < padded; d += lanes) {
                        const Vec<T> sum = Vec<T>::load(chain + d);
                        (i < chunk_terms ? sum : Vec<T>::load(total + d) + sum).store(total + d);
                        Vec<T>::zero().store(chain + d);
                    }
            }
            for (int64_t d = 0; d < D; d += lanes)
                (Vec<T>::load(total + d) + Vec<T>::zero()).store(y + row * D + d, D - d);
        }
    });
}

// A task has the values of one head of one sample; queries come in order.
template <class T> void value_gradient(const MsDeformAttentionValueGrad& op, Context& context) {
    const int64_t S = op.gvalue.extent[1], heads = op.gvalue.extent[2], D = op.gvalue.extent[3];
    const int64_t Q = op.sampling_locations.extent[1];
    const Dense<T> gy(context, op.gy), locations(context, op.sampling_locations),
        weights(context, op.attention_weights);
    const DenseOut<T> gvalue(context, op.gvalue);
    const Levels<T> levels(context, op.spatial_shapes, op.sampling_locations);
    parallel_for(context, op.gvalue.extent[0] * heads, [&](int64_t index, int) {
        const int64_t b = index / heads, head = index % heads;
        T* const mine = gvalue + (b * S * heads + head) * D;
        for (int64_t s = 0; s < S; ++s)
            for (int64_t d = 0; d < D; d += lanes) Vec<T>::zero().store(mine + s * heads * D + d, D - d);
        for (int64_t q = 0; q < Q; ++q) {
            const int64_t row = (b * Q + q) * heads + head;
            for (int64_t i = 0; i < levels.count; i += lanes) {
                const Points<T> points(levels, locations + row * levels.count * 2, i);
                for (int64_t k = 0; k < lanes && i + k < levels.count; ++k)
                    for (int corner = 0; corner < 4; ++corner) {
                        if (points.pixel[k][corner] < 0) continue;
                        const Vec<T> weight(points.weight(k, corner) * weights[row * levels.count + i + k]);
                        T* const to = mine + points.pixel[k][corner] * heads * D;
                        for (int64_t d = 0; d < D; d += lanes)
                            fma(weight, Vec<T>::load(gy + row * D + d, D - d), Vec<T>::load(to + d, D - d))
                                .store(to + d, D - d);
                    }
            }
        }
        for (int64_t s = 0; s < S; ++s)
            for (int64_t d = 0; d < D; d += lanes) {
                T* const at = mine + s * heads * D + d;
                (Vec<T>::load(at, D - d) + Vec<T>::zero()).store(at, D - d);
            }
    });
}

// sum_lanes of sixteen vectors at once: lane k of the result is that of v[k].
template <class T> Vec<T> sum_lanes_of(Vec<T> (&v)[lanes]) {
    transpose(v);
    for (int half = lanes / 2; half >= 1; half /= 2)
        for (int k = 0; k < half; ++k) v[k] = v[k] + v[k + half];
    return v[0];
}

// The lanes of the long sums of gy times the slopes and the sample, over the channels, for each of sixteen points.
template <class T> struct SampleSums {
    Vec<T> y[lanes], x[lanes], sample[lanes];

    MMK_MEMBER SampleSums() {
        for (int k = 0; k < lanes; ++k) y[k] = x[k] = sample[k] = Vec<T>::zero();
    }
    // Chunk after chunk; a single one is the sum.
    MMK_MEMBER void add_point(const T* const (&v)[4], const Points<T>& p, int64_t k, const T* g, int64_t channels) {
        const Vec<T> top(p.top[k]), bottom(p.bottom[k]), left(p.left[k]), right(p.right[k]);
        const Vec<T> w00 = top * left, w01 = top * right, w10 = bottom * left, w11 = bottom * right;
        ChunkTree<T> trees[3];
        for (int64_t begin = 0; begin < channels; begin += sum_chunk) {
            const int64_t end = channels < begin + sum_chunk ? channels : begin + sum_chunk;
            Vec<T> along_y = Vec<T>::zero(), along_x = along_y, samples = along_y;
            for (int64_t d = begin; d < end; d += lanes) {
                const int64_t n = end - d;
                const Vec<T> factor = Vec<T>::load(g + d, n);
                const Vec<T> v00 = Vec<T>::load(v[0] + d, n), v01 = Vec<T>::load(v[1] + d, n),
                             v10 = Vec<T>::load(v[2] + d, n), v11 = Vec<T>::load(v[3] + d, n);
                along_y = along_y + factor * slope_along_y(left, right, v00, v01, v10, v11);
                along_x = along_x + factor * slope_along_x(top, bottom, v00, v01, v10, v11);
                samples = samples + factor * bilinear_sample(w00, w01, w10, w11, v00, v01, v10, v11);
            }
            if (channels <= sum_chunk) {
                y[k] = along_y, x[k] = along_x, sample[k] = samples;
                return;
            }
            trees[0].add(along_y), trees[1].add(along_x), trees[2].add(samples);
        }
        y[k] = trees[0].total(), x[k] = trees[1].total(), sample[k] = trees[2].total();
    }
};

// glocations (and the weights with them) may be missing.
template <class T> void points_gradient(const MsDeformAttentionPointsGrad& op, Context& context) {
    const int64_t S = op.value.extent[1], heads = op.value.extent[2], D = op.value.extent[3];
    const int64_t Q = op.sampling_locations.extent[1], padded = (D + lanes - 1) / lanes * lanes;
    const Dense<T> value(context, op.value), locations(context, op.sampling_locations),
        weights(context, op.attention_weights), gy(context, op.gy);
    const DenseOut<T> glocations(context, op.glocations), gweights(context, op.gweights);
    const Levels<T> levels(context, op.spatial_shapes, op.sampling_locations);
    T* const zeros = context.scratch<T>(padded);
    for (int64_t d = 0; d < padded; ++d) zeros[d] = T(0);
    const int64_t rows = op.value.extent[0] * Q * heads;
    parallel_ranges(context, rows, 1 + grain / (1 + levels.count * D), [&](int64_t begin, int64_t end, int) {
        for (int64_t row = begin; row < end; ++row) {
            const int64_t b = row / (Q * heads), head = row % heads;
            for (int64_t i = 0; i < levels.count; i += lanes) {
                const Points<T> points(levels, locations + row * levels.count * 2, i);
                const int64_t some = levels.count - i < lanes ? levels.count - i : lanes;
                SampleSums<T> sums;
                for (int64_t k = 0; k < some; ++k) {
                    const T* v[4];
                    for (int corner = 0; corner < 4; ++corner) {
                        const int64_t pixel = points.pixel[k][corner];
                        v[corner] = pixel < 0 ? zeros : value + ((b * S + pixel) * heads + head) * D;
                    }
                    sums.add_point(v, points, k, gy + row * D, D);
                }
                const int64_t point = row * levels.count + i;
                if (gweights) sum_lanes_of(sums.sample).store(gweights + point, some);
                if (!glocations) continue;
                const Vec<T> weight = Vec<T>::load(weights + point, some);
                T x[lanes], y[lanes];
                (weight * sum_lanes_of(sums.x) * Vec<T>::load(levels.width + i)).store(x);
                (weight * sum_lanes_of(sums.y) * Vec<T>::load(levels.height + i)).store(y);
                for (int64_t k = 0; k < some; ++k)
                    glocations[2 * (point + k)] = x[k], glocations[2 * (point + k) + 1] = y[k];
            }
        }
    });
}

} // namespace

void ms_deform_attention(const MsDeformAttention& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) { forward<decltype(zero)>(op, context); });
}
void ms_deform_attention_value_grad(const MsDeformAttentionValueGrad& op, Context& context) {
    visit_float(op.gvalue.dtype, [&](auto zero) { value_gradient<decltype(zero)>(op, context); });
}
void ms_deform_attention_points_grad(const MsDeformAttentionPointsGrad& op, Context& context) {
    visit_float(op.gweights.dtype, [&](auto zero) { points_gradient<decltype(zero)>(op, context); });
}
void ms_deform_attention_weights_grad(const MsDeformAttentionWeightsGrad& op, Context& context) {
    MsDeformAttentionPointsGrad both;
    both.value = op.value, both.sampling_locations = op.sampling_locations, both.gy = op.gy;
    both.gweights = op.gweights;
    for (int i = 0; i < 2 * max_levels; ++i) both.spatial_shapes[i] = op.spatial_shapes[i];
    visit_float(op.gweights.dtype, [&](auto zero) { points_gradient<decltype(zero)>(both, context); });
}

} // namespace mmk::cpu::MMK_ISA
