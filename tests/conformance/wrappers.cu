// One small kernel for each wrapper of csrc/cuda/ptx.cuh: registers and bytes in, registers and bytes out. The same
// source runs on a device and on the emulator; what must come out is computed in tests/test_conformance.py.
#include "../../csrc/cuda/ptx.cuh"

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#if !defined(__CUDACC__)
#include "../../csrc/simt/reports.h"
#endif

namespace mmk::cuda {
namespace {

struct Numbers {
    int v[16];
};
struct Maps {
    CUtensorMap map;
};

__device__ void copy_words(void* to, const void* from, int bytes) {
    for (int i = int(threadIdx.x); i < bytes / 4; i += int(blockDim.x))
        static_cast<uint32_t*>(to)[i] = static_cast<const uint32_t*>(from)[i];
}

// ---- pairs ---------------------------------------------------------------------------------------------------------

__global__ void conversions(const float* in, uint32_t* out, int n) {
    const int i = int(threadIdx.x);
    if (i >= n) return;
    out[3 * i] = pack_bf16(in[2 * i], in[2 * i + 1]);
    out[3 * i + 1] = pack_f16(in[2 * i], in[2 * i + 1]);
    out[3 * i + 2] = to_tf32(in[2 * i]);
}

// ---- matrices ------------------------------------------------------------------------------------------------------

// in: 32 rows of 8 elements; lane l gives row permuted[l], so that rows need not be in order. out: [32][matrices]
template <int matrices, bool transposed> __global__ void load_matrices(const uint16_t* in, uint32_t* out, Numbers) {
    SHARED(uint16_t, rows, [32][8]);
    const int lane = int(threadIdx.x);
    copy_words(rows, in, sizeof rows);
    __syncthreads();
    uint32_t registers[matrices];
    const uint16_t* row = rows[(lane * 5 + 3) % 32];
    if constexpr (transposed)
        ldmatrix_transposed(registers, row);
    else
        ldmatrix(registers, row);
    for (int j = 0; j < matrices; ++j) out[lane * matrices + j] = registers[j];
}

template <int matrices, bool transposed> __global__ void store_matrices(const uint32_t* in, uint16_t* out, Numbers) {
    SHARED(uint16_t, rows, [32][8]);
    const int lane = int(threadIdx.x);
    for (int i = 0; i < 8; ++i) rows[lane][i] = 0xcdcd;
    __syncwarp();
    uint32_t registers[matrices];
    for (int j = 0; j < matrices; ++j) registers[j] = in[lane * matrices + j];
    uint16_t* row = rows[(lane * 5 + 3) % 32];
    if constexpr (transposed)
        stmatrix_transposed(row, registers);
    else
        stmatrix(row, registers);
    __syncwarp();
    for (int i = 0; i < 8; ++i) out[lane * 8 + i] = rows[lane][i];
}

__global__ void move_matrix(const uint32_t* in, uint32_t* out, Numbers) {
    out[threadIdx.x] = movmatrix(in[threadIdx.x]);
}

// in: [32][a registers], [32][b registers], [32][4] accumulators; out: [32][4]
template <class T, int k> __global__ void warp_product(const uint32_t* in, float* out, Numbers) {
    constexpr bool wide = sizeof(T) == 4;
    constexpr int a_count = wide ? 4 : k / 4, b_count = wide ? 2 : k / 8;
    const int lane = int(threadIdx.x);
    uint32_t a[a_count], b[b_count];
    float d[4];
    for (int i = 0; i < a_count; ++i) a[i] = in[lane * a_count + i];
    for (int i = 0; i < b_count; ++i) b[i] = in[32 * a_count + lane * b_count + i];
    for (int i = 0; i < 4; ++i) d[i] = __uint_as_float(in[32 * (a_count + b_count) + lane * 4 + i]);
    if constexpr (wide)
        mma_m16n8k8_tf32(d, a, b);
    else if constexpr (k == 16)
        mma_m16n8k16<T>(d, a, b);
    else
        mma_m16n8k8<T>(d, a, b);
    for (int i = 0; i < 4; ++i) out[lane * 4 + i] = d[i];
}

// ---- cp.async ------------------------------------------------------------------------------------------------------

// Each lane copies one piece with valid = lane % (bytes + 1); through an mbarrier or by waiting for the group.
template <int bytes, bool by_barrier> __global__ void copy_pieces(const char* in, char* out, Numbers) {
    SHARED(char, pieces, [32 * 16]);
    SHARED(uint64_t, arrived);
    const int lane = int(threadIdx.x);
    if constexpr (by_barrier) {
        if (lane == 0) {
            mbarrier_init(&arrived, 32);
            fence_mbarrier_init();
        }
        __syncthreads();
    }
    cp_async<bytes>(pieces + lane * bytes, in + lane * bytes, lane % (bytes + 1));
    if constexpr (by_barrier) {
        cp_async_arrive(&arrived);
        mbarrier_wait(&arrived, 0);
    } else {
        cp_async_commit();
        cp_async_wait<0>();
    }
    __syncthreads();
    for (int i = 0; i < bytes; ++i) out[lane * bytes + i] = pieces[lane * bytes + i];
}

// Groups in order: after waiting with one pending, the older of two groups is there.
__global__ void copy_groups(const uint32_t* in, uint32_t* out, Numbers) {
    SHARED(uint32_t, words, [64]);
    const int lane = int(threadIdx.x);
    cp_async<4>(words + lane, in + lane);
    cp_async_commit();
    cp_async<4>(words + 32 + lane, in + 32 + lane);
    cp_async_commit();
    cp_async_wait<1>();
    out[lane] = words[lane];
    cp_async_wait<0>();
    out[32 + lane] = words[32 + lane];
}

// ---- barriers ------------------------------------------------------------------------------------------------------

// Warp 0 fills a slot, warp 1 reads it, for some laps, with two named barriers.
__global__ void named_barriers(const uint32_t* in, uint32_t* out, Numbers numbers) {
    SHARED(uint32_t, slot, [32]);
    const int lane = int(threadIdx.x) % 32, laps = numbers.v[0];
    if (threadIdx.x < 32) {
        for (int lap = 0; lap < laps; ++lap) {
            if (lap > 0) barrier_sync(2, 64);
            slot[lane] = in[lap * 32 + lane];
            barrier_arrive(1, 64);
        }
    } else {
        for (int lap = 0; lap < laps; ++lap) {
            barrier_sync(1, 64);
            out[lap * 32 + lane] = slot[31 - lane];
            if (lap + 1 < laps) barrier_arrive(2, 64);
        }
    }
}

// A ring of bulk loads: one producer thread, 32 consumers, numbers.v = {stages, laps}.
__global__ void bulk_ring(const uint32_t* in, uint32_t* out, Numbers numbers) {
    SHARED(uint32_t, slots, [4][32]);
    SHARED(uint64_t, full, [4]);
    SHARED(uint64_t, empty, [4]);
    const int stages = numbers.v[0], laps = numbers.v[1], lane = int(threadIdx.x) % 32;
    if (threadIdx.x == 0) {
        for (int s = 0; s < stages; ++s) mbarrier_init(&full[s], 1), mbarrier_init(&empty[s], 32);
        fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x == 32) {
        for (int lap = 0; lap < laps; ++lap) {
            const int s = lap % stages, round = lap / stages % 2;
            mbarrier_wait(&empty[s], uint32_t(round ^ 1));
            mbarrier_arrive_expect(&full[s], 128);
            bulk_load(slots[s], in + lap * 32, 128, &full[s]);
        }
    } else if (threadIdx.x < 32) {
        for (int lap = 0; lap < laps; ++lap) {
            const int s = lap % stages, round = lap / stages % 2;
            mbarrier_wait(&full[s], uint32_t(round));
            out[lap * 32 + lane] = slots[s][31 - lane];
            fence_proxy_async();
            mbarrier_arrive(&empty[s]);
        }
    }
}

// Two stores from one buffer, the second after the first was read.
__global__ void bulk_stores(const uint32_t* in, uint32_t* out, Numbers) {
    SHARED(uint32_t, words, [64]);
    const int lane = int(threadIdx.x);
    for (int half = 0; half < 2; ++half) {
        words[lane] = in[half * 64 + lane];
        words[32 + lane] = in[half * 64 + 32 + lane];
        fence_proxy_async();
        __syncthreads();
        if (lane == 0) {
            bulk_store(out + half * 64, words, 256);
            bulk_commit();
            bulk_wait_read<0>();
        }
        __syncthreads();
    }
    if (lane == 0) bulk_wait<0>();
}

// ---- tensor copies -------------------------------------------------------------------------------------------------

__device__ void load_box(void* shared, const CUtensorMap& map, uint64_t* barrier, const Numbers& n) {
    const int* c = n.v + 4;
    switch (n.v[0]) {
    case 1: return tensor_load(shared, map, barrier, c[0]);
    case 2: return tensor_load(shared, map, barrier, c[0], c[1]);
    case 3: return tensor_load(shared, map, barrier, c[0], c[1], c[2]);
    case 4: return tensor_load(shared, map, barrier, c[0], c[1], c[2], c[3]);
    default: return tensor_load(shared, map, barrier, c[0], c[1], c[2], c[3], c[4]);
    }
}
__device__ void store_box(const CUtensorMap& map, const void* shared, const Numbers& n) {
    const int* c = n.v + 4;
    switch (n.v[0]) {
    case 1: return tensor_store(map, shared, c[0]);
    case 2: return tensor_store(map, shared, c[0], c[1]);
    case 3: return tensor_store(map, shared, c[0], c[1], c[2]);
    case 4: return tensor_store(map, shared, c[0], c[1], c[2], c[3]);
    default: return tensor_store(map, shared, c[0], c[1], c[2], c[3], c[4]);
    }
}

// numbers.v: rank, bytes of the box, bytes to dump, offset of the box in shared memory, coordinates
__global__ void tensor_loads(const __grid_constant__ CUtensorMap map, uint32_t* out, Numbers numbers) {
    DYN_SHARED(char, memory);
    SHARED(uint64_t, arrived);
    const int dump = numbers.v[2], offset = numbers.v[3];
    for (int i = int(threadIdx.x); i < (dump + offset) / 4; i += 32)
        reinterpret_cast<uint32_t*>(memory)[i] = 0xcdcdcdcd;
    fence_proxy_async();
    if (threadIdx.x == 0) {
        prefetch_tensor_map(map);
        mbarrier_init(&arrived, 1);
        fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(&arrived, uint32_t(numbers.v[1]));
        load_box(memory + offset, map, &arrived, numbers);
    }
    mbarrier_wait(&arrived, 0);
    __syncthreads();
    copy_words(out, memory + offset, dump);
}

// in: the image of shared memory
__global__ void tensor_stores(const __grid_constant__ CUtensorMap map, const uint32_t* in, Numbers numbers) {
    DYN_SHARED(char, memory);
    copy_words(memory + numbers.v[3], in, numbers.v[2]);
    fence_proxy_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        store_box(map, memory + numbers.v[3], numbers);
        bulk_commit();
        bulk_wait<0>();
    }
}

// ---- wgmma ---------------------------------------------------------------------------------------------------------

// numbers.v: bytes of the image, offset of B, steps, leading and stride of A, of B, what A and B advance by in one step,
// swizzle, whether to add to the accumulators that come after the image. out: [128][n / 2]
template <class T, int n, bool a_transposed, bool b_transposed> __global__ void __launch_bounds__(128)
    group_product(const uint32_t* in, float* out, Numbers numbers) {
    DYN_SHARED(char, memory);
    const int* v = numbers.v;
    const int bytes = v[0], thread = int(threadIdx.x);
    const Swizzle swizzle = Swizzle(v[9]);
    copy_words(memory, in, bytes);
    fence_proxy_async();
    __syncthreads();
    const auto* start = reinterpret_cast<const float*>(in) + bytes / 4;
    float d[n / 2];
    for (int i = 0; i < n / 2; ++i) d[i] = start[thread * (n / 2) + i];
    for (int step = 0; step < v[2]; ++step) {
        const uint64_t a = wgmma_descriptor(memory + step * v[7], uint32_t(v[3]), uint32_t(v[4]), swizzle);
        const uint64_t b = wgmma_descriptor(memory + v[1] + step * v[8], uint32_t(v[5]), uint32_t(v[6]), swizzle);
        wgmma_keep(d);
        wgmma_fence();
        wgmma<T, a_transposed, b_transposed>(d, a, b, step > 0 || v[10] != 0);
        wgmma_commit();
        wgmma_wait<0>();
        wgmma_keep(d);
    }
    for (int i = 0; i < n / 2; ++i) out[thread * (n / 2) + i] = d[i];
}

// A's registers [128][4] come first, then the image of B and the accumulators.
template <class T, int n, bool b_transposed> __global__ void __launch_bounds__(128)
    group_product_registers(const uint32_t* in, float* out, Numbers numbers) {
    DYN_SHARED(char, memory);
    const int* v = numbers.v;
    const int bytes = v[0], thread = int(threadIdx.x);
    uint32_t a[4];
    for (int r = 0; r < 4; ++r) a[r] = in[thread * 4 + r];
    copy_words(memory, in + 512, bytes);
    fence_proxy_async();
    __syncthreads();
    const auto* start = reinterpret_cast<const float*>(in) + 512 + bytes / 4;
    float d[n / 2];
    for (int i = 0; i < n / 2; ++i) d[i] = start[thread * (n / 2) + i];
    wgmma_keep(d);
    wgmma_fence();
    wgmma<T, b_transposed>(d, a, wgmma_descriptor(memory, uint32_t(v[5]), uint32_t(v[6]), Swizzle(v[9])), v[10] != 0);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_keep(d);
    for (int i = 0; i < n / 2; ++i) out[thread * (n / 2) + i] = d[i];
}

// Registers move from one warpgroup to the other; what they hold stays.
__global__ void __launch_bounds__(256, 1) moving_registers(const uint32_t* in, uint32_t* out, Numbers) {
    const uint32_t value = in[threadIdx.x];
    if (threadIdx.x < 128)
        registers_decrease<40>();
    else
        registers_increase<232>();
    out[threadIdx.x] = value;
}

__global__ void powers_of_two(const float* in, float* out, Numbers) {
    out[threadIdx.x] = exp2_approximate(in[threadIdx.x]);
}

// ---- memory on both sides --------------------------------------------------------------------------------------------

struct Buffer {
    char* data = nullptr;
#if defined(__CUDACC__)
    explicit Buffer(size_t bytes) { cudaMalloc(reinterpret_cast<void**>(&data), bytes + 256); }
    ~Buffer() { cudaFree(data); }
    void put(const void* from, size_t bytes) { cudaMemcpy(data, from, bytes, cudaMemcpyHostToDevice); }
    int get(void* to, size_t bytes) { return int(cudaMemcpy(to, data, bytes, cudaMemcpyDeviceToHost)); }
#else
    explicit Buffer(size_t bytes) : data(static_cast<char*>(simt::allocate(bytes))) {}
    ~Buffer() { simt::release(data); }
    void put(const void* from, size_t bytes) {
        std::memcpy(data, from, bytes);
        simt::mark_written(data, bytes);
    }
    int get(void* to, size_t bytes) { return std::memcpy(to, data, bytes) == nullptr; }
#endif
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
};

constexpr int wgmma_shared = 128 << 10;

template <class In, class Out> using Kernel = void (*)(const In*, Out*, Numbers);
template <class In, class Out>
int start(Kernel<In, Out> kernel, int threads, size_t shared, const char* in, char* out, const Numbers& numbers) {
    return LAUNCH(kernel, dim3(1), dim3(unsigned(threads)), shared, 0, reinterpret_cast<const In*>(in),
                  reinterpret_cast<Out*>(out), numbers);
}

template <class T, int n, bool with_transposed>
int start_group_product(const std::string& layout, const char* in, char* out, const Numbers& numbers) {
    if (layout == "kk") return start(group_product<T, n, false, false>, 128, wgmma_shared, in, out, numbers);
    if (layout == "rk") return start(group_product_registers<T, n, false>, 128, wgmma_shared, in, out, numbers);
    if constexpr (with_transposed) {
        if (layout == "mn") return start(group_product<T, n, true, true>, 128, wgmma_shared, in, out, numbers);
        if (layout == "mk") return start(group_product<T, n, true, false>, 128, wgmma_shared, in, out, numbers);
        if (layout == "kn") return start(group_product<T, n, false, true>, 128, wgmma_shared, in, out, numbers);
        if (layout == "rn") return start(group_product_registers<T, n, true>, 128, wgmma_shared, in, out, numbers);
    }
    return -2;
}

template <bool with_transposed, class T>
int start_group_product(int n, const std::string& layout, const char* in, char* out, const Numbers& numbers) {
    switch (n) {
    case 8: return start_group_product<T, 8, false>(layout, in, out, numbers);
    case 24: return start_group_product<T, 24, false>(layout, in, out, numbers);
    case 64: return start_group_product<T, 64, with_transposed>(layout, in, out, numbers);
    case 128: return start_group_product<T, 128, with_transposed>(layout, in, out, numbers);
    case 256: return start_group_product<T, 256, false>(layout, in, out, numbers);
    default: return -2;
    }
}

int run(const std::string& name, const char* in, char* out, const Numbers& n) {
    if (name == "conversions")
        return LAUNCH(conversions, dim3(1), dim3(1024), 0, 0, reinterpret_cast<const float*>(in),
                      reinterpret_cast<uint32_t*>(out), n.v[0]);
    if (name == "ldmatrix.1") return start(load_matrices<1, false>, 32, 0, in, out, n);
    if (name == "ldmatrix.2") return start(load_matrices<2, false>, 32, 0, in, out, n);
    if (name == "ldmatrix.4") return start(load_matrices<4, false>, 32, 0, in, out, n);
    if (name == "ldmatrix.1.transposed") return start(load_matrices<1, true>, 32, 0, in, out, n);
    if (name == "ldmatrix.2.transposed") return start(load_matrices<2, true>, 32, 0, in, out, n);
    if (name == "ldmatrix.4.transposed") return start(load_matrices<4, true>, 32, 0, in, out, n);
    if (name == "stmatrix.1") return start(store_matrices<1, false>, 32, 0, in, out, n);
    if (name == "stmatrix.2") return start(store_matrices<2, false>, 32, 0, in, out, n);
    if (name == "stmatrix.4") return start(store_matrices<4, false>, 32, 0, in, out, n);
    if (name == "stmatrix.4.transposed") return start(store_matrices<4, true>, 32, 0, in, out, n);
    if (name == "movmatrix") return start(move_matrix, 32, 0, in, out, n);
    if (name == "mma.f16.8") return start(warp_product<float16, 8>, 32, 0, in, out, n);
    if (name == "mma.f16.16") return start(warp_product<float16, 16>, 32, 0, in, out, n);
    if (name == "mma.bf16.8") return start(warp_product<bfloat16, 8>, 32, 0, in, out, n);
    if (name == "mma.bf16.16") return start(warp_product<bfloat16, 16>, 32, 0, in, out, n);
    if (name == "mma.tf32.8") return start(warp_product<float, 8>, 32, 0, in, out, n);
    if (name == "cp_async.4") return start(copy_pieces<4, false>, 32, 0, in, out, n);
    if (name == "cp_async.8") return start(copy_pieces<8, false>, 32, 0, in, out, n);
    if (name == "cp_async.16") return start(copy_pieces<16, false>, 32, 0, in, out, n);
    if (name == "cp_async.16.barrier") return start(copy_pieces<16, true>, 32, 0, in, out, n);
    if (name == "cp_async.groups") return start(copy_groups, 32, 0, in, out, n);
    if (name == "named_barriers") return start(named_barriers, 64, 0, in, out, n);
    if (name == "bulk_ring") return start(bulk_ring, 64, 0, in, out, n);
    if (name == "bulk_stores") return start(bulk_stores, 32, 0, in, out, n);
    if (name == "setmaxnreg") return start(moving_registers, 256, 0, in, out, n);
    if (name == "exp2") return start(powers_of_two, n.v[0], 0, in, out, n);
    if (name.rfind("wgmma.", 0) == 0) { // wgmma.<type>.<layouts of A and B>, n in v[15]
        const std::string layout = name.substr(name.size() - 2), type = name.substr(6, name.size() - 9);
        if (type == "f16") return start_group_product<true, float16>(n.v[15], layout, in, out, n);
        if (type == "bf16") return start_group_product<true, bfloat16>(n.v[15], layout, in, out, n);
        return start_group_product<false, float>(n.v[15], layout, in, out, n);
    }
    return -2;
}

template <class T> bool encode(CUtensorMap& map, const char* base, int rank, const uint64_t* geometry, int swizzle) {
    uint32_t box[5], steps[5];
    for (int i = 0; i < 5; ++i) box[i] = uint32_t(geometry[9 + i]), steps[i] = uint32_t(geometry[14 + i]);
    return encode_tensor_map(map, reinterpret_cast<const T*>(base), rank, geometry, geometry + 5, box, Swizzle(swizzle),
                             steps);
}

} // namespace
} // namespace mmk::cuda

