#include "plan.h"

#include <cstdlib>

namespace mmk::bind {

#define MMK_FAMILY(family) void bind_##family(Registry& registry);
#include "families.inc"
#undef MMK_FAMILY

const Registry& registry() {
    static const Registry* const all = [] {
        auto* r = new Registry;
        Registry& registry = *r;
#define MMK_FAMILY(family) bind_##family(registry);
#include "families.inc"
#undef MMK_FAMILY
        return r;
    }();
    return *all;
}

const OperatorInfo& operator_info(const std::string& name) {
    for (const OperatorInfo& info : registry().operators)
        if (info.name == name) return info;
    throw py::key_error(name + ": no such operator was compiled");
}

py::dict operator_fields() {
    py::dict all;
    for (const OperatorInfo& info : registry().operators) {
        py::dict fields;
        for (const FieldInfo& f : info.fields) {
            const char* kinds[] = {"tensor", "integer", "real"};
            fields[f.name.c_str()] = py::make_tuple(kinds[int(f.kind)], f.count);
        }
        all[info.name.c_str()] = fields;
    }
    return all;
}

std::shared_ptr<Plan> make_plan(const OperatorInfo& info, const py::tuple& description) {
    auto plan = std::make_shared<Plan>();
    plan->image.resize(info.size);
    info.initialise(plan->image.data());
    auto field = [&](const std::string& wanted) -> const FieldInfo& {
        for (const FieldInfo& f : info.fields)
            if (f.name == wanted) return f;
        throw std::logic_error(info.name + ": the contract names '" + wanted + "', the struct does not");
    };
    auto fill_tensor = [&](const FieldInfo& f, const py::tuple& shape, const py::tuple& strides, int dtype) {
        Tensor& t = tensor_at(plan->image.data(), f.offset);
        t.rank = int32_t(shape.size());
        t.dtype = DType(dtype);
        plan->half |= t.dtype == DType::float16 || t.dtype == DType::bfloat16;
        for (size_t i = 0; i < shape.size(); ++i) {
            t.extent[i] = shape[i].cast<int64_t>();
            t.stride[i] = strides[i].cast<int64_t>();
        }
    };
    for (const py::handle item : description[0].cast<py::list>()) {
        const auto [position, named, shape, strides, dtype] =
            item.cast<std::tuple<int, std::string, py::tuple, py::tuple, int>>();
        const FieldInfo& f = field(named);
        fill_tensor(f, shape, strides, dtype);
        plan->inputs.push_back({position, f.offset});
    }
    plan->empty = true;
    for (const py::handle item : description[1].cast<py::list>()) {
        const auto [named, numpy_dtype, shape, strides, dtype] =
            item.cast<std::tuple<std::string, py::object, py::tuple, py::tuple, int>>();
        const FieldInfo& f = field(named);
        fill_tensor(f, shape, strides, dtype);
        Plan::Output output{numpy_dtype, {}, {}, size_t(itemsize(DType(dtype))), f.offset};
        for (size_t i = 0; i < shape.size(); ++i) {
            output.shape.push_back(shape[i].cast<py::ssize_t>());
            output.strides_bytes.push_back(strides[i].cast<py::ssize_t>() * py::ssize_t(itemsize(DType(dtype))));
            output.bytes *= size_t(output.shape.back());
        }
        if (output.bytes) plan->empty = false;
        plan->outputs.push_back(std::move(output));
    }
    for (const auto& [key, value] : description[2].cast<py::dict>()) {
        const FieldInfo& f = field(key.cast<std::string>());
        const py::tuple values = py::isinstance<py::tuple>(value) ? py::reinterpret_borrow<py::tuple>(value)
                                                                  : py::tuple(py::make_tuple(value));
        if (f.kind == FieldKind::tensor || int(py::len(values)) > f.count)
            throw std::logic_error(info.name + "." + f.name + ": the struct's type is not the contract's");
        for (int i = 0; i < int(py::len(values)); ++i) {
            char* const place = plan->image.data() + f.offset + size_t(i) * 8;
            const py::object one = values[size_t(i)];
            if (f.kind == FieldKind::integer) {
                const int64_t number = one.cast<int64_t>();
                std::memcpy(place, &number, sizeof number);
            } else {
                const double number = one.cast<double>();
                std::memcpy(place, &number, sizeof number);
            }
        }
    }
    for (const py::handle item : description[3].cast<py::list>()) {
        const auto [input, column, low, high] = item.cast<std::tuple<int, int, int64_t, int64_t>>();
        plan->ranges.push_back({input, column, low, high});
    }
    return plan;
}

bool log_plans() {
    static const bool on = [] {
        const char* text = std::getenv("MMK_LOG");
        return text && *text && *text != '0';
    }();
    return on;
}

} // namespace mmk::bind
