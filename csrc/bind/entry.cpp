#include "entry.h"

#include <chrono>
#include <cmath>
#include <cstdio>
#include <utility>

#include "../core/float_mode.h"
#include "buffers.h"
#include "storage.h"

namespace mmk::bind {
namespace {

using py::detail::npy_api;

auto* array_of(PyObject* o) { return py::detail::array_proxy(o); }
// An ndarray, no subclass, whose elements lie at multiples of their size; everything else takes the Python way.
bool is_plain_array(PyObject* o) {
    return Py_TYPE(o) == npy_api::get().PyArray_Type_ && (array_of(o)->flags & npy_api::NPY_ARRAY_ALIGNED_);
}
// out: None, an array, or a tuple of arrays, one for each of several results.
Py_ssize_t out_count(PyObject* out) { return out == Py_None ? 0 : PyTuple_CheckExact(out) ? PyTuple_GET_SIZE(out) : 1; }
PyObject* out_at(PyObject* out, Py_ssize_t i) { return PyTuple_CheckExact(out) ? PyTuple_GET_ITEM(out, i) : out; }

// The signature of a call as bytes: equal bytes, equal plan.
class Signature {
  public:
    void array(PyObject* o) {
        const auto* a = array_of(o);
        const auto* descriptor = py::detail::array_descriptor1_proxy(a->descr);
        const int head[3] = {descriptor->type_num, descriptor->byteorder, a->nd};
        raw(head, sizeof head);
        raw(a->dimensions, size_t(a->nd) * sizeof(Py_ssize_t));
        raw(a->strides, size_t(a->nd) * sizeof(Py_ssize_t));
    }
    void absent() { tag('-'); }
    void out(PyObject* o) {
        const Py_ssize_t count = PyTuple_CheckExact(o) ? PyTuple_GET_SIZE(o) : -1;
        raw(&count, sizeof count);
        for (Py_ssize_t i = 0; i < out_count(o); ++i) array(out_at(o, i));
    }
    // False for a value that has no stable bytes.
    bool attribute(PyObject* o) {
        if (o == Py_None) return tag('n'), true;
        if (o == Py_True) return tag('t'), true;
        if (o == Py_False) return tag('f'), true;
        if (PyLong_CheckExact(o)) {
            int overflow = 0;
            const long long value = PyLong_AsLongLongAndOverflow(o, &overflow);
            if (overflow) return false;
            tag('i'), raw(&value, sizeof value);
            return true;
        }
        if (PyFloat_CheckExact(o)) {
            const double value = PyFloat_AS_DOUBLE(o);
            tag('d'), raw(&value, sizeof value);
            return true;
        }
        if (PyUnicode_CheckExact(o)) {
            Py_ssize_t size = 0;
            const char* text = PyUnicode_AsUTF8AndSize(o, &size);
            if (!text) return PyErr_Clear(), false;
            tag('s'), raw(&size, sizeof size), raw(text, size_t(size));
            return true;
        }
        if (PyTuple_CheckExact(o)) {
            const Py_ssize_t size = PyTuple_GET_SIZE(o);
            tag('('), raw(&size, sizeof size);
            for (Py_ssize_t i = 0; i < size; ++i)
                if (!attribute(PyTuple_GET_ITEM(o, i))) return false;
            return true;
        }
        return false;
    }
    const std::string& bytes() const { return bytes_; }
    void clear() { bytes_.clear(); }

