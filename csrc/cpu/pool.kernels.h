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
    // Of each lane's window.
    template <class T, bool neighbours> MMK_MEMBER Vec<T> of(const Window<T, neighbours>& w) const {
        if constexpr (!neighbours) return at<T>(w.at[0], w.at[1], w.at[2]);
        T s[lanes];
        for (int64_t k = 0; k < lanes; ++k)
            s[k] = at<T>(w.at[0], w.at[1], w.at[2] + (k < w.lanes_used ? k : 0)).lane(0);
        return Vec<T>::load(s);
    }
};

template <class T> struct MeanOf {
    Divisors3 divisors;
    template <bool neighbours> MMK_FLATTEN void operator()(const Window<T, neighbours>& w, T* to, int64_t*) const {
        Vec<T> sum = Vec<T>::zero();
        w.each([&](int64_t i, int64_t, int64_t, int64_t) { sum = sum + w.load(i); });
        (sum / divisors.of(w)).store(to, w.lanes_used);
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
    template <bool neighbours>
    MMK_FLATTEN void operator()(const Window<T, neighbours>& w, T* to, int64_t* places) const {
        Vec<T> best(T(-__builtin_inf()));
        const Vec<I> shifts = w.template shifts<I>();
        Vec<I> place(I(-1));
        bool first = true;
        w.each([&](int64_t i, int64_t, int64_t, int64_t) {
            const Vec<T> v = w.load(i);
            const Mask<T> better = (v > best) | ((v != v) & (best == best));
            const Vec<I> here = neighbours ? Vec<I>(I(i)) + shifts : Vec<I>(I(i));
            best = select(better, v, best);
            place = first ? here : select(convert<I>(better), here, place);
            first = false;
        });
        (best + Vec<T>::zero()).store(to, w.lanes_used);
        if (!places) return;
        I found[lanes];
        place.store(found);
        for (int64_t k = 0; k < w.lanes_used; ++k) places[k] = found[k];
    }
};

// Lanes along the elements of one window, for windows of long lines. Of equal lanes the first element's is taken.
template <class T, class I>
MMK_FLATTEN void max_of_lines(const Grid& grid, const int64_t (&at)[3], const T* x, T* y, int64_t* index) {
    const Reach &a = grid.reach[0][at[0]], &b = grid.reach[1][at[1]], &c = grid.reach[2][at[2]];
    const Vec<T> lowest(T(-__builtin_inf()));
    const Vec<I> iota = Vec<I>::iota();
    const bool empty = a.count == 0 || b.count == 0 || c.count == 0;
    Vec<T> best = lowest;
    Vec<I> place(I(empty ? -1 : (a.begin * grid.inputs[1] + b.begin) * grid.inputs[2] + c.begin));
    for (int64_t d = a.begin; d < a.begin + a.count; ++d)
        for (int64_t h = b.begin; h < b.begin + b.count; ++h)
            for (int64_t m = 0; m < c.count; m += lanes) {
                const int64_t i = (d * grid.inputs[1] + h) * grid.inputs[2] + c.begin + m, n = c.count - m;
                Vec<T> v = Vec<T>::load(x + i, n);
                if (n < lanes) v = select(convert<typename detail::Integer<T>::type>(iota < Vec<I>(I(n))), v, lowest);
                const Mask<T> better = (v > best) | ((v != v) & (best == best));
                best = select(better, v, best);
                place = select(convert<I>(better), Vec<I>(I(i)) + iota, place);
            }
    T value[lanes];
    I found[lanes];
    best.store(value), place.store(found);
    int k = 0;
    for (int j = 1; j < lanes; ++j) {
        const bool nan = value[j] != value[j], before = value[k] != value[k];
        const bool equal = (nan && before) || value[j] == value[k];
        if (equal ? found[j] < found[k] : (nan && !before) || value[j] > value[k]) k = j;
    }
    *y = value[k] + T(0);
    if (index) *index = found[k];
}
template <class T, class I> void max_of_grid(Context& context, const Axis3& axes, const Pooled& p) {
    const Grid grid = grid_of(context, axes, false);
    int64_t read = 0;
    for (int64_t q = 0; q < grid.outputs[2]; ++q) read += grid.reach[2][q].count;
    const bool dense = axes[0].dilation == 1 && axes[1].dilation == 1 && axes[2].dilation == 1;
    // Where planes are few, half as many elements pay: the other ways leave lanes without work.
    const int64_t least = p.y.size(0, 2) < lanes / 2 ? lanes : 2 * lanes;
    if (!dense || !p.sources[0].contiguous() || read < least * grid.outputs[2])
        return pool_forward<T>(context, axes, p, MaxOf<T, I>());
    context.chose("elements abreast", "windows have long lines");
    const Dense<T> x(context, p.sources[0]);
    const DenseOut<T> y(context, p.y);
    const DenseOut<int64_t> indices(context, p.indices);
    const int64_t size = grid.size();
    parallel_ranges(context, p.y.size(), 1 + volume_grain / reads_of(grid), [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) {
            const int64_t o = i % size, line = o / grid.outputs[2];
            const int64_t at[3] = {line / grid.outputs[1], line % grid.outputs[1], o % grid.outputs[2]};
            max_of_lines<T, I>(grid, at, x + i / size * grid.input_size(), y + i,
                               indices.get() ? indices + i : nullptr);
        }
    });
}
template <class T> void max_of_volumes(Context& context, const Axis3& axes, const Pooled& p) {
    const double size = double(axes[0].extent) * double(axes[1].extent) * double(axes[2].extent);
    if (sizeof(T) == 8 || size >= 0x1p31)
        max_of_grid<T, int64_t>(context, axes, p);
    else
        max_of_grid<T, int32_t>(context, axes, p);
}

// Means of whole planes that follow each other: sixteen planes at a time, sixteen elements of each turned into sixteen
// terms of their sums. After each `chunk` elements, a multiple of sixteen, a new chain begins.
template <class T>
void mean_of_planes(Context& context, const T* x, T* y, int64_t planes, int64_t size, int64_t chunk, T divisor) {
    const int64_t blocks = (planes + lanes - 1) / lanes;
    parallel_ranges(context, blocks, 1 + volume_grain / (1 + size * lanes), [&](int64_t begin, int64_t end, int) {
        for (int64_t block = begin; block < end; ++block) {
            const int64_t plane = block * lanes, n = smaller(lanes, planes - plane);
            Vec<T> sum = Vec<T>::zero(), chain = Vec<T>::zero();
            int64_t next = chunk;
            for (int64_t i = 0; i < size; i += lanes) {
                if (i == next) sum = sum + chain, chain = Vec<T>::zero(), next += chunk;
                const int64_t some = smaller(lanes, size - i);
                Vec<T> v[lanes];
                for (int64_t k = 0; k < lanes; ++k)
                    v[k] = k < n ? Vec<T>::load(x + (plane + k) * size + i, some) : Vec<T>::zero();
                transpose(v);
                for (int64_t k = 0; k < some; ++k) chain = chain + v[k];
            }
            ((sum + chain) / Vec<T>(divisor)).store(y + plane, n);
        }
    });
}

} // namespace mmk::cpu::MMK_ISA
