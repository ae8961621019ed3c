// The functions of runtime.h by the CUDA runtime; compiled by nvcc only.
#include "runtime.h"

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace mmk::cuda::runtime {
namespace {

void check(cudaError_t error) {
    if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}

} // namespace

int device_count() {
    int count = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
    (void)cudaGetLastError(); // the failure is the answer, not an error of the next call
    return 0;
}

const char* device_name(int device) {
    static thread_local cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, device));
    return properties.name;
}

int multiprocessors(int device) {
    int count = 0;
    check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
    return count;
}

int capability(int device) {
    int major = 0, minor = 0;
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
    return 10 * major + minor;
}

int shared_memory(int device) {
    int bytes = 0;
    check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    return bytes;
}

int current_device() {
    int device = 0;
    check(cudaGetDevice(&device));
    return device;
}

void set_device(int device) { check(cudaSetDevice(device)); }

void copy_to_host(void* to, const void* from, size_t bytes, void* stream) {
    const auto s = static_cast<cudaStream_t>(stream);
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, s));
    check(cudaStreamSynchronize(s));
}

const char* error_text(int error) { return cudaGetErrorString(cudaError_t(error)); }

} // namespace mmk::cuda::runtime
