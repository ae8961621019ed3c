#include "../ops/noise.h"

#include "../core/philox.h"
#include "elementwise.cuh"
#include "samples.cuh"

namespace mmk::cuda {
namespace {

constexpr int threads = 256;

// The four words of a counter: one access of 16 bytes each way, if the addresses allow it.
template <bool packed> __global__ void __launch_bounds__(threads)
    counters(const uint32_t* counter, const uint32_t* key, int64_t key_row, int64_t key_column, uint32_t* words,
             int64_t count) {
    for (int64_t n = int64_t(blockIdx.x) * threads + threadIdx.x; n < count; n += int64_t(gridDim.x) * threads) {
        const uint32_t k[2] = {key[n * key_row], key[n * key_row + (MMK_DEFECT(noise_low_key) ? 0 : key_column)]};
        Pack<uint32_t, 4> c;
        load_some<packed>(c, counter + 4 * n, 4);
        philox4x32(c.at, k, c.at);
        store_some<packed>(words + 4 * n, c, 4);
    }
}

struct FoldIn {
    __device__ uint64_t operator()(uint64_t key, uint64_t data) const { return philox_fold_in(key, data); }
};

struct Uniform {
    static MMK_MEMBER void draw(uint64_t key, uint64_t counter, float (&out)[4]) { philox_uniform(key, counter, out); }
};
struct Normal {
    static MMK_MEMBER void draw(uint64_t key, uint64_t counter, float (&out)[4]) { philox_normal(key, counter, out); }
};

// A thread makes the four elements of a counter.
template <class Law, bool packed> __global__ void __launch_bounds__(deal_threads)
    draw_samples(Deal deal, const uint64_t* keys, int64_t key_stride, uint64_t offset, float* y) {
    for_dealt<4>(deal, [&](int64_t sample, int64_t i, int64_t step, int64_t end) {
        const uint64_t key = keys[MMK_DEFECT(noise_first_key) ? 0 : sample * key_stride];
        for (; i < end; i += step) {
            Pack<float, 4> values;
            Law::draw(key, offset + uint64_t(i) / 4, values.at);
            const int64_t left = deal.size - i + (MMK_DEFECT(noise_ragged_end) ? 1 : 0);
            store_some<packed>(y + sample * deal.size + i, values, left);
        }
    });
}

template <class Law> void draw(const PhiloxDraw& op, Context& context) {
    const int64_t samples = op.keys.extent[0], size = op.y.size() / samples;
    const uint64_t* const keys = static_cast<const uint64_t*>(op.keys.data);
    DenseOut<float> y(context, op.y);
    const Deal deal = deal_out(context, samples, size, 4);
    if (aligned(y, 16) && (size % 4 == 0 || samples == 1)) {
        context.chose("packed", "samples are whole counters");
        MMK_LAUNCH(context, (draw_samples<Law, true>), grid_of(deal.blocks), deal_threads, 0, deal, keys,
                   op.keys.stride[0], uint64_t(op.offset), y.get());
    } else {
        context.chose("ragged", "a sample ends within a counter");
        MMK_LAUNCH(context, (draw_samples<Law, false>), grid_of(deal.blocks), deal_threads, 0, deal, keys,
                   op.keys.stride[0], uint64_t(op.offset), y.get());
    }
    y.finish();
}

} // namespace

void philox4x32(const Philox& op, Context& context) {
    const Dense<uint32_t> counter(context, op.counter);
    DenseOut<uint32_t> words(context, op.words);
    const int64_t count = op.words.extent[0];
    const uint32_t* const key = static_cast<const uint32_t*>(op.key.data);
    const int64_t row = op.key.extent[0] == 1 ? 0 : op.key.stride[0], column = op.key.stride[1];
    const dim3 grid = grid_of(ceil_div(count, threads));
    if (aligned(counter, 16) && aligned(words, 16))
        MMK_LAUNCH(context, (counters<true>), grid, threads, 0, counter.get(), key, row, column, words.get(), count);
    else
        MMK_LAUNCH(context, (counters<false>), grid, threads, 0, counter.get(), key, row, column, words.get(), count);
    words.finish();
}
void philox_fold_in(const PhiloxFold& op, Context& context) {
    map<uint64_t, uint64_t, uint64_t>(context, FoldIn(), op.folded, op.key, op.data);
}
void philox_uniform(const PhiloxDraw& op, Context& context) { draw<Uniform>(op, context); }
void philox_normal(const PhiloxDraw& op, Context& context) { draw<Normal>(op, context); }

} // namespace mmk::cuda
