// Plan: what a call with a known signature needs, but for the pointers. Python's contract describes it, both floors
// run it.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <string>
#include <vector>

#include "registry.h"

namespace mmk::bind {

namespace py = pybind11;

struct Plan {
    std::vector<char> image; // the operator's struct, filled
    struct Input {
        int position;  // among the operands
        size_t offset; // of its Tensor in the image
    };
    struct Output {
        py::object dtype;
        std::vector<py::ssize_t> shape, strides_bytes;
        size_t bytes, offset;
    };
    struct Range {  // a condition on the values of an operand, their fractions cut off: low <= value < high
        int input;  // among `inputs`
        int column; // of the last extent; -1: all
        int64_t low, high;
    };
    std::vector<Input> inputs;
    std::vector<Output> outputs;
    std::vector<Range> ranges;
    bool empty = false; // no output has an element
    bool half = false;  // a tensor is float16 or bfloat16
    bool logged = false;
};

// From Operator.describe_call's tuple (python/mmkernels/operator.py).
std::shared_ptr<Plan> make_plan(const OperatorInfo& info, const py::tuple& description);
const OperatorInfo& operator_info(const std::string& name); // throws py::key_error
const Registry& registry();
py::dict operator_fields();

inline Tensor& tensor_at(char* image, size_t offset) { return *reinterpret_cast<Tensor*>(image + offset); }
bool log_plans(); // whether MMK_LOG asks for it

} // namespace mmk::bind
