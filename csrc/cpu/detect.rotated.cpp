#include "../ops/detect.h"

#include "../core/box_rotated.h"
#include "detect.bits.h"
#include "detect.order.h"

namespace mmk::cpu::MMK_ISA {
namespace {

constexpr int64_t grain = 1024; // pairs for which a second thread pays

// Boxes by columns: what rotated_box makes of each, in memory.
template <class T> struct Columns {
    T* at[8];
    int64_t size; // a multiple of the lanes

    static Columns take(Context& context, int64_t count) {
        Columns c;
        c.size = (count + lanes - 1) / lanes * lanes;
        T* const all = context.scratch<T>(8 * c.size);
        for (int k = 0; k < 8; ++k) c.at[k] = all + k * c.size;
        return c;
    }
    MMK_MEMBER void store(int64_t block, const Rotated<T>& b) const {
        const Vec<T> parts[8] = {b.x, b.y, b.width, b.height, b.cosine, b.sine, b.area, b.radius};
        for (int k = 0; k < 8; ++k) parts[k].store(at[k] + block);
    }
    MMK_MEMBER Rotated<T> load(int64_t block) const {
        return {Vec<T>::load(at[0] + block), Vec<T>::load(at[1] + block), Vec<T>::load(at[2] + block),
                Vec<T>::load(at[3] + block), Vec<T>::load(at[4] + block), Vec<T>::load(at[5] + block),
                Vec<T>::load(at[6] + block), Vec<T>::load(at[7] + block)};
    }
    MMK_MEMBER Rotated<T> one(int64_t i) const {
        return {Vec<T>(at[0][i]), Vec<T>(at[1][i]), Vec<T>(at[2][i]), Vec<T>(at[3][i]),
                Vec<T>(at[4][i]), Vec<T>(at[5][i]), Vec<T>(at[6][i]), Vec<T>(at[7][i])};
    }
    // Boxes index(0), index(1), ...; behind them boxes of no size.
    template <class Index> void fill(const T* boxes, int64_t count, T scale, const Index& index) const {
        for (int64_t block = 0; block < count; block += lanes) {
            T s[5][lanes] = {};
            for (int64_t k = 0; k < lanes && block + k < count; ++k)
                for (int c = 0; c < 5; ++c) s[c][k] = boxes[5 * int64_t(index(block + k)) + c];
            store(block, rotated_box(Vec<T>::load(s[0]), Vec<T>::load(s[1]), Vec<T>::load(s[2]), Vec<T>::load(s[3]),
                                     Vec<T>::load(s[4]), scale));
        }
    }
};

template <class T>
MMK_FLATTEN void overlaps_of_row(const Columns<T>& a, int64_t row, const Columns<T>& b, T* y, int64_t count) {
    const Rotated<T> first = a.one(row);
    for (int64_t k = 0; k < count; k += lanes) {
        const Rotated<T> second = b.load(k);
        const Vec<T> common = rotated_intersection(first, second);
        (common / ((first.area + second.area) - common)).store(y + k, count - k);
    }
}

// Marks in `removed` whom the box at a place strikes out among those behind it. Sixteen boxes none of which is near
// cost a twentieth of an intersection.
template <class T>
MMK_FLATTEN void strike(const Columns<T>& boxes, int64_t at, int64_t count, T threshold, uint16_t* removed) {
    const Rotated<T> kept = boxes.one(at);
    const Vec<T> limit(threshold);
    for (int64_t block = at / lanes * lanes; block < count; block += lanes) {
        const Rotated<T> other = boxes.load(block);
        const Vec<T> dx = kept.x - other.x, dy = kept.y - other.y, reach = kept.radius + other.radius;
        if (bits_of(dx * dx + dy * dy < reach * reach) == 0) continue;
        const auto struck = overlap_exceeds(rotated_intersection(kept, other), kept.area, other.area, limit);
        removed[block / lanes] = uint16_t(removed[block / lanes] | bits_of(struck));
    }
}

template <class T> void suppress(const NmsRotated& op, Context& context) {
    const Dense<T> boxes(context, op.boxes);
    const Ranking ranking = rank_boxes<T>(context, op.scores, op.classes, op.score_threshold);
    const int workers = on_threads(ranking) ? context.threads : 1;
    Columns<T>* const rooms = context.scratch<Columns<T>>(workers);
    for (int w = 0; w < workers; ++w) rooms[w] = Columns<T>::take(context, ranking.largest);
    const int64_t words = ranking.largest / lanes + 1, most = op.keep.extent[0];
    uint16_t* const bits = context.scratch<uint16_t>(words * workers);
    const auto body = [&](const int32_t* ranks, int64_t n, int worker, uint8_t* kept) {
        const Columns<T>& columns = rooms[worker];
        uint16_t* const removed = bits + words * worker;
        std::memset(removed, 0, size_t(words) * sizeof(uint16_t));
        columns.fill(boxes.get(), n, T(op.angle_scale), [&](int64_t i) { return ranking.index[ranks[i]]; });
        int64_t count = 0;
        for (int64_t i = 0; i < n && count < most; ++i) {
            if (removed[i / lanes] >> i % lanes & 1) continue;
            kept[ranks[i]] = 1;
            ++count;
            strike(columns, i, n, T(op.iou_threshold), removed);
        }
    };
    keep_by_class(context, ranking, op.keep, op.count, body);
}

} // namespace

void box_iou_rotated(const BoxIouRotated& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const int64_t rows = op.y.extent[0], columns = op.y.extent[1];
        const Dense<T> boxes1(context, op.boxes1), boxes2(context, op.boxes2);
        const DenseOut<T> y(context, op.y);
        const Columns<T> a = Columns<T>::take(context, rows), b = Columns<T>::take(context, columns);
        const auto itself = [](int64_t i) { return i; };
        a.fill(boxes1.get(), rows, T(op.angle_scale), itself);
        b.fill(boxes2.get(), columns, T(op.angle_scale), itself);
        parallel_ranges(context, rows, 1 + grain / (1 + columns), [&](int64_t begin, int64_t end, int) {
            for (int64_t row = begin; row < end; ++row) overlaps_of_row(a, row, b, y + row * columns, columns);
        });
    });
}
void nms_rotated(const NmsRotated& op, Context& context) {
    visit_float(op.boxes.dtype, [&](auto zero) { suppress<decltype(zero)>(op, context); });
}

} // namespace mmk::cpu::MMK_ISA
