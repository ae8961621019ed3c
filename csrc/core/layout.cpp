#include "layout.h"

#include <algorithm>
#include <cstring>

namespace mmk {
namespace {

struct Loop {
    int64_t count, to, from; // strides in elements
};

// Drops extents of one, orders loops by the target's stride, and joins neighbours that walk on in both arrays.
int simplify(const Tensor& to, const Tensor& from, Loop* loops) {
    int n = 0;
    for (int i = 0; i < to.rank; ++i)
        if (to.extent[i] != 1) loops[n++] = {to.extent[i], to.stride[i], from.stride[i]};
    std::sort(loops, loops + n, [](const Loop& a, const Loop& b) { return std::abs(a.to) > std::abs(b.to); });
    int kept = 0;
    for (int i = 0; i < n; ++i) {
        Loop& outer = loops[kept ? kept - 1 : 0];
        const Loop& inner = loops[i];
        if (kept && outer.to == inner.to * inner.count && outer.from == inner.from * inner.count)
            outer = {outer.count * inner.count, inner.to, inner.from};
        else
            loops[kept++] = inner;
    }
    return kept;
}

template <class T> void copy_row(T* to, const T* from, Loop loop) {
    if (loop.to == 1 && loop.from == 1)
        std::memcpy(to, from, size_t(loop.count) * sizeof(T));
    else
        for (int64_t i = 0; i < loop.count; ++i) to[i * loop.to] = from[i * loop.from];
}

// Two loops of which one is dense in the target and the other in the source: 16 x 16 blocks keep both in cache.
template <class T> void copy_plane(T* to, const T* from, Loop a, Loop b) {
    constexpr int64_t block = 16;
    for (int64_t i = 0; i < a.count; i += block)
        for (int64_t j = 0; j < b.count; j += block)
            for (int64_t k = i; k < std::min(i + block, a.count); ++k)
                copy_row(to + k * a.to + j * b.to, from + k * a.from + j * b.from,
                         {std::min(block, b.count - j), b.to, b.from});
}

template <class T> void copy_typed(Context& context, const Tensor& to_tensor, const Tensor& from_tensor) {
    T* const to = static_cast<T*>(to_tensor.data);
    const T* const from = static_cast<const T*>(from_tensor.data);
    Loop loops[max_rank];
    const int n = simplify(to_tensor, from_tensor, loops);
    if (n == 0) {
        *to = *from;
        return;
    }
    // The innermost two loops make a plane when a row alone would jump through the source; the rest is outer.
    const bool plane = n >= 2 && loops[n - 1].from != 1;
    const int inner = plane ? 2 : 1;
    int64_t outer = 1;
    for (int i = 0; i < n - inner; ++i) outer *= loops[i].count;
    int64_t inner_size = loops[n - 1].count * (plane ? loops[n - 2].count : 1);
    parallel_ranges(context, outer, std::max<int64_t>(1, 16384 / inner_size), [&](int64_t begin, int64_t end, int) {
        for (int64_t index = begin; index < end; ++index) {
            int64_t rest = index, to_offset = 0, from_offset = 0;
            for (int i = n - inner - 1; i >= 0; --i) {
                const int64_t k = rest % loops[i].count;
                rest /= loops[i].count;
                to_offset += k * loops[i].to;
                from_offset += k * loops[i].from;
            }
            if (plane)
                copy_plane(to + to_offset, from + from_offset, loops[n - 2], loops[n - 1]);
            else
                copy_row(to + to_offset, from + from_offset, loops[n - 1]);
        }
    });
}

} // namespace

void copy_strided(Context& context, const Tensor& to, const Tensor& from) {
    if (to.size() == 0) return;
    switch (itemsize(to.dtype)) {
    case 1: return copy_typed<uint8_t>(context, to, from);
    case 2: return copy_typed<uint16_t>(context, to, from);
    case 4: return copy_typed<uint32_t>(context, to, from);
    case 8: return copy_typed<uint64_t>(context, to, from);
    }
}

Tensor contiguous_scratch(Context& context, const Tensor& like) {
    Tensor t = contiguous_like(like);
    t.data = context.scratch_bytes(t.size() * itemsize(t.dtype));
    return t;
}

void* pack(Context& context, const Tensor& x) {
    const Tensor t = contiguous_scratch(context, x);
    copy_strided(context, t, x);
    return t.data;
}

} // namespace mmk
