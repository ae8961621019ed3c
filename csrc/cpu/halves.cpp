#include "../core/halves.h"

#include "../core/half.h"

namespace mmk::cpu::MMK_ISA {
namespace {

constexpr int64_t grain = 16384; // elements for which a second thread pays

// to[i] = f(from[i])
template <class From, class To, class F>
void each(Context& context, const From* from, To* to, int64_t count, const F& f) {
    parallel_ranges(context, count, grain, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) to[i] = f(from[i]);
    });
}

} // namespace

void widen(const Widen& op, Context& context) {
    if (op.ieee)
        each(context, op.from, op.to, op.count, [](uint16_t bits) { return widen_bits(float16{bits}); });
    else
        each(context, op.from, op.to, op.count, [](uint16_t bits) { return widen_bits(bfloat16{bits}); });
}
void narrow(const Narrow& op, Context& context) {
    if (op.ieee)
        each(context, op.from, op.to, op.count, [](float x) { return round_to_float16(x).bits; });
    else
        each(context, op.from, op.to, op.count, [](float x) { return round_to_bfloat16(x).bits; });
}

} // namespace mmk::cpu::MMK_ISA
