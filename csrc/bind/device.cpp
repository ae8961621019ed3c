// mmkernels._cuda: the CUDA floor's half of the boundary. It sees addresses, not arrays: whose they are, and how their
// library allocates, is python/mmkernels/interop's matter. The same file is the boundary of the emulated floors.
#include <cstdio>

#include "../cuda/context.h"
#include "../cuda/runtime.h"
#include "plan.h"

#include <pybind11/stl.h>
#if MMK_EMULATOR
#include "emulator.h"
#endif

namespace mmk::bind {
namespace {

// Memory of the caller's library for the time of one call.
struct Scratch {
    py::object allocate; // bytes -> (address, owner)
    std::vector<py::object> owners;

    static void* take(void* state, int64_t bytes) {
        auto& self = *static_cast<Scratch*>(state);
        const py::gil_scoped_acquire with_gil;
        const py::tuple got = self.allocate(bytes);
        self.owners.push_back(got[1]);
        return reinterpret_cast<void*>(got[0].cast<uintptr_t>());
    }
};

class DevicePlan {
  public:
    DevicePlan(const std::string& name, const py::tuple& description)
        : info_(operator_info(name)), plan_(make_plan(info_, description)) {}

    // Addresses of the operands and results that the description lists, in its order. Returns what there is to tell
    // of the run, if asked for.
    std::string run(const std::vector<uintptr_t>& inputs, const std::vector<uintptr_t>& outputs, int device,
                    uintptr_t stream, py::object allocate, bool telling) {
        if (inputs.size() != plan_->inputs.size() || outputs.size() != plan_->outputs.size())
            throw py::value_error(info_.name + ": the plan has other operands");
        const bool log = log_plans() && !plan_->logged;
        if (plan_->empty) return telling ? info_.name + ": nothing to compute" : "";
        alignas(64) char image[Registry::max_operator_bytes];
        std::memcpy(image, plan_->image.data(), plan_->image.size());
        for (size_t i = 0; i < inputs.size(); ++i)
            tensor_at(image, plan_->inputs[i].offset).data = reinterpret_cast<void*>(inputs[i]);
        for (size_t i = 0; i < outputs.size(); ++i)
            tensor_at(image, plan_->outputs[i].offset).data = reinterpret_cast<void*>(outputs[i]);
        Scratch scratch{std::move(allocate), {}};
        std::string told;
        {
            const py::gil_scoped_release without_gil;
#if MMK_EMULATOR
            const simt::Operands operands(inputs); // read-only while the operator runs
#endif
            const int before = cuda::runtime::current_device();
            if (before != device) cuda::runtime::set_device(device);
            struct Restore {
                int before, device;
                ~Restore() {
                    if (before != device) cuda::runtime::set_device(before);
                }
            } restore{before, device};
            Context context(device, reinterpret_cast<void*>(stream), Scratch::take, &scratch);
            info_.run(image, context);
            if (telling || log)
                told = info_.name + ": cuda, " + context.variant + " (" + context.reason + "), scratch " +
                       std::to_string(context.scratch_used) + " bytes";
        }
        if (log) {
            plan_->logged = true;
            std::fprintf(stderr, "mmkernels: %s\n", told.c_str());
        }
        return told;
    }

  private:
    const OperatorInfo& info_;
    const std::shared_ptr<Plan> plan_;
};

} // namespace
} // namespace mmk::bind

namespace py = pybind11;

PYBIND11_MODULE(MMK_MODULE, m) {
    using namespace mmk;
    m.doc() = "The CUDA floor of mmkernels.";
    py::class_<bind::DevicePlan>(m, "Plan")
        .def(py::init<const std::string&, const py::tuple&>())
        .def("run", &bind::DevicePlan::run);
    m.def("operator_fields", &bind::operator_fields);
    m.def("device_count", &cuda::runtime::device_count);
    m.def("device_name", &cuda::runtime::device_name);
    m.def("multiprocessors", &cuda::runtime::multiprocessors);
#if MMK_EMULATOR
    bind::bind_emulator(m);
#endif
}
