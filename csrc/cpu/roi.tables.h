// What every region takes of a map, as tables: made once, used by every channel.
#pragma once

#include "../core/regions.h"
#include "layouts4.h"

namespace mmk::cpu::MMK_ISA {

template <class T> struct Tap {
    int64_t offset; // of a row or a column of pixels, in elements
    T weight;
};
template <class T> struct Taps {
    const Tap<T>* at;
    int64_t count;
};

// Regions by their image, in their order; those whose image does not exist stand behind them, those of another level
// are left out.
struct RegionsByImage {
    int64_t* order;
    int64_t* first; // those of image n are order[first[n]] .. order[first[n + 1] - 1]; n = images: of none

    template <class T> RegionsByImage(Context& context, const RegionRules& rules, const T* boxes, int64_t regions,
                                      int64_t numbers, int64_t images)
        : order(context.scratch<int64_t>(regions)), first(context.scratch<int64_t>(images + 2)) {
        int64_t* const image = context.scratch<int64_t>(regions);
        for (int64_t n = 0; n < images + 2; ++n) first[n] = 0;
        for (int64_t r = 0; r < regions; ++r) {
            const T* const box = boxes + r * numbers;
            image[r] = -1;
            if (!rules.takes(box + 1)) continue;
            image[r] = index_of(box[0], images);
            if (image[r] < 0) image[r] = images;
            ++first[image[r] + 1];
        }
        for (int64_t n = 0; n <= images; ++n) first[n + 1] += first[n];
        for (int64_t r = 0; r < regions; ++r)
            if (image[r] >= 0) order[first[image[r]]++] = r;
        for (int64_t n = images; n > 0; --n) first[n] = first[n - 1];
        first[0] = 0;
    }
};

// The map and the bins of a set of regions.
struct RegionGrid {
    int64_t height, width, bins_y, bins_x;
    int64_t bins() const { return bins_y * bins_x; }
};

template <class T> class RegionTables {
  public:
    // Offsets count `pixel` elements a column. Compact: columns are counted as compact_columns lists them.
    RegionTables(Context& context, const RegionRules& rules, const T* boxes, int64_t regions, const RegionGrid& grid,
                 int64_t pixel, bool compact)
        : grid_(grid), bins_(context.scratch<Bin>(regions * (grid.bins_y + grid.bins_x))),
          lines_(context.scratch<Lines>(regions)), columns_(compact ? context.scratch<Bin>(regions) : nullptr) {
        const int64_t each = grid.bins_y + grid.bins_x;
        parallel_ranges(context, regions, 32, [&](int64_t begin, int64_t end, int) {
            for (int64_t r = begin; r < end; ++r) {
                RegionAxis<T> axis[2];
                axes(rules, boxes + 5 * r, axis);
                for (int64_t k = 0; k < each; ++k)
                    bins_[r * each + k].count =
                        k < grid.bins_y ? axis[0].most_taps(k) : axis[1].most_taps(k - grid.bins_y);
            }
        });
        int64_t taps = 0, columns = 0;
        for (int64_t r = 0; r < regions; ++r) {
            const int64_t before = taps;
            for (int64_t k = 0; k < each; ++k) {
                Bin& bin = bins_[r * each + k];
                bin.begin = taps;
                taps += bin.count;
            }
            if (compact) columns_[r].begin = columns, columns += taps - before;
        }
        taps_ = context.scratch<Tap<T>>(taps);
        if (compact) list_ = context.scratch<int64_t>(columns);
        int64_t* const slots = compact ? context.scratch<int64_t>(grid.width * context.threads) : nullptr;
        if (compact)
            for (int64_t i = 0; i < grid.width * context.threads; ++i) slots[i] = -1;
        parallel_ranges(context, regions, 32, [&](int64_t begin, int64_t end, int worker) {
            for (int64_t r = begin; r < end; ++r)
                fill(rules, boxes + 5 * r, r, pixel, compact ? slots + worker * grid.width : nullptr);
        });
    }

    MMK_MEMBER Taps<T> rows(int64_t region, int64_t p) const { return taps_of(region, p); }
    MMK_MEMBER Taps<T> columns(int64_t region, int64_t q) const { return taps_of(region, grid_.bins_y + q); }
    // Rows of the map, from `first` to before `end`, in which all lie that these regions take.
    MMK_MEMBER void lines_of(const int64_t* order, int64_t count, int64_t& first, int64_t& end) const {
        first = grid_.height, end = 0;
        for (int64_t i = 0; i < count; ++i) {
            const Lines& own = lines_[order[i]];
            first = own.first < first ? own.first : first;
            end = own.end > end ? own.end : end;
        }
        first = first < end ? first : end; // none
    }
    // Offsets of the columns that a region's bins take.
    MMK_MEMBER const int64_t* compact_columns(int64_t region, int64_t& count) const {
        count = columns_[region].count;
        return list_ + columns_[region].begin;
    }

  private:
    struct Bin {
        int64_t begin, count;
    };
    struct Lines {
        int64_t first, end;
    };
    MMK_MEMBER Taps<T> taps_of(int64_t region, int64_t k) const {
        const Bin& bin = bins_[region * (grid_.bins_y + grid_.bins_x) + k];
        return {taps_ + bin.begin, bin.count};
    }
    MMK_MEMBER void axes(const RegionRules& rules, const T* box, RegionAxis<T>* axis) const {
        axis[0] = RegionAxis<T>(rules, box[2], box[4], grid_.bins_y, grid_.height);
        axis[1] = RegionAxis<T>(rules, box[1], box[3], grid_.bins_x, grid_.width);
    }
    MMK_MEMBER void fill(const RegionRules& rules, const T* box, int64_t r, int64_t pixel, int64_t* slots) {
        RegionAxis<T> axis[2];
        axes(rules, box, axis);
        Bin* const bins = bins_ + r * (grid_.bins_y + grid_.bins_x);
        Lines lines{grid_.height, 0};
        int64_t distinct = 0;
        int64_t* const list = slots ? list_ + columns_[r].begin : nullptr;
        for (int64_t k = 0; k < grid_.bins_y + grid_.bins_x; ++k) {
            const bool row = k < grid_.bins_y;
            Tap<T>* const taps = taps_ + bins[k].begin;
            int64_t n = 0;
            axis[row ? 0 : 1].for_taps(row ? k : k - grid_.bins_y, [&](int64_t at, T weight) {
                if (row) {
                    taps[n++] = {at * grid_.width * pixel, weight};
                    lines.first = at < lines.first ? at : lines.first;
                    lines.end = at >= lines.end ? at + 1 : lines.end;
                } else if (!slots)
                    taps[n++] = {at * pixel, weight};
                else {
                    if (slots[at] < 0) slots[at] = distinct, list[distinct++] = at * pixel;
                    taps[n++] = {slots[at] * lanes, weight};
                }
            });
            bins[k].count = n;
        }
        lines_[r] = lines;
        if (!slots) return;
        columns_[r].count = distinct;
        for (int64_t k = 0; k < distinct; ++k) slots[list[k] / pixel] = -1;
    }

    RegionGrid grid_;
    Bin* bins_;
    Lines* lines_;
    Bin* columns_;
    Tap<T>* taps_ = nullptr;
    int64_t* list_ = nullptr;
};

} // namespace mmk::cpu::MMK_ISA
