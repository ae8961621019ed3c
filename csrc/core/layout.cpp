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

// n x n elements turned, n to a register of 16 bytes, by interleaving the rows of either half log2(n) times.
template <class T> void turn_square(T* to, int64_t to_pitch, const T* from, int64_t from_pitch) {
    typedef T Row __attribute__((vector_size(16)));
    constexpr int n = int(16 / sizeof(T));
    Row row[n], mixed[n];
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) std::memcpy(&row[i], from + i * from_pitch, sizeof(Row));
#pragma GCC unroll 4
    for (int round = 1; round < n; round *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < n / 2; ++i) {
            const Row a = row[i], b = row[i + n / 2];
            if constexpr (n == 4) {
                mixed[2 * i] = __builtin_shufflevector(a, b, 0, 4, 1, 5);
                mixed[2 * i + 1] = __builtin_shufflevector(a, b, 2, 6, 3, 7);
            } else if constexpr (n == 8) {
                mixed[2 * i] = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
                mixed[2 * i + 1] = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
            } else {
                mixed[2 * i] = __builtin_shufflevector(a, b, 0, 2);
                mixed[2 * i + 1] = __builtin_shufflevector(a, b, 1, 3);
            }
        }
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i) row[i] = mixed[i];
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) std::memcpy(to + i * to_pitch, &row[i], sizeof(Row));
}

// At most 16 x 16 elements, a's count by b's.
template <class T> void copy_block(T* to, const T* from, Loop a, Loop b) {
    int64_t turned = 0; // rows that are done
    if constexpr (sizeof(T) > 1) {
        constexpr int64_t n = 16 / sizeof(T);
        if (b.to == 1 && a.from == 1 && b.count % n == 0)
            for (; turned + n <= a.count; turned += n)
                for (int64_t j = 0; j < b.count; j += n)
                    turn_square(to + turned * a.to + j, a.to, from + turned + j * b.from, b.from);
    }
    for (int64_t k = turned; k < a.count; ++k) copy_row(to + k * a.to, from + k * a.from, b);
}
// Two loops of which one is dense in the target and the other in the source: 16 x 16 blocks keep both in cache.
template <class T> void copy_plane(T* to, const T* from, Loop a, Loop b) {
    constexpr int64_t block = 16;
    for (int64_t i = 0; i < a.count; i += block)
        for (int64_t j = 0; j < b.count; j += block)
            copy_block(to + i * a.to + j * b.to, from + i * a.from + j * b.from,
                       {std::min(block, a.count - i), a.to, a.from}, {std::min(block, b.count - j), b.to, b.from});
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
    // The innermost two loops make a plane when a row alone would jump through the source: the row's and, of the others,
    // one that is dense in the source if there is one. The rest is outer.
    const bool plane = n >= 2 && loops[n - 1].from != 1;
    for (int i = 0; plane && i < n - 2; ++i)
        if (loops[i].from == 1) std::swap(loops[i], loops[n - 2]);
    const int inner = plane ? 2 : 1;
    int64_t outer = 1;
    for (int i = 0; i < n - inner; ++i) outer *= loops[i].count;
    // Where the rest is little, the plane's rows, or a row's elements, are dealt out in pieces.
    const Loop dealt = loops[n - inner];
    const int64_t piece = plane ? 64 : 16384, pieces = (dealt.count + piece - 1) / piece;
    const int64_t size = std::min(piece, dealt.count) * (plane ? loops[n - 1].count : 1);
    const int64_t grain = std::max<int64_t>(1, 16384 / size);
    parallel_ranges(context, outer * pieces, grain, [&](int64_t begin, int64_t end, int) {
        for (int64_t task = begin; task < end; ++task) {
            const int64_t first = task % pieces * piece;
            const Loop part{std::min(piece, dealt.count - first), dealt.to, dealt.from};
            int64_t rest = task / pieces, to_offset = first * dealt.to, from_offset = first * dealt.from;
            for (int i = n - inner - 1; i >= 0; --i) {
                const int64_t k = rest % loops[i].count;
                rest /= loops[i].count;
                to_offset += k * loops[i].to;
                from_offset += k * loops[i].from;
            }
            if (plane)
                copy_plane(to + to_offset, from + from_offset, part, loops[n - 1]);
            else
                copy_row(to + to_offset, from + from_offset, part);
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
