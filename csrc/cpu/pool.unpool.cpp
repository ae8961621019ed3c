// Maximum unpooling: each element from the last window that chose it, and back.
#include "../ops/pool.h"

#include "pool.lines.h"

namespace mmk::cpu::MMK_ISA {
namespace {

constexpr int64_t grain = 16384; // elements for which a second thread pays

void max_unpool(const MaxUnpool& op, Context& context) {
    const int64_t planes = op.y.size(0, 2), size = op.y.size(2, op.y.rank), windows = op.x.size(2, op.x.rank);
    const Dense<int64_t> indices(context, op.indices);
    visit_float(op.y.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Dense<T> x(context, op.x);
        const DenseOut<T> y(context, op.y);
        parallel_ranges(context, planes, 1 + grain / (1 + size + windows), [&](int64_t begin, int64_t end, int) {
            std::memset(y + begin * size, 0, size_t((end - begin) * size) * sizeof(T));
            for (int64_t plane = begin; plane < end; ++plane) {
                const int64_t* const index = indices + plane * windows;
                const T* const from = x + plane * windows;
                T* const to = y + plane * size;
                for (int64_t i = 0; i < windows; ++i) // a later window overwrites an earlier one
                    if (uint64_t(index[i]) < uint64_t(size)) to[index[i]] = from[i];
            }
        });
    });
}

} // namespace

void max_unpool1d(const MaxUnpool& op, Context& context) { max_unpool(op, context); }
void max_unpool2d(const MaxUnpool& op, Context& context) { max_unpool(op, context); }
void max_unpool3d(const MaxUnpool& op, Context& context) { max_unpool(op, context); }

void max_unpool_grad(const MaxUnpoolGrad& op, Context& context) {
    const int64_t planes = op.gx.size(0, 2), size = op.gy.size(2, op.gy.rank), windows = op.gx.size(2, op.gx.rank);
    const Dense<int64_t> indices(context, op.indices);
    int64_t* const scratch = context.scratch<int64_t>(size * context.threads);
    visit_float(op.gx.dtype, [&](auto zero) {
        using T = decltype(zero);
        const Dense<T> gy(context, op.gy);
        const DenseOut<T> gx(context, op.gx);
        parallel_ranges(context, planes, 1 + grain / (1 + size + windows), [&](int64_t begin, int64_t end, int worker) {
            int64_t* const last = scratch + worker * size; // window that chose an element, where one did
            for (int64_t plane = begin; plane < end; ++plane) {
                const int64_t* const index = indices + plane * windows;
                const T* const from = gy + plane * size;
                T* const to = gx + plane * windows;
                const auto inside = [&](int64_t i) { return uint64_t(index[i]) < uint64_t(size); };
                for (int64_t i = 0; i < windows; ++i)
                    if (inside(i)) last[index[i]] = i;
                for (int64_t i = 0; i < windows; ++i) to[i] = inside(i) && last[index[i]] == i ? from[index[i]] : T(0);
            }
        });
    });
}

} // namespace mmk::cpu::MMK_ISA
