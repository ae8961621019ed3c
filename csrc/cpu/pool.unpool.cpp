// Maximum unpooling: each element from the last window that chose it, and back.
#include "../ops/pool.h"

#include "pool.lines.h"

namespace mmk::cpu::MMK_ISA {
namespace {

constexpr int64_t grain = 16384; // elements for which a second thread pays

// body(plane, last): last[i] is the last window that chose element i of the plane, -1 if none did.
template <class Body> void with_last_windows(Context& context, const Tensor& indices, int64_t size, Body&& body) {
    const int64_t planes = indices.size(0, 2), windows = indices.size(2, indices.rank);
    const Dense<int64_t> chosen(context, indices);
    int64_t* const scratch = context.scratch<int64_t>(size * context.threads);
    parallel_ranges(context, planes, 1 + grain / (1 + size + windows), [&](int64_t begin, int64_t end, int worker) {
        int64_t* const last = scratch + worker * size;
        for (int64_t plane = begin; plane < end; ++plane) {
            const int64_t* const index = chosen + plane * windows;
            for (int64_t i = 0; i < size; ++i) last[i] = -1;
            for (int64_t i = 0; i < windows; ++i)
                if (uint64_t(index[i]) < uint64_t(size)) last[index[i]] = i;
            body(plane, last);
        }
    });
}

void max_unpool(const MaxUnpool& op, Context& context) {
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Dense<T> x(context, op.x);
        const DenseOut<T> y(context, op.y);
        const int64_t size = op.y.size(2, op.y.rank), windows = op.x.size(2, op.x.rank);
        with_last_windows(context, op.indices, size, [&](int64_t plane, const int64_t* last) {
            T* const to = y + plane * size;
            for (int64_t i = 0; i < size; ++i) to[i] = last[i] < 0 ? T(0) : x[plane * windows + last[i]];
        });
    });
}

} // namespace

void max_unpool1d(const MaxUnpool& op, Context& context) { max_unpool(op, context); }
void max_unpool2d(const MaxUnpool& op, Context& context) { max_unpool(op, context); }
void max_unpool3d(const MaxUnpool& op, Context& context) { max_unpool(op, context); }

void max_unpool_grad(const MaxUnpoolGrad& op, Context& context) {
    visit_float(op.gx.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Dense<T> gy(context, op.gy);
        const DenseOut<T> gx(context, op.gx);
        const int64_t size = op.gy.size(2, op.gy.rank), windows = op.gx.size(2, op.gx.rank);
        with_last_windows(context, op.indices, size, [&](int64_t plane, const int64_t* last) {
            T* const to = gx + plane * windows;
            for (int64_t i = 0; i < windows; ++i) to[i] = 0;
            for (int64_t i = 0; i < size; ++i)
                if (last[i] >= 0) to[last[i]] = gy[plane * size + i];
        });
    });
}

} // namespace mmk::cpu::MMK_ISA
