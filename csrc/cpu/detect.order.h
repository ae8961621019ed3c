// Boxes by falling score, and those of a class beside each other.
#pragma once

#include "../core/dispatch.h"
#include "../core/layout.h"
#include "../core/score_order.h"
#include "detect.sort.h"

namespace mmk::cpu::MMK_ISA {

// Indices by falling score into `index`; returns how many take part.
template <class T>
int64_t order_by_score(Context& context, const T* scores, int64_t n, double threshold, int32_t* index) {
    using Key = decltype(falling_key(T(0)));
    Keyed<Key>*items = context.scratch<Keyed<Key>>(n), *other = context.scratch<Keyed<Key>>(n);
    for (int64_t i = 0; i < n; ++i) items[i] = {falling_key(scores[i]), int32_t(i)};
    items = sort_keys(context, items, other, n);
    for (int64_t i = 0; i < n; ++i) index[i] = items[i].index;
    const T limit = T(threshold);
    int64_t count = n;
    if (limit > -T(__builtin_inf()))
        while (count > 0 && !(scores[index[count - 1]] > limit)) --count;
    return count;
}

// Ranks of one class beside each other, rising; the classes' ends into `ends`. Returns how many classes there are.
template <class I> int64_t split_by_class(Context& context, const I* classes, const int32_t* index, int64_t n,
                                          int32_t* ranks, int32_t* ends) {
    Keyed<uint64_t>*items = context.scratch<Keyed<uint64_t>>(n), *other = context.scratch<Keyed<uint64_t>>(n);
    for (int64_t i = 0; i < n; ++i) items[i] = {uint64_t(int64_t(classes[index[i]])), int32_t(i)};
    items = sort_keys(context, items, other, n);
    int64_t count = 0;
    for (int64_t i = 0; i < n; ++i) {
        ranks[i] = items[i].index;
        if (i + 1 == n || items[i + 1].key != items[i].key) ends[count++] = int32_t(i + 1);
    }
    return count;
}

// Which boxes take part, and how they meet: index of each rank, ranks by class, the classes' ends.
struct Ranking {
    int32_t *index, *ranks, *ends;
    int64_t taking_part = 0, classes = 0, largest = 0; // of a class
};
template <class T>
Ranking rank_boxes(Context& context, const Tensor& scores, const Tensor& classes, double score_threshold) {
    const int64_t n = scores.extent[0];
    Ranking r{context.scratch<int32_t>(n), context.scratch<int32_t>(n), context.scratch<int32_t>(n)};
    r.taking_part = order_by_score(context, Dense<T>(context, scores).get(), n, score_threshold, r.index);
    if (classes)
        visit_integer(classes.dtype, [&](auto zero) {
            const Dense<decltype(zero)> labels(context, classes);
            r.classes = split_by_class(context, labels.get(), r.index, r.taking_part, r.ranks, r.ends);
        });
    else if (r.taking_part > 0) {
        for (int64_t i = 0; i < r.taking_part; ++i) r.ranks[i] = int32_t(i);
        r.ends[r.classes++] = int32_t(r.taking_part);
    }
    for (int64_t c = 0; c < r.classes; ++c) {
        const int64_t size = r.ends[c] - (c ? r.ends[c - 1] : 0);
        if (size > r.largest) r.largest = size;
    }
    return r;
}

// body(ranks, count, worker, kept) for every class; then the kept boxes by rank into keep. A second thread costs some
// 5 us: classes of few boxes take less.
MMK_INLINE bool on_threads(const Ranking& r) { return r.taking_part >= 512 && r.classes > 1; }
template <class Body>
void keep_by_class(Context& context, const Ranking& r, const Tensor& keep, const Tensor& count, Body&& body) {
    const DenseOut<int64_t> kept_indices(context, keep), total(context, count);
    uint8_t* const kept = context.scratch<uint8_t>(r.taking_part);
    std::memset(kept, 0, size_t(r.taking_part));
    const auto of_class = [&](int64_t c, int worker) {
        const int64_t begin = c ? r.ends[c - 1] : 0;
        body(r.ranks + begin, r.ends[c] - begin, worker, kept);
    };
    if (on_threads(r))
        parallel_for(context, r.classes, of_class);
    else
        for (int64_t c = 0; c < r.classes; ++c) of_class(c, 0);
    const int64_t most = keep.extent[0];
    int64_t found = 0;
    for (int64_t i = 0; i < r.taking_part && found < most; ++i)
        if (kept[i]) kept_indices[found++] = r.index[i];
    for (int64_t i = found; i < most; ++i) kept_indices[i] = -1;
    *total.get() = found;
}

} // namespace mmk::cpu::MMK_ISA
