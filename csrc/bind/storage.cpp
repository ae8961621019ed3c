#include "storage.h"

#include "../core/halves.h"
#include "../core/layout.h"

namespace mmk::bind {
namespace {

bool is_half(const Tensor& t) { return t && (t.dtype == DType::float16 || t.dtype == DType::bfloat16); }

// The tensor in float32, contiguous, in scratch memory.
Tensor wide_scratch(Context& context, const Tensor& narrow) {
    Tensor like = narrow;
    like.dtype = DType::float32;
    return contiguous_scratch(context, like);
}

Tensor widened(Context& context, const Tensor& x) {
    const Tensor wide = wide_scratch(context, x);
    const Dense<uint16_t> from(context, x);
    cpu::widen({from, static_cast<float*>(wide.data), x.size(), x.dtype == DType::float16}, context);
    return wide;
}

void narrow(Context& context, const Tensor& y, const Tensor& wide) {
    const DenseOut<uint16_t> to(context, y);
    cpu::narrow({static_cast<const float*>(wide.data), to, y.size(), y.dtype == DType::float16}, context);
}

} // namespace

void run_plan(const OperatorInfo& info, const Plan& plan, char* image, Context& context) {
    if (!plan.half) return info.run(image, context);
    std::vector<Tensor> results;
    for (const Plan::Input& input : plan.inputs) {
        Tensor& t = tensor_at(image, input.offset);
        if (is_half(t)) t = widened(context, t);
    }
    for (const Plan::Output& output : plan.outputs) {
        Tensor& t = tensor_at(image, output.offset);
        results.push_back(t);
        if (is_half(t)) t = wide_scratch(context, t);
    }
    info.run(image, context);
    for (size_t i = 0; i < results.size(); ++i)
        if (is_half(results[i])) narrow(context, results[i], tensor_at(image, plan.outputs[i].offset));
}

} // namespace mmk::bind
