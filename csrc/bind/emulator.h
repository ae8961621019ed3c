// The emulator as the binding sees it.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <vector>

namespace simt {

// The operands of one call: kernels may not write to them while it lives.
class Operands {
  public:
    explicit Operands(const std::vector<uintptr_t>& addresses);
    ~Operands();

  private:
    std::vector<uintptr_t> addresses_;
};

} // namespace simt

namespace mmk::bind {
void bind_emulator(pybind11::module_& m);
} // namespace mmk::bind
