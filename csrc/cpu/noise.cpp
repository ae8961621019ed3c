#include "../ops/noise.h"

#include "../core/layout.h"
#include "../core/philox.h"

namespace mmk::cpu::MMK_ISA {

using namespace mmk::MMK_ISA;

namespace {

constexpr int64_t grain = 8192; // elements for which a second thread pays: about 8 us
constexpr int64_t block = 1024; // elements of one sample that stay together

// fill(key, first counter, four vectors): 64 elements.
template <class Fill> void draw(const PhiloxDraw& op, Context& context, Fill fill) {
    const DenseOut<float> out(context, op.y);
    const uint64_t* const keys = static_cast<const uint64_t*>(op.keys.data);
    const int64_t samples = op.keys.extent[0], stride = op.keys.stride[0], size = op.y.size() / samples;
    const int64_t blocks = (size + block - 1) / block;
    const int64_t blocks_per_grain = 1 + grain / (1 + (size < block ? size : block));
    parallel_ranges(context, samples * blocks, blocks_per_grain, [&](int64_t begin, int64_t end, int) {
        for (int64_t index = begin; index < end; ++index) {
            const int64_t sample = index / blocks, first = index % blocks * block;
            const int64_t last = first + block < size ? first + block : size;
            const PhiloxKey key(keys[sample * stride]);
            float* const y = out + sample * size;
            for (int64_t i = first; i < last; i += philox_block) {
                F32x16 values[4];
                fill(key, uint64_t(op.offset) + uint64_t(i) / 4, values);
                for (int j = 0; j < 4 && i + j * lanes < last; ++j)
                    values[j].store(y + i + j * lanes, last - i - j * lanes);
            }
        }
    });
}

} // namespace

void philox4x32(const Philox& op, Context& context) {
    const Dense<uint32_t> counter(context, op.counter), key(context, op.key);
    const DenseOut<uint32_t> words(context, op.words);
    parallel_ranges(context, op.words.extent[0], 1024, [&](int64_t begin, int64_t end, int) {
        for (int64_t n = begin; n < end; ++n) mmk::MMK_ISA::philox4x32(counter + 4 * n, key + 2 * n, words + 4 * n);
    });
}
void philox_fold_in(const PhiloxFold& op, Context& context) {
    const Dense<uint64_t> key(context, op.key), data(context, op.data);
    const DenseOut<uint64_t> folded(context, op.folded);
    parallel_ranges(context, op.folded.size(), 1024, [&](int64_t begin, int64_t end, int) {
        for (int64_t n = begin; n < end; ++n) folded[n] = mmk::MMK_ISA::philox_fold_in(key[n], data[n]);
    });
}
void philox_uniform(const PhiloxDraw& op, Context& context) {
    draw(op, context, [](const PhiloxKey& key, uint64_t counter, F32x16(&values)[4]) {
        mmk::MMK_ISA::philox_uniform(key, counter, values);
    });
}
void philox_normal(const PhiloxDraw& op, Context& context) {
    draw(op, context, [](const PhiloxKey& key, uint64_t counter, F32x16(&values)[4]) {
        mmk::MMK_ISA::philox_normal(key, counter, values);
    });
}

} // namespace mmk::cpu::MMK_ISA
