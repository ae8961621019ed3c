// One compiled entry per operator: finds the plan of a call's signature, or has Python make it.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <unordered_map>

#include "plan.h"

namespace mmk::bind {

class Entry {
  public:
    // make_plan(operands, attributes, out) -> description or raises; other(entry arguments) serves operands that
    // are not plain NumPy arrays; bad_value(input, position, value, low, high) raises.
    Entry(const OperatorInfo& info, int operands, int attributes, py::object make_plan, py::object other,
          py::object bad_value);

    PyObject* call(PyObject* const* arguments, Py_ssize_t count);
    // The host function alone on plain NumPy arrays, `repetitions` times: seconds in all.
    double host_seconds(const py::args& arguments, int64_t repetitions);

  private:
    bool plain(PyObject* const* arguments) const; // whether operands and results are plain arrays or None
    std::shared_ptr<Plan> find(PyObject* const* arguments);
    std::shared_ptr<Plan> build(PyObject* const* arguments);
    bool fill(const Plan& plan, PyObject* const* arguments, char* image, std::vector<PyObject*>& outputs);
    bool check_out(const Plan& plan, PyObject* const* arguments, PyObject* out) const;
    bool check_ranges(const Plan& plan, const char* image) const;

    const OperatorInfo info_;
    const int operands_, attributes_;
    const py::object make_plan_, other_, bad_value_;
    std::unordered_map<std::string, std::shared_ptr<Plan>> plans_;
    static constexpr size_t max_plans = 1024;
};

// What the operators that a function calls on this thread have to tell: operator, variant, reason, scratch.
py::list told_by(const py::object& function);
bool telling();
void tell(const std::string& text);

} // namespace mmk::bind