  private:
    void tag(char c) { bytes_.push_back(c); }
    void raw(const void* p, size_t n) { bytes_.append(static_cast<const char*>(p), n); }
    std::string bytes_;
};

// First and last byte that an array touches.
std::pair<const char*, const char*> span(PyObject* o) {
    const auto* a = array_of(o);
    const char *first = a->data, *last = a->data;
    for (int i = 0; i < a->nd; ++i) {
        if (a->dimensions[i] == 0) return {a->data, a->data};
        const Py_ssize_t walk = (a->dimensions[i] - 1) * a->strides[i];
        (walk < 0 ? first : last) += walk;
    }
    return {first, last + py::reinterpret_borrow<py::array>(o).itemsize()};
}

template <class T> bool in_range(const Tensor& t, const Plan::Range& range, int64_t* position, T* value) {
    using Wide = std::conditional_t<std::is_integral_v<T>, int64_t, double>;
    const T* const data = static_cast<const T*>(t.data);
    const int64_t n = t.size();
    const bool dense = t.contiguous();
    const int64_t first = range.column < 0 ? 0 : range.column, step = range.column < 0 ? 1 : t.extent_at(-1);
    for (int64_t i = first; i < n; i += step) {
        int64_t rest = i, offset = dense ? i : 0;
        for (int axis = t.rank - 1; axis >= 0 && !dense; --axis) {
            offset += rest % t.extent[axis] * t.stride[axis];
            rest /= t.extent[axis];
        }
        Wide v = data[offset];
        if constexpr (!std::is_integral_v<T>) v = std::trunc(v);
        if (!(v >= Wide(range.low) && v < Wide(range.high))) { // NaN is in no range
            *position = i, *value = data[offset];
            return false;
        }
    }
    return true;
}

thread_local std::vector<std::string>* listener = nullptr; // of told_by

std::string story(const OperatorInfo& info, const Context& context) {
    return info.name + ": " + name(context.isa) + ", " + context.variant + " (" + context.reason + "), " +
           std::to_string(context.threads) + " threads at most, scratch " + std::to_string(context.scratch_used) +
           " bytes";
}

py::object new_output(const Plan::Output& output) {
    if (output.bytes < pooled_from)
        return py::array(py::reinterpret_borrow<py::dtype>(output.dtype), output.shape, output.strides_bytes);
    void* buffer = take_buffer(output.bytes);
    if (!buffer) throw std::bad_alloc();
    py::capsule owner(buffer, give_buffer);
    return py::array(py::reinterpret_borrow<py::dtype>(output.dtype), output.shape, output.strides_bytes, buffer,
                     owner);
}

} // namespace

Entry::Entry(const OperatorInfo& info, int operands, int attributes, py::object make_plan, py::object other,
             py::object bad_value)
    : info_(info), operands_(operands), attributes_(attributes), make_plan_(std::move(make_plan)),
      other_(std::move(other)), bad_value_(std::move(bad_value)) {}

bool Entry::plain(PyObject* const* arguments) const {
    for (int i = 0; i < operands_; ++i)
        if (arguments[i] != Py_None && !is_plain_array(arguments[i])) return false;
    PyObject* const out = arguments[operands_ + attributes_];
    for (Py_ssize_t i = 0; i < out_count(out); ++i)
        if (!is_plain_array(out_at(out, i))) return false;
    return true;
}

// arguments: operands, attributes, out
std::shared_ptr<Plan> Entry::find(PyObject* const* arguments) {
    thread_local Signature signature;
    signature.clear();
    bool known = true;
    for (int i = 0; i < operands_; ++i) {
        if (arguments[i] == Py_None)
            signature.absent();
        else
            signature.array(arguments[i]);
    }
    if (PyObject* const out = arguments[operands_ + attributes_]; out != Py_None)
        signature.out(out);
    else
        signature.absent();
    for (int i = 0; i < attributes_ && known; ++i) known = signature.attribute(arguments[operands_ + i]);
    if (known) {
        const auto found = plans_.find(signature.bytes());
        if (found != plans_.end()) return found->second;
    }
    const std::string key = signature.bytes(); // building runs Python, which may come back here
    std::shared_ptr<Plan> plan = build(arguments);
    if (known) {
        if (plans_.size() >= max_plans) plans_.clear();
        plans_.emplace(key, plan);
    }
    return plan;
}

std::shared_ptr<Plan> Entry::build(PyObject* const* arguments) {
    py::tuple operands(static_cast<size_t>(operands_)), attributes(static_cast<size_t>(attributes_));
    for (int i = 0; i < operands_; ++i) operands[size_t(i)] = py::reinterpret_borrow<py::object>(arguments[i]);
    for (int i = 0; i < attributes_; ++i)
        attributes[size_t(i)] = py::reinterpret_borrow<py::object>(arguments[operands_ + i]);
    const py::object out = py::reinterpret_borrow<py::object>(arguments[operands_ + attributes_]);
    const py::tuple description = make_plan_(operands, attributes, out);

    return make_plan(info_, description);
}

bool Entry::check_out(const Plan& plan, PyObject* const* arguments, PyObject* all) const {
    const auto fail = [&](const std::string& text) {
        const py::object error = py::module_::import("mmkernels.errors").attr("ContractError");
        PyErr_SetString(error.ptr(), (info_.name + ": " + text).c_str());
        return false;
    };
    for (Py_ssize_t k = 0; k < out_count(all); ++k) {
        PyObject* const out = out_at(all, k);
        const std::string name = PyTuple_CheckExact(all) ? "out[" + std::to_string(k) + "]" : "out";
        if (!(array_of(out)->flags & npy_api::NPY_ARRAY_WRITEABLE_))
            return fail(name + " is read-only; expected a writeable array");
        const auto [out_first, out_last] = span(out);
        const auto overlaps = [&, first = out_first, last = out_last](PyObject* other) {
            const auto [other_first, other_last] = span(other);
            if (other_first >= last || first >= other_last) return false;
            // Interleaved views need NumPy's exact test.
            return py::module_::import("numpy").attr("shares_memory")(py::handle(out), py::handle(other)).cast<bool>();
        };
        for (const Plan::Input& input : plan.inputs)
            if (overlaps(arguments[input.position]))
                return fail(name + " overlaps operand " + std::to_string(input.position) +
                            "; expected memory of its own");
        for (Py_ssize_t i = 0; i < k; ++i)
            if (overlaps(out_at(all, i)))
                return fail(name + " overlaps out[" + std::to_string(i) + "]; expected memory of its own");
    }
    return true;
}

bool Entry::check_ranges(const Plan& plan, const char* image) const {
    for (const Plan::Range& range : plan.ranges) {
        const Plan::Input& input = plan.inputs[size_t(range.input)];
        const Tensor& t = *reinterpret_cast<const Tensor*>(image + input.offset);
        const auto holds = [&](auto value) {
            int64_t position = 0;
            if (in_range(t, range, &position, &value)) return true;
            bad_value_(input.position, position, value, range.low, range.high);
            return false;
        };
        const bool good = t.dtype == DType::int32     ? holds(int32_t(0))
                          : t.dtype == DType::float32 ? holds(float(0))
                          : t.dtype == DType::float64 ? holds(double(0))
                                                      : holds(int64_t(0));
        if (!good) return false;
    }
    return true;
}

bool Entry::fill(const Plan& plan, PyObject* const* arguments, char* image, std::vector<PyObject*>& outputs) {
    std::memcpy(image, plan.image.data(), plan.image.size());
    for (const Plan::Input& input : plan.inputs)
        tensor_at(image, input.offset).data = array_of(arguments[input.position])->data;
    PyObject* const out = arguments[operands_ + attributes_];
    if (out != Py_None) {
        if (!check_out(plan, arguments, out)) return false;
        for (size_t i = 0; i < plan.outputs.size(); ++i) { // as many as the contract has seen
            outputs.push_back(Py_NewRef(out_at(out, Py_ssize_t(i))));
            tensor_at(image, plan.outputs[i].offset).data = array_of(outputs.back())->data;
        }
    } else {
        for (const Plan::Output& output : plan.outputs) {
            outputs.push_back(new_output(output).release().ptr());
            tensor_at(image, output.offset).data = array_of(outputs.back())->data;
        }
    }
    return plan.ranges.empty() || check_ranges(plan, image);
}

PyObject* Entry::call(PyObject* const* arguments, Py_ssize_t count) {
    if (count != operands_ + attributes_ + 1) {
        PyErr_Format(PyExc_TypeError, "%s: %zd arguments; expected %d", info_.name.c_str(), count,
                     operands_ + attributes_ + 1);
        return nullptr;
    }
    if (!plain(arguments)) {
        py::tuple all(static_cast<size_t>(count));
        for (Py_ssize_t k = 0; k < count; ++k) all[size_t(k)] = py::reinterpret_borrow<py::object>(arguments[k]);
        return other_(*all).release().ptr();
    }
    const std::shared_ptr<Plan> plan = find(arguments);
    alignas(64) char image[Registry::max_operator_bytes];
    std::vector<PyObject*> outputs;
    struct Release {
        std::vector<PyObject*>& objects;
        ~Release() {
            for (PyObject* o : objects) Py_XDECREF(o);
        }
    } release{outputs};
    if (!fill(*plan, arguments, image, outputs)) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_RuntimeError, "mmkernels: a bad value was found and not told");
        return nullptr;
    }
    if (!plan->empty) {
        const Isa isa = current_isa();
        const int threads = num_threads();
        std::string told;
        {
            py::gil_scoped_release without_gil;
            FloatMode mode;
            Context context(isa, threads);
            run_plan(info_, *plan, image, context);
            if (listener || (log_plans() && !plan->logged)) told = story(info_, context);
        }
        tell(told);
        if (log_plans() && !plan->logged) {
            plan->logged = true;
            std::fprintf(stderr, "mmkernels: %s\n", told.c_str());
        }
    } else {
        tell(info_.name + ": nothing to compute");
    }
    if (outputs.size() == 1) return Py_NewRef(outputs[0]);
    PyObject* result = PyTuple_New(Py_ssize_t(outputs.size()));
    for (size_t i = 0; i < outputs.size(); ++i) PyTuple_SET_ITEM(result, Py_ssize_t(i), Py_NewRef(outputs[i]));
    return result;
}

