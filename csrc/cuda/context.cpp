#include "context.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "../core/failure.h"
#include "runtime.h"

namespace mmk::cuda {

Context::Context(int device_, void* stream_, Allocate allocate, void* state)
    : device(device_), stream(stream_), multiprocessors(runtime::multiprocessors(device_)),
      shared_memory(runtime::shared_memory(device_)), allocate_(allocate), state_(state) {}

bool Context::hopper() const {
    const char* const wanted = std::getenv("MMK_CUDA_ARCH");
    if (!wanted || std::strcmp(wanted, "sm_90a") != 0 || runtime::capability(device) != 90) return false;
    if (!MMK_HOPPER)
        fail("MMK_CUDA_ARCH is sm_90a, but this build has no code for it; expected a build with 90a-real "
             "in MMK_CUDA_ARCHITECTURES (the build's default on a machine with a Hopper GPU)");
    return true;
}

void* Context::scratch_bytes(int64_t bytes) {
    scratch_used += bytes;
    return allocate_(state_, bytes > 0 ? bytes : 1);
}

namespace {
uint64_t planted = 0;
}
uint64_t planted_defect() { return planted; }
void plant_defect(uint64_t id) { planted = id; }

void check_launch(const char* kernel, int error) {
    if (error)
        throw std::runtime_error(std::string("the launch of ") + kernel + " failed: " + runtime::error_text(error));
}

} // namespace mmk::cuda
