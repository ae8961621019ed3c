// The input gradient, which is a transposed convolution: gy is called x here, as in the latter, and gx is y.
#include "conv.correlation.h"

namespace mmk::cpu::MMK_ISA {

namespace {

template <class T> bool all_finite(const T* x, int64_t count) {
    Vec<T> sum = Vec<T>::zero(); // 0 * x is 0, or NaN where x is not finite
    for (int64_t i = 0; i < count; i += lanes) sum = fma(Vec<T>::load(x + i, count - i), Vec<T>::zero(), sum);
    return sum_lanes(sum) == T(0);
}

// One axis: result h and input p meet in tap r where p * step + r * dilation = h + before.
struct TransposedAxis {
    int64_t inputs, results, taps, step, dilation, before;

    MMK_MEMBER TransposedAxis(const ConvTranspose3d& op, int axis)
        : inputs(op.x.extent[2 + axis]), results(op.y.extent[2 + axis]), taps(op.weight.extent[2 + axis]),
          step(op.stride[axis]), dilation(op.dilation[axis]), before(op.padding[2 * axis]) {
        // Of a single input the stride does not matter: one so long that every result has a residue of its own, and
        // with it the one tap that it meets, spares the products with zeros.
        if (inputs == 1) step = results + before + taps * dilation;
    }
    // -1: none
    MMK_MEMBER int64_t input(int64_t result, int64_t tap) const {
        const int64_t p = result + before - tap * dilation;
        return p < 0 || p % step || p / step >= inputs ? -1 : p / step;
    }
    MMK_MEMBER int64_t residues() const { return smaller(step, results); }
    // The residue of the results that a tap meets.
    MMK_MEMBER int64_t residue(int64_t tap) const {
        const int64_t h = tap * dilation - before;
        return h - floor_divide(h, step) * step;
    }
    MMK_MEMBER int64_t results_of(int64_t residue) const { return (results - residue - 1) / step + 1; }
    // Inputs that some result meets, in the border or not.
    MMK_MEMBER int64_t first() const { return floor_divide(before - (taps - 1) * dilation, step); }
    MMK_MEMBER int64_t last() const { return (results - 1 + before) / step; }
    // Of the first result of a tap's residue.
    MMK_MEMBER int64_t offset(int64_t tap) const { return (residue(tap) + before - tap * dilation) / step - first(); }
    MMK_MEMBER Axis bordered() const { return {inputs, -first(), last() - first() + 1, 1, 1, 1}; }
};

// The definition, tap by tap, for weights by which a zero may not be multiplied.
template <class T>
void by_definition(const ConvTranspose3d& op, Context& context, const T* x, const T* weight, const Finish<T>& finish) {
    const int64_t outputs = op.weight.extent[1], inputs = op.x.extent[1] / op.groups, taps = op.weight.size(2, 5);
    const TransposedAxis depth(op, 0), rows(op, 1), columns(op, 2);
    const int64_t channels = chunk_channels(taps), volume = op.x.size(2, 5);
    T* const sums = context.scratch<T>(context.threads * columns.results);
    context.chose("direct, tap by tap", "a weight is not finite");
    const auto result = [&](const T* from, const T* filters, int64_t d, int64_t h, int64_t w) {
        T total = T(0);
        for (int64_t k0 = 0; k0 < inputs; k0 += channels) {
            T sum = T(0);
            for (int64_t k = k0; k < smaller(inputs, k0 + channels); ++k)
                for (int64_t tap = 0; tap < taps; ++tap) {
                    const int64_t o = depth.input(d, tap / columns.taps / rows.taps);
                    const int64_t p = rows.input(h, tap / columns.taps % rows.taps);
                    const int64_t q = columns.input(w, tap % columns.taps);
                    if (o < 0 || p < 0 || q < 0) continue;
                    sum = fma_scalar(from[k * volume + (o * rows.inputs + p) * columns.inputs + q],
                                     filters[k * outputs * taps + tap], sum);
                }
            total = k0 == 0 ? sum : total + sum;
        }
        return total;
    };
    parallel_for(context, op.y.size(0, 4), [&](int64_t row, int worker) {
        const int64_t plane = row / rows.results / depth.results, d = row / rows.results % depth.results;
        const int64_t n = plane / (outputs * op.groups), channel = plane % (outputs * op.groups);
        const int64_t g = channel / outputs;
        const T* const from = x + (n * op.groups + g) * inputs * volume;
        const T* const filters = weight + (g * inputs * outputs + channel % outputs) * taps;
        T* const mine = sums + worker * columns.results;
        for (int64_t w = 0; w < columns.results; ++w) mine[w] = result(from, filters, d, row % rows.results, w);
        visit_activation(finish.activation, [&](auto activate) {
            finish_run(finish, mine, row * columns.results, 1, columns.results,
                       finish.bias ? finish.bias[channel] : T(0), activate);
        });
    });
}

// The results of one residue modulo the strides: a correlation of stride 1 with the taps that meet them.
struct Residue {
    int64_t begin = 0, taps = 0; // in the tables of taps, which lie residue by residue, each in the taps' order
};
struct Residues {
    int64_t count, taps;
    int64_t used = 0; // taps that some result meets
    Residue* residue;
    int64_t* tap;    // its number
    int64_t* offset; // from the place of a pixel of its residue
    int64_t* owner;  // its residue

