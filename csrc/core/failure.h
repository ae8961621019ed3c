// Exceptions of host functions, thrown out of line: a file of kernels that includes <stdexcept> compiles 0.4 s longer
// with nvcc, and there are sixty.
#pragma once

namespace mmk {

[[noreturn]] void unexpected_dtype();       // std::logic_error: a contract let a dtype through
[[noreturn]] void fail(const char* reason); // std::runtime_error: a driver or a build cannot serve the call

} // namespace mmk
