// What the kernels over regions of interest share: boxes as regions of a map, and the bins' reach.
#pragma once

#include "../core/regions.h"
#include "../ops/roi.h"
#include "places4.cuh"

namespace mmk::cuda {

// The map, the bins and the boxes of a call; B is what the boxes are in.
template <class B> struct Regions {
    RegionRules rules;
    const B* boxes; // [count][5]
    int64_t count, images, height, width, bins_y, bins_x;

    MMK_MEMBER bool taken(int64_t r) const { return rules.takes(boxes + 5 * r + 1); }
    MMK_MEMBER int64_t image(int64_t r) const { return index_of(boxes[5 * r], images); }
    MMK_MEMBER RegionAxis<B> rows(int64_t r) const {
        return RegionAxis<B>(rules, boxes[5 * r + 2], boxes[5 * r + 4], bins_y, height);
    }
    MMK_MEMBER RegionAxis<B> columns(int64_t r) const {
        return RegionAxis<B>(rules, boxes[5 * r + 1], boxes[5 * r + 3], bins_x, width);
    }
};
template <class T> Regions<Compute<T>> regions_of(const RegionRules& rules, const Compute<T>* boxes, const Tensor& map,
                                                  const Tensor& result) {
    return {rules,         boxes,         result.extent[0], map.extent[0],
            map.extent[2], map.extent[3], result.extent[2], result.extent[3]};
}

} // namespace mmk::cuda
