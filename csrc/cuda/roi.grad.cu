// Gradients of the means over regions. An element gathers from the bins that it is in: regions in their order, rows of
// bins, columns of bins; nothing is added by two threads.
#include "roi.cuh"

namespace mmk::cuda {
namespace {

constexpr int side = 16, threads = side * side; // a block's elements: a square, one a thread
constexpr int lines = 2 * side;                 // its rows and columns
constexpr int each = 8;                         // channels of a thread
constexpr int most_bins = 256;                  // along an axis, of which weights are kept on chip
constexpr int table_size = 4096;                // weights on chip, about

struct Reach { // elements that are taken; nothing if high < low
    int low, high;
};
template <class T> struct Shares {
    Regions<Compute<T>> regions;
    const T* gy;
    T* gx;
    Strides4 gy_strides, gx_strides;
    int64_t planes;     // of gx
    const int* images;  // [regions]; -1: of none, or of another level
    const Reach* bins;  // [regions][bins_y + bins_x]
    const Reach* whole; // [regions][2]: rows, columns
    int64_t tiles_y, tiles_x, parts;
    int group, stride; // regions whose weights are on chip, weights of a line
};

// A thread for an axis of a region.
template <class B> __global__ void __launch_bounds__(threads)
    find_reach(Regions<B> regions, int* images, Reach* bins, Reach* whole) {
    for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < 2 * regions.count;
         i += int64_t(gridDim.x) * threads) {
        const int64_t r = i / 2, image = regions.taken(r) ? regions.image(r) : -1;
        const bool row = i % 2 == 0;
        const RegionAxis<B> axis = row ? regions.rows(r) : regions.columns(r);
        Reach all{0x7fffffff, -1};
        for (int64_t k = 0; k < (row ? regions.bins_y : regions.bins_x); ++k) {
            Reach bin{0x7fffffff, -1};
            if (image >= 0)
                axis.for_taps(k, [&](int64_t at, B) {
                    bin.low = bin.high < 0 ? int(at) : bin.low;
                    bin.high = int(at);
                });
            if (bin.high >= 0) all.low = bin.low < all.low ? bin.low : all.low;
            all.high = bin.high > all.high ? bin.high : all.high;
            bins[r * (regions.bins_y + regions.bins_x) + (row ? k : regions.bins_y + k)] = bin;
        }
        whole[i] = all;
        if (row) images[r] = int(image);
    }
}

// The weight that bin k gives the element `at`; 0 if it takes it not.
template <class B> __device__ inline B weight_at(const RegionAxis<B>& axis, int64_t k, int64_t at) {
    B found = B(0);
    axis.for_taps(k, [&](int64_t place, B weight) { found = place == at ? weight : found; });
    return found;
}

// Of regions [base, base + threads) those that meet the block's elements are listed in their order; gives their number.
template <class T> __device__ inline int list_regions(const Shares<T>& s, int64_t base, int image, int top, int left,
                                                      int* list, int* votes) {
    const int64_t r = base + threadIdx.x;
    bool meets = r < s.regions.count && s.images[r] == image;
    if (meets) {
        const Reach rows = s.whole[2 * r], columns = s.whole[2 * r + 1];
        meets = rows.high > (MMK_DEFECT(roi_reach_end) ? top : top - 1) && rows.low - top < side &&
                columns.high >= left && columns.low - left < side;
    }
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    const unsigned mine = __ballot_sync(0xffffffffu, meets);
    if (lane == 0) votes[warp] = __popc(mine);
    __syncthreads();
    int place = 0, count = 0;
    for (int w = 0; w < threads / 32; ++w) {
        if (w < warp) place += votes[w];
        count += votes[w];
    }
    if (meets)
        list[place + __popc(mine & ((1u << (MMK_DEFECT(roi_list_place) ? lane + 1 : lane)) - 1))] = int(threadIdx.x);
    __syncthreads();
    return count;
}

// The weights of the group's bins for each line of the block: [region of the group][line][bin], and which bins take it.
template <class T> __device__ inline void weigh_lines(const Shares<T>& s, int64_t base, int top, int left,
                                                      const int* list, int count, Compute<T>* weights, Reach* takers) {
    using C = Compute<T>;
    const Regions<C>& regions = s.regions;
    for (int i = threadIdx.x; i < count * lines; i += threads) {
        const int64_t r = base + list[i / lines];
        const int line = i % lines;
        const bool row = line < side;
        const int at = row ? top + line : left + (line - side);
        const RegionAxis<C> axis = row ? regions.rows(r) : regions.columns(r);
        const Reach* const bins = s.bins + r * (regions.bins_y + regions.bins_x) + (row ? 0 : regions.bins_y);
        Reach takes{0x7fffffff, -1};
        for (int k = 0; k < int(row ? regions.bins_y : regions.bins_x); ++k) {
            const C weight = bins[k].low <= at && at <= bins[k].high ? weight_at(axis, k, at) : C(0);
            weights[i * s.stride + k] = weight;
            if (weight == C(0)) continue;
            takes.low = takes.high < 0 ? k : takes.low;
            takes.high = k;
        }
        takers[i] = takes;
    }
}

// A block's task: a square of an image's elements, and the planes [first, first + planes).
struct Square {
    int64_t first;
    int image, top, left, planes;
};
template <class T> MMK_PTX Square square_of(const Shares<T>& s, int64_t task) {
    const int64_t first = task % s.parts * each, squares = task / s.parts, rows = squares / s.tiles_x;
    return {first, int(rows / s.tiles_y), int(rows % s.tiles_y) * side, int(squares % s.tiles_x) * side,
            int(smaller(each, s.planes - first))};
}

// What an element gathers from a region's gy, whose bins give it those weights along its row and its column. Of
// position-sensitive maps every plane is one bin's.
template <class T> MMK_PTX void gather_own_bins(Compute<T> (&sum)[each], const Shares<T>& s, const Square& at,
                                                const T* gy, const Compute<T>* row, const Compute<T>* column) {
    using C = Compute<T>;
    const Regions<C>& regions = s.regions;
#pragma unroll
    for (int v = 0; v < each; ++v) {
        const int64_t plane = at.first + v, c = plane / (regions.bins_y * regions.bins_x);
        if (v >= at.planes) continue;
        const int p = int(plane / regions.bins_x % regions.bins_y), q = int(plane % regions.bins_x);
        if (row[p] == C(0) || column[q] == C(0)) continue;
        const C part = fma_scalar(column[q], widen(gy[s.gy_strides.at(0, c, p, q)]), C(0));
        sum[v] = fma_scalar(row[p], part, sum[v]);
    }
}
template <class T> MMK_PTX void gather_bins(Compute<T> (&sum)[each], const Shares<T>& s, const Square& at, const T* gy,
                                            const Compute<T>* row, const Compute<T>* column, const Reach& rows,
                                            const Reach& columns) {
    using C = Compute<T>;
    if (columns.high < 0) return;
    for (int p = rows.low; p <= rows.high; ++p) {
        const C of_row = row[p];
        if (of_row == C(0)) continue;
        C part[each];
#pragma unroll
        for (int v = 0; v < each; ++v) part[v] = C(0);
        for (int q = columns.low; q <= columns.high; ++q) {
            const C weight = column[q];
            if (weight == C(0)) continue;
            const T* bin = gy + s.gy_strides.at(0, at.first, p, q);
#pragma unroll
            for (int v = 0; v < each; ++v, bin += s.gy_strides.c)
                if (v < at.planes) part[v] = fma_scalar(weight, widen(*bin), part[v]);
        }
#pragma unroll
        for (int v = 0; v < each; ++v) sum[v] = fma_scalar(of_row, part[v], sum[v]);
    }
}

template <class T, bool sensitive> __global__ void __launch_bounds__(threads, sizeof(T) == 8 ? 2 : 3)
    gather_shares(Shares<T> s, int64_t tasks) {
    using C = Compute<T>;
    SHARED(int, list, [threads]);
    SHARED(int, votes, [threads / 32]);
    SHARED(Reach, takers, [threads]);
    DYN_SHARED(C, weights);
    const int y = int(threadIdx.x) / side, x = int(threadIdx.x) % side;
    for (int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
        const Square at = square_of(s, task);
        C sum[each];
#pragma unroll
        for (int v = 0; v < each; ++v) sum[v] = C(0);
        for (int64_t base = 0; base < s.regions.count; base += threads) {
            const int listed = list_regions(s, base, at.image, at.top, at.left, list, votes);
            for (int done = 0; done < listed; done += s.group) {
                const int count = listed - done < s.group ? listed - done : s.group;
                weigh_lines(s, base, at.top, at.left, list + done, count, weights, takers);
                if (!MMK_DEFECT(roi_weights_unfinished)) __syncthreads();
                for (int g = 0; g < count; ++g) {
                    const int row = g * lines + y, column = g * lines + side + x;
                    const T* const gy = s.gy + (base + list[done + g]) * s.gy_strides.n;
                    const C *const of_row = weights + row * s.stride, *const of_column = weights + column * s.stride;
                    if constexpr (sensitive)
                        gather_own_bins(sum, s, at, gy, of_row, of_column);
                    else
                        gather_bins(sum, s, at, gy, of_row, of_column, takers[row], takers[column]);
                }
                __syncthreads();
            }
        }
        if (at.top + y >= s.regions.height || at.left + x >= s.regions.width) continue;
#pragma unroll
        for (int v = 0; v < each; ++v)
            if (v < at.planes)
                s.gx[s.gx_strides.at(at.image, at.first + v, at.top + y, at.left + x)] = narrow<T>(sum[v]);
    }
}

// More bins than weights are kept of: every thread walks them all.
template <class T> __global__ void __launch_bounds__(threads) gather_many_bins(Shares<T> s, Order4 order) {
    using C = Compute<T>;
    const Regions<C>& regions = s.regions;
    for_places(order, [&](const Place4& at) {
        C sum = C(0);
        const int64_t bins = regions.bins_y * regions.bins_x, c = regions.rules.sensitive ? at.c / bins : at.c;
        const int64_t only_p = regions.rules.sensitive ? at.c % bins / regions.bins_x : -1,
                      only_q = at.c % regions.bins_x;
        for (int64_t r = 0; r < regions.count; ++r) {
            const Reach all[2] = {s.whole[2 * r], s.whole[2 * r + 1]};
            if (s.images[r] != at.n || at.h < all[0].low || at.h > all[0].high || at.w < all[1].low ||
                at.w > all[1].high)
                continue;
            const RegionAxis<C> rows = regions.rows(r), columns = regions.columns(r);
            const Reach* const reach = s.bins + r * (regions.bins_y + regions.bins_x);
            for (int64_t p = 0; p < regions.bins_y; ++p) {
                if ((regions.rules.sensitive && p != only_p) || at.h < reach[p].low || at.h > reach[p].high) continue;
                const C of_row = weight_at(rows, p, at.h);
                C part = C(0);
                bool any = false;
                for (int64_t q = 0; q < regions.bins_x && of_row != C(0); ++q) {
                    const Reach bin = reach[regions.bins_y + q];
                    if ((regions.rules.sensitive && q != only_q) || at.w < bin.low || at.w > bin.high) continue;
                    const C weight = weight_at(columns, q, at.w);
                    if (weight == C(0)) continue;
                    part = fma_scalar(weight, widen(s.gy[s.gy_strides.at(r, c, p, q)]), part);
                    any = true;
                }
                if (any) sum = fma_scalar(of_row, part, sum);
            }
        }
        s.gx[s.gx_strides.at(at.n, at.c, at.h, at.w)] = narrow<T>(sum);
    });
}

template <class T> void gather_of_regions(Context& context, const RegionRules& rules, const Tensor& gy,
                                          const Tensor& boxes_operand, const Tensor& gx) {
    using C = Compute<T>;
    if (gx.size() == 0) return; // one of several levels
    const Dense<C> boxes(context, boxes_operand);
    const Regions<C> regions = regions_of<T>(rules, boxes, gx, gy);
    int* const images = context.scratch<int>(larger(regions.count, 1));
    Reach* const bins = context.scratch<Reach>(larger(regions.count, 1) * (regions.bins_y + regions.bins_x));
    Reach* const whole = context.scratch<Reach>(2 * larger(regions.count, 1));
    if (regions.count)
        MMK_LAUNCH(context, (find_reach<C>), grid_of(ceil_div(2 * regions.count, threads)), threads, 0, regions, images,
                   bins, whole);
    Shares<T> s{regions,
                static_cast<const T*>(gy.data),
                static_cast<T*>(gx.data),
                Strides4(gy),
                Strides4(gx),
                gx.extent[1],
                images,
                bins,
                whole,
                0,
                0,
                0,
                0,
                0};
    const int64_t bins_along = larger(regions.bins_y, regions.bins_x);
    if (bins_along > most_bins) {
        context.chose("many bins", "their weights have no room on chip");
        const Order4 order(gx, has_channels_last(gx), 1);
        MMK_LAUNCH(context, (gather_many_bins<T>), grid_of_places(order), place_threads, 0, s, order);
        return;
    }
    context.chose("squares", "sixteen by sixteen elements of eight channels per block");
    s.tiles_y = ceil_div(regions.height, side), s.tiles_x = ceil_div(regions.width, side);
    s.parts = ceil_div(s.planes, each);
    s.stride = int(bins_along) | 1; // odd: lines lie in different banks
    s.group = int(smaller(larger(table_size / (lines * s.stride), 1), threads / lines));
    const int64_t tasks = regions.images * s.tiles_y * s.tiles_x * s.parts,
                  bytes = s.group * lines * s.stride * int64_t(sizeof(C));
    if (rules.sensitive)
        MMK_LAUNCH(context, (gather_shares<T, true>), grid_of(tasks), threads, size_t(bytes), s, tasks);
    else
        MMK_LAUNCH(context, (gather_shares<T, false>), grid_of(tasks), threads, size_t(bytes), s, tasks);
}

template <class Op> void gather_to_map(const Op& op, Context& context, const RegionRules& rules) {
    visit_storage(op.gx.dtype, [&](auto type) {
        gather_of_regions<typename decltype(type)::type>(context, rules, op.gy, op.boxes, op.gx);
    });
}

} // namespace

void roi_align_grad(const RoiAlignGrad& op, Context& context) { gather_to_map(op, context, sampling_rules(op)); }
void ps_roi_align_grad(const PsRoiAlignGrad& op, Context& context) {
    gather_to_map(op, context, sensitive_sampling_rules(op));
}
void ps_roi_pool_grad(const PsRoiPoolGrad& op, Context& context) {
    gather_to_map(op, context, window_rules(op.spatial_scale, true));
}
// Every level gathers from the regions that are its own.
void multi_scale_roi_align_grad(const MultiScaleRoiAlignGrad& op, Context& context) {
    const Tensor* const maps[] = {&op.gx0, &op.gx1, &op.gx2, &op.gx3, &op.gx4};
    visit_storage(op.gy.dtype, [&](auto type) {
        using T = typename decltype(type)::type;
        for (int64_t k = 0; k < op.levels; ++k)
            gather_of_regions<T>(context, level_rules(op, k), op.gy, op.boxes, *maps[k]);
    });
}

} // namespace mmk::cuda
