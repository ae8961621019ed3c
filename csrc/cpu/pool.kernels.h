// The mean and the maximum of a window of any rank, and the mean's gradient.
#pragma once

#include "pool.volumes.h"

namespace mmk::cpu::MMK_ISA {

// What each window counts for along each axis, and the divisors that follow.
struct Divisors3 {
    const int64_t* counted[3];
    int64_t divisor_override;

    MMK_MEMBER static Divisors3 of(Context& context, const Axis3& axes, bool count_include_pad, int64_t divisor) {
        Divisors3 d{{}, divisor};
        for (int i = 0; i < 3; ++i) {
            int64_t* const table = context.scratch<int64_t>(axes[i].outputs);
            for (int64_t k = 0; k < axes[i].outputs; ++k) table[k] = axes[i].counted(k, count_include_pad);
            d.counted[i] = table;
        }
        return d;
    }
    // A window that counts for nothing has the sum 0: any divisor will do.
    template <class T> MMK_MEMBER Vec<T> at(int64_t o, int64_t p, int64_t q) const {
        const int64_t n = divisor_override ? divisor_override : counted[0][o] * counted[1][p] * counted[2][q];
        return Vec<T>(n ? T(n) : T(1));
    }
};

template <class T> struct MeanOf {
    Divisors3 divisors;
    MMK_FLATTEN void operator()(const Window<T>& w, T* to, int64_t*) const {
        Vec<T> sum = Vec<T>::zero();
        w.each([&](int64_t i, int64_t, int64_t, int64_t) { sum = sum + w.load(i); });
        (sum / divisors.at<T>(w.at[0], w.at[1], w.at[2])).store(to, w.lanes_used);
    }
};
template <class T> struct MeanGradient {
    Divisors3 divisors;
    MMK_FLATTEN void operator()(const Window<T>& w, T* to, int64_t*) const {
        Vec<T> sum = Vec<T>::zero();
        w.each([&](int64_t i, int64_t o, int64_t p, int64_t q) { sum = sum + w.load(i) / divisors.at<T>(o, p, q); });
        sum.store(to, w.lanes_used);
    }
};

// I holds an element's number.
template <class T, class I> struct MaxOf {
    MMK_FLATTEN void operator()(const Window<T>& w, T* to, int64_t* places) const {
        Vec<T> best(T(-__builtin_inf()));
        Vec<I> place(I(-1));
        bool first = true;
        w.each([&](int64_t i, int64_t, int64_t, int64_t) {
            const Vec<T> v = w.load(i);
            const Mask<T> better = (v > best) | ((v != v) & (best == best));
            best = select(better, v, best);
            place = first ? Vec<I>(I(i)) : select(convert<I>(better), Vec<I>(I(i)), place);
            first = false;
        });
        (best + Vec<T>::zero()).store(to, w.lanes_used);
        if (!places) return;
        I found[lanes];
        place.store(found);
        for (int64_t k = 0; k < w.lanes_used; ++k) places[k] = found[k];
    }
};
template <class T> void max_of_volumes(Context& context, const Axis3& axes, const Pooled& p) {
    const double size = double(axes[0].extent) * double(axes[1].extent) * double(axes[2].extent);
    if (sizeof(T) == 8 || size >= 0x1p31)
        pool_volumes<T>(context, axes, false, p, MaxOf<T, int64_t>());
    else
        pool_volumes<T>(context, axes, false, p, MaxOf<T, int32_t>());
}

// Means of whole planes that follow each other: sixteen planes at a time, sixteen elements of each turned into sixteen
// terms of their sums.
template <class T> void mean_of_planes(Context& context, const T* x, T* y, int64_t planes, int64_t size, T divisor) {
    const int64_t blocks = (planes + lanes - 1) / lanes;
    parallel_ranges(context, blocks, 1 + volume_grain / (1 + size * lanes), [&](int64_t begin, int64_t end, int) {
        for (int64_t block = begin; block < end; ++block) {
            const int64_t plane = block * lanes, n = smaller(lanes, planes - plane);
            Vec<T> sum = Vec<T>::zero();
            for (int64_t i = 0; i < size; i += lanes) {
                const int64_t some = smaller(lanes, size - i);
                Vec<T> v[lanes];
                for (int64_t k = 0; k < lanes; ++k)
                    v[k] = k < n ? Vec<T>::load(x + (plane + k) * size + i, some) : Vec<T>::zero();
                transpose(v);
                for (int64_t k = 0; k < some; ++k) sum = sum + v[k];
            }
            (sum / Vec<T>(divisor)).store(y + plane, n);
        }
    });
}

} // namespace mmk::cpu::MMK_ISA
