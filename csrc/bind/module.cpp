// mmkernels._core: the compiled half. Families register themselves; nothing here knows their names.
#include "entry.h"

namespace mmk::bind {

namespace {

constexpr const char* capsule_name = "mmkernels.Entry";

Entry& entry_of(PyObject* capsule) { return *static_cast<Entry*>(PyCapsule_GetPointer(capsule, capsule_name)); }

// The hot path: no pybind11 argument handling.
PyObject* call_entry(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
    try {
        return entry_of(self).call(arguments, count);
    } catch (py::error_already_set& error) {
        error.restore();
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
    }
    return nullptr;
}

PyMethodDef call_method = {"call", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call_entry)),
                           METH_FASTCALL, "call(*operands, *attributes, out): runs the operator"};

// Returns (call, host_seconds) of the operator.
py::tuple make_entry(const std::string& name, int operands, int attributes, py::object make_plan, py::object other,
                     py::object bad_value) {
    auto* entry = new Entry(operator_info(name), operands, attributes, std::move(make_plan), std::move(other),
                            std::move(bad_value)); // lives as long as the process
    const py::capsule self(entry, capsule_name);
    const auto call = py::reinterpret_steal<py::object>(PyCFunction_NewEx(&call_method, self.ptr(), nullptr));
    return py::make_tuple(call, py::cpp_function([entry](int64_t repetitions, const py::args& a) {
                              return entry->host_seconds(a, repetitions);
                          }));
}

py::list isas(bool only_available) {
    py::list names;
    for (int i = 0; i < int(Isa::count); ++i)
        if (!only_available || available(Isa(i))) names.append(name(Isa(i)));
    return names;
}

} // namespace
} // namespace mmk::bind

PYBIND11_MODULE(_core, m) {
    using namespace mmk;
    m.doc() = "The compiled half of mmkernels.";
    m.attr("version") = MMK_VERSION;
    m.def("make_entry", &bind::make_entry);
    m.def("told_by", &bind::told_by);
    m.def("telling", &bind::telling);
    m.def("tell", &bind::tell);
    m.def("operator_fields", &bind::operator_fields);
    m.def("set_num_threads", &set_num_threads);
    m.def("get_num_threads", &num_threads);
    m.def("compiled_isas", [] { return bind::isas(false); });
    m.def("available_isas", [] { return bind::isas(true); });
    m.def("get_isa", [] { return std::string(name(current_isa())); });
    m.def("set_isa", [](const std::string& text) { set_isa(isa_from_name(text.c_str())); });
}
