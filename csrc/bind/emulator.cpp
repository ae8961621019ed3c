// The functions of cuda/runtime.h by the emulator, and its switches for Python.
#include "emulator.h"

#include <pybind11/stl.h>

#include <cstring>

#include "../cuda/runtime.h"
#include "../simt/host.h"
#include "../simt/reports.h"

namespace mmk::cuda::runtime {

int device_count() { return 1; }
const char* device_name(int) { return "emulated"; }
int multiprocessors(int) { return 2; }
int capability(int) { return 90; }
int shared_memory(int) { return 227 << 10; }
int current_device() { return 0; }
void set_device(int) {}
void copy_to_host(void* to, const void* from, size_t bytes, void*) { std::memcpy(to, from, bytes); }
const char* error_text(int) {
    static thread_local std::string text;
    text.clear();
    for (const std::string& report : simt::take_reports()) text += report + "\n";
    return text.c_str();
}

} // namespace mmk::cuda::runtime

namespace simt {

Operands::Operands(const std::vector<uintptr_t>& addresses) : addresses_(addresses) {
    for (const uintptr_t a : addresses_) set_read_only(reinterpret_cast<void*>(a), true);
}
Operands::~Operands() {
    for (const uintptr_t a : addresses_) set_read_only(reinterpret_cast<void*>(a), false);
}

} // namespace simt

namespace mmk::cuda {
void plant_defect(uint64_t id); // context.cpp
}

namespace mmk::bind {

namespace py = pybind11;

void bind_emulator(py::module_& m) {
    m.def("configure", [](const std::string& order, uint64_t seed, bool late, unsigned preempt, bool check) {
        simt::Settings settings;
        settings.order = order == "random"    ? simt::Order::random
                         : order == "reverse" ? simt::Order::reverse
                                              : simt::Order::in_order;
        settings.seed = seed, settings.late = late, settings.preempt = preempt, settings.check = check;
        simt::configure(settings);
    });
    m.def("allocate", [](size_t bytes) { return reinterpret_cast<uintptr_t>(simt::allocate(bytes)); });
    m.def("release", [](uintptr_t address) { simt::release(reinterpret_cast<void*>(address)); });
    m.def("mark_written",
          [](uintptr_t address, size_t bytes) { simt::mark_written(reinterpret_cast<void*>(address), bytes); });
    m.def("plant_defect", &cuda::plant_defect); // the hash of its name (cuda/launch.cuh); 0: none
    m.def("take_reports", &simt::take_reports);
    m.def("counts", [] {
        const simt::Counts c = simt::counts();
        return py::make_tuple(c.launches, c.switches, c.accesses);
    });
}

} // namespace mmk::bind