using namespace mmk::cuda;

#define EXPORTED extern "C" __attribute__((visibility("default")))

// out holds poison before and results after.
EXPORTED int conformance_run(const char* name, const void* in, size_t in_bytes, void* out, size_t out_bytes,
                             const int* numbers) {
    Numbers n;
    for (int i = 0; i < 16; ++i) n.v[i] = numbers[i];
    Buffer from(in_bytes), to(out_bytes);
    from.put(in, in_bytes), to.put(out, out_bytes);
    const int error = run(name, from.data, to.data, n);
    return error != 0 ? error : to.get(out, out_bytes);
}

// geometry: 5 extents, 4 strides in bytes, 5 of the box, 5 steps. The tensor is `tensor`; `image` is shared memory.
EXPORTED int conformance_tensor(int storing, int element_bytes, int swizzle, const uint64_t* geometry, void* tensor,
                                size_t tensor_bytes, void* image, size_t image_bytes, const int* numbers) {
    Numbers n;
    for (int i = 0; i < 16; ++i) n.v[i] = numbers[i];
    Buffer there(tensor_bytes), here(image_bytes);
    there.put(tensor, tensor_bytes), here.put(image, image_bytes);
    CUtensorMap map;
    const bool encoded = element_bytes == 1   ? encode<uint8_t>(map, there.data, n.v[0], geometry, swizzle)
                         : element_bytes == 2 ? encode<uint16_t>(map, there.data, n.v[0], geometry, swizzle)
                                              : encode<uint32_t>(map, there.data, n.v[0], geometry, swizzle);
    if (!encoded) return -3;
    const size_t shared = 64 << 10;
    const int error =
        storing != 0
            ? LAUNCH(tensor_stores, dim3(1), dim3(32), shared, 0, map, reinterpret_cast<const uint32_t*>(here.data), n)
            : LAUNCH(tensor_loads, dim3(1), dim3(32), shared, 0, map, reinterpret_cast<uint32_t*>(here.data), n);
    if (error != 0) return error;
    return storing != 0 ? there.get(tensor, tensor_bytes) : here.get(image, image_bytes);
}

#if !defined(__CUDACC__)
EXPORTED void simt_configure(int order, uint64_t seed, int late, unsigned preempt, int check) {
    simt::configure({simt::Order(order), seed, late != 0, preempt, check != 0});
}
EXPORTED size_t simt_reports(char* text, size_t bytes) {
    std::string all;
    for (const std::string& report : simt::take_reports()) all += report + "\n";
    snprintf(text, bytes, "%s", all.c_str());
    return all.size();
}
#endif