double Entry::host_seconds(const py::args& arguments, int64_t repetitions) {
    std::vector<PyObject*> list;
    for (const py::handle a : arguments) list.push_back(a.ptr());
    if (Py_ssize_t(list.size()) != operands_ + attributes_ + 1 || !plain(list.data()))
        throw py::type_error(info_.name + ": expected the entry's arguments, with plain NumPy arrays as operands");
    const std::shared_ptr<Plan> plan = find(list.data());
    alignas(64) char image[Registry::max_operator_bytes], again[Registry::max_operator_bytes];
    std::vector<PyObject*> outputs;
    if (!fill(*plan, list.data(), image, outputs)) throw py::error_already_set();
    const Isa isa = current_isa();
    const int threads = num_threads();
    double seconds = 0;
    {
        py::gil_scoped_release without_gil;
        const auto start = std::chrono::steady_clock::now();
        for (int64_t i = 0; i < repetitions; ++i) {
            FloatMode mode;
            Context context(isa, threads);
            std::memcpy(again, image, info_.size); // a run may change the image
            run_plan(info_, *plan, again, context);
        }
        seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
    for (PyObject* o : outputs) Py_XDECREF(o);
    return seconds;
}

py::list told_by(const py::object& function) {
    std::vector<std::string> lines;
    struct Listen {
        std::vector<std::string>* before;
        ~Listen() { listener = before; }
    } listen{std::exchange(listener, &lines)};
    function();
    return py::cast(lines);
}

bool telling() { return listener; }

void tell(const std::string& text) {
    if (listener) listener->push_back(text);
}

} // namespace mmk::bind