    MMK_MEMBER Residues(Context& context, const TransposedAxis (&axis)[3], const Planes& planes)
        : count(axis[0].residues() * axis[1].residues() * axis[2].residues()),
          taps(axis[0].taps * axis[1].taps * axis[2].taps), residue(context.scratch<Residue>(count)),
          tap(context.scratch<int64_t>(taps)), offset(context.scratch<int64_t>(taps)),
          owner(context.scratch<int64_t>(taps)) {
        const auto of = [&](int64_t index, int64_t& place) {
            const int64_t part[3] = {index / axis[2].taps / axis[1].taps, index / axis[2].taps % axis[1].taps,
                                     index % axis[2].taps};
            int64_t at = 0;
            place = 0;
            for (int i = 0; i < 3; ++i) {
                if (axis[i].residue(part[i]) >= axis[i].residues()) return int64_t(-1); // no result has it
                at = at * axis[i].residues() + axis[i].residue(part[i]);
                place += axis[i].offset(part[i]) * (i == 0 ? planes.slice() : i == 1 ? planes.pitch() : 1);
            }
            return at;
        };
        int64_t place;
        for (int64_t i = 0; i < count; ++i) residue[i] = {};
        for (int64_t i = 0; i < taps; ++i)
            if (const int64_t at = of(i, place); at >= 0) ++residue[at].taps;
        for (int64_t i = 1; i < count; ++i) residue[i].begin = residue[i - 1].begin + residue[i - 1].taps;
        for (int64_t i = 0; i < count; ++i) residue[i].taps = 0;
        for (int64_t i = 0; i < taps; ++i)
            if (const int64_t at = of(i, place); at >= 0) {
                const int64_t entry = residue[at].begin + residue[at].taps++;
                tap[entry] = i, offset[entry] = place, owner[entry] = at, ++used;
            }
    }
};

// Weights [group][input][output][tap], each used by one residue: [residue][group][panel][input][tap][width].
template <class T>
T* pack_residues(Context& context, const Residues& residues, const Correlation<T>& c, int64_t inputs, const T* weight) {
    const int64_t taps = residues.taps, panels = c.groups * c.panels();
    T* const packed = context.scratch<T>(panels * inputs * taps * ProductShape<T>::width);
    T* const turned = context.scratch<T>(context.threads * taps * ProductShape<T>::width);
    const auto pack = [&](int64_t g, int64_t n0, int64_t count, int64_t width, int64_t index, int worker) {
        T* const mine = turned + worker * taps * ProductShape<T>::width;
        for (int64_t k = 0; k < inputs; ++k) {
            const T* const from = weight + ((g * inputs + k) * c.outputs + n0) * taps;
            if (residues.residue->taps == taps) { // as with a stride of 1: all taps, in order
                pack_panel(from, 1, taps, taps, count, width,
                           packed + index * taps * inputs * ProductShape<T>::width + k * taps * width);
                continue;
            }
            pack_panel(from, 1, taps, taps, count, width, mine);
            for (int64_t entry = 0; entry < residues.used; ++entry) {
                const Residue& r = residues.residue[residues.owner[entry]];
                T* const to = packed + (r.begin * panels + index * r.taps) * inputs * ProductShape<T>::width +
                              (k * r.taps + entry - r.begin) * width;
                for (int64_t j = 0; j < width; j += lanes)
                    Vec<T>::load(mine + residues.tap[entry] * width + j).store(to + j);
            }
        }
    };
    pack_panels<T>(context, c.groups, c.outputs, pack);
    return packed;
}
// For lanes along pixels: [residue][group][output][input][tap].
template <class T>
T* sort_residues(Context& context, const Residues& residues, const Correlation<T>& c, int64_t inputs, const T* weight) {
    const int64_t taps = residues.taps, all = c.groups * c.outputs;
    T* const sorted = context.scratch<T>(all * inputs * taps);
    for (int64_t i = 0; i < residues.count; ++i) {
        const Residue& r = residues.residue[i];
        T* to = sorted + r.begin * all * inputs;
        for (int64_t g = 0; g < c.groups; ++g)
            for (int64_t n = 0; n < c.outputs; ++n)
                for (int64_t k = 0; k < inputs; ++k)
                    for (int64_t entry = r.begin; entry < r.begin + r.taps; ++entry)
                        *to++ = weight[((g * inputs + k) * c.outputs + n) * taps + residues.tap[entry]];
    }
    return sorted;
}

template <class T> void transposed(ConvTranspose3d op, Context& context) {
    op.x = factors(context, op.x, op.algorithm), op.weight = factors(context, op.weight, op.algorithm);
    const int64_t inputs = op.x.extent[1] / op.groups, image = op.y.size(3, 5), volume = op.y.size(2, 5);
    const TransposedAxis axis[3] = {{op, 0}, {op, 1}, {op, 2}};
    const Dense<T> weight(context, op.weight), bias(context, op.bias);
    const DenseOut<T> out(context, op.y);
    Correlation<T> c;
    c.finish = {out, bias, nullptr, volume, op.activation};
    if (!all_finite(weight.get(), op.weight.size())) {
        const Dense<T> x(context, op.x);
        return by_definition<T>(op, context, x, weight, c.finish);
    }
    const Planes planes{axis[0].bordered(), axis[1].bordered(), axis[2].bordered()};
    c.samples = op.x.extent[0], c.groups = op.groups, c.outputs = op.weight.extent[1];
    c.source = bordered<T>(context, op.x, planes);
    c.sample = op.x.extent[1] * planes.size(), c.group = inputs * planes.size();
    c.slice = planes.slice(), c.pitch = planes.pitch();
    c.y_sample = op.y.extent[1] * volume, c.y_slice = axis[0].step * image;
    c.y_row = axis[1].step * axis[2].results, c.y_column = axis[2].step;

    const Residues residues(context, axis, planes);
    const bool pixels = c.outputs <= few_outputs;
    const T* const weights = pixels ? sort_residues<T>(context, residues, c, inputs, weight)
                                    : pack_residues<T>(context, residues, c, inputs, weight);
    if (pixels)
        context.chose("direct, lanes along pixels", "a group has few channels in its result");
    else
        context.chose("direct, lanes along output channels", "a group has many channels in its result");
    int64_t* const offset = context.scratch<int64_t>(inputs * residues.taps);
    c.offset = offset;
    for (int64_t i = 0; i < residues.count; ++i) {
        const Residue& r = residues.residue[i];
        const int64_t a = i / axis[2].residues() / axis[1].residues(), b = i / axis[2].residues() % axis[1].residues();
        const int64_t e = i % axis[2].residues();
        c.slices = axis[0].results_of(a), c.rows = axis[1].results_of(b), c.columns = axis[2].results_of(e);
        c.y_origin = a * image + b * axis[2].results + e;
        c.depth = inputs * r.taps;
        c.lines = inputs * ceil_divide(axis[0].taps, axis[0].step);
        c.chunk = larger(1, chunk_channels(residues.taps) * r.taps);
        for (int64_t k = 0; k < inputs; ++k)
            for (int64_t j = 0; j < r.taps; ++j)
                offset[k * r.taps + j] = k * planes.size() + residues.offset[r.begin + j];
        if (pixels)
            correlate_pixels<T>(context, c, weights + r.begin * c.groups * c.outputs * inputs);
        else
            correlate_outputs<T>(context, c,
                                 weights + r.begin * c.groups * c.panels() * inputs * ProductShape<T>::width);
    }
}

} // namespace

#define MMK_TRANSPOSED(dims)                                                                                           \
    void conv_transpose##dims##d(const ConvTranspose##dims##d& op, Context& context) {                                 \
        visit_float(op.y.dtype, [&](auto zero) { transposed<decltype(zero)>(in_volumes(op), context); });              \
    }                                                                                                                  \
    void conv##dims##d_input_grad(const Conv##dims##dInputGrad& op, Context& context) {                                \
        visit_float(op.gx.dtype, [&](auto zero) { transposed<decltype(zero)>(in_volumes(op), context); });             \
    }
MMK_TRANSPOSED(1)
MMK_TRANSPOSED(2)
MMK_TRANSPOSED(3)

} // namespace mmk::cpu::MMK_ISA
