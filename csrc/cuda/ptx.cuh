// All inline PTX of the project, and what launching and shared memory need: one function for each instruction, with the
// instruction and what the emulator does in its place side by side. Included by .cu files only; they are compiled by
// nvcc for the device, and as plain C++ against csrc/simt for tests.
//
// Rules of kernels that are to run on both: SHARED and DYN_SHARED instead of __shared__; LAUNCH instead of <<<>>>; no
// asm elsewhere; loops that wait for another thread only inside the functions below; __syncwarp() where lanes talk
// through memory; parameters are pointers, numbers and plain structs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "../core/half.h"
#include "wgmma_operands.h"

#if defined(__CUDACC__)
#include <cuda.h>
#include <cuda_runtime.h>
#else
#include "../simt/simt.h"
#endif

#define MMK_PTX __device__ __forceinline__

// MMK_ASM holds what the device does, MMK_ASM_90 what needs sm_90a (a trap in code for other devices, so that one
// source compiles for all), MMK_EMULATED what stands for it without a device.
#if defined(__CUDACC__)
#define MMK_ASM(...) __VA_ARGS__
#define MMK_EMULATED(...)
#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define MMK_ASM_90(...) __trap();
#else
#define MMK_ASM_90(...) __VA_ARGS__
#endif
#else
#define MMK_ASM(...)
#define MMK_ASM_90(...)
#define MMK_EMULATED(...) __VA_ARGS__
#endif

// SHARED(float, tile, [32][33]); declares float tile[32][33], DYN_SHARED(float, buffer); a pointer to the launch's dynamic
// shared memory, which starts at a multiple of 1024.
#if defined(__CUDACC__)
#define SHARED(type, name, ...)                                                                                        \
    using name##_shared_type = type __VA_ARGS__;                                                                       \
    __shared__ __align__(sizeof(name##_shared_type) >= 128 ? 128 : 16) name##_shared_type name
#define DYN_SHARED(type, name)                                                                                         \
    extern __shared__ __align__(1024) unsigned char mmk_dynamic_shared[];                                              \
    type* const name = reinterpret_cast<type*>(mmk_dynamic_shared)
#else
#define SHARED(type, name, ...)                                                                                        \
    using name##_shared_type = type __VA_ARGS__;                                                                       \
    static constinit simt::SharedSlot name##_shared_slot{};                                                            \
    name##_shared_type& name = *static_cast<name##_shared_type*>(simt::shared_array(                                   \
        name##_shared_slot, #name, sizeof(name##_shared_type), sizeof(name##_shared_type) >= 128 ? 128 : 16))
#define DYN_SHARED(type, name) type* const name = static_cast<type*>(simt::dynamic_shared())
#endif

// LAUNCH((kernel<T, 4>), grid, block, shared_bytes, stream, arguments...) is 0, or the error's number.
#if defined(__CUDACC__)
#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                                         \
    mmk::cuda::launch_kernel(kernel, grid, block, shared_bytes, stream __VA_OPT__(, ) __VA_ARGS__)
namespace mmk::cuda {
template <class... Parameters, class... Arguments> int launch_kernel(void (*kernel)(Parameters...), dim3 grid,
                                                                     dim3 block, size_t shared_bytes,
                                                                     cudaStream_t stream, Arguments&&... arguments) {
    // more than 48 KB has to be asked for
    if (shared_bytes > size_t(48) << 10) {
        const cudaError_t error =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes));
        if (error != cudaSuccess) return int(error);
    }
    kernel<<<grid, block, shared_bytes, stream>>>(static_cast<Parameters>(std::forward<Arguments>(arguments))...);
    return int(cudaGetLastError());
}
} // namespace mmk::cuda
#else
#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                                         \
    simt::launch<simt::kernels_instrumented>(#kernel, kernel, grid, block, shared_bytes,                               \
                                             stream __VA_OPT__(, ) __VA_ARGS__)
#endif

// Each body keeps instruction, operands and emulation as they are laid out here.
// clang-format off
namespace mmk::cuda {

// As instructions take it. With clusters, the bits from 24 on name the block.
MMK_PTX uint32_t shared_address(const void* pointer) {
    MMK_ASM(return uint32_t(__cvta_generic_to_shared(pointer));)
    MMK_EMULATED(return simt::shared_address(pointer);)
}

// ---- two 16-bit numbers in one register ------------------------------------------------------------------------

MMK_PTX float widen_f16(uint16_t bits) {
    MMK_ASM(float value; asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits)); return value;)
    MMK_EMULATED(return simt::float16_to_float(bits);)
}
// cvt.rn.*x2 takes the upper half first.
MMK_PTX uint32_t pack_bf16(float low, float high) {
    MMK_ASM(uint32_t pair; asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low)); return pair;)
    MMK_EMULATED(return simt::float_to_bfloat16(low) | uint32_t(simt::float_to_bfloat16(high)) << 16;)
}
MMK_PTX uint32_t pack_f16(float low, float high) {
    MMK_ASM(uint32_t pair; asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low)); return pair;)
    MMK_EMULATED(return simt::float_to_float16(low) | uint32_t(simt::float_to_float16(high)) << 16;)
}
// Nearest, ties away from zero; the tensor cores themselves would cut the low 13 bits off.
MMK_PTX uint32_t to_tf32(float value) {
    MMK_ASM(uint32_t bits; asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value)); return bits;)
    MMK_EMULATED(const uint32_t bits = simt::bits_as<uint32_t>(value);
                 if ((bits & 0x7f800000u) == 0x7f800000u) return (bits & 0x7fffffu) != 0 ? 0x7fffffffu : bits;
                 return (bits + 0x1000u) & 0xffffe000u;)
}

// ---- matrices of 8 x 8 16-bit elements, and products of a warp ---------------------------------------------------

// Lanes 8j to 8j+7 give the addresses of the 16-byte rows of matrix j. Lane L receives of matrix j the elements
// [L/4][2(L%4)] and the next in registers[j]; transposed: [2(L%4)][L/4] and the one below.
MMK_PTX void ldmatrix(uint32_t (&registers)[1], const void* row) {
    MMK_ASM(asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(registers[0]) : "r"(
        shared_address(row)) : "memory");)
    MMK_EMULATED(simt::ldmatrix(registers, row, 1, false);)
}
MMK_PTX void ldmatrix(uint32_t (&registers)[2], const void* row) {
    MMK_ASM(asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(registers[0]),
                         "=r"(registers[1]) : "r"(shared_address(row)) : "memory");)
    MMK_EMULATED(simt::ldmatrix(registers, row, 2, false);)
}
MMK_PTX void ldmatrix(uint32_t (&registers)[4], const void* row) {
    MMK_ASM(asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(registers[0]),
                         "=r"(registers[1]), "=r"(registers[2]),
                         "=r"(registers[3]) : "r"(shared_address(row)) : "memory");)
    MMK_EMULATED(simt::ldmatrix(registers, row, 4, false);)
}
MMK_PTX void ldmatrix_transposed(uint32_t (&registers)[1], const void* row) {
    MMK_ASM(asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(registers[0]) : "r"(
        shared_address(row)) : "memory");)
    MMK_EMULATED(simt::ldmatrix(registers, row, 1, true);)
}
MMK_PTX void ldmatrix_transposed(uint32_t (&registers)[2], const void* row) {
    MMK_ASM(asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];" : "=r"(registers[0]),
                         "=r"(registers[1]) : "r"(shared_address(row)) : "memory");)
    MMK_EMULATED(simt::ldmatrix(registers, row, 2, true);)
}
MMK_PTX void ldmatrix_transposed(uint32_t (&registers)[4], const void* row) {
    MMK_ASM(asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(registers[0]),
                         "=r"(registers[1]), "=r"(registers[2]),
                         "=r"(registers[3]) : "r"(shared_address(row)) : "memory");)
    MMK_EMULATED(simt::ldmatrix(registers, row, 4, true);)
}

// The inverse of ldmatrix.
MMK_PTX void stmatrix(void* row, const uint32_t (&registers)[1]) {
    MMK_ASM_90(asm volatile("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%0], {%1};" ::"r"(shared_address(row)),
                            "r"(registers[0]) : "memory");)
    MMK_EMULATED(simt::stmatrix(row, registers, 1, false);)
}
MMK_PTX void stmatrix(void* row, const uint32_t (&registers)[2]) {
    MMK_ASM_90(asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(shared_address(row)),
                            "r"(registers[0]), "r"(registers[1]) : "memory");)
    MMK_EMULATED(simt::stmatrix(row, registers, 2, false);)
}
MMK_PTX void stmatrix(void* row, const uint32_t (&registers)[4]) {
    MMK_ASM_90(
        asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)),
                     "r"(registers[0]), "r"(registers[1]), "r"(registers[2]), "r"(registers[3]) : "memory");)
    MMK_EMULATED(simt::stmatrix(row, registers, 4, false);)
}
MMK_PTX void stmatrix_transposed(void* row, const uint32_t (&registers)[4]) {
    MMK_ASM_90(asm volatile(
                   "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)),
                   "r"(registers[0]), "r"(registers[1]), "r"(registers[2]), "r"(registers[3]) : "memory");)
    MMK_EMULATED(simt::stmatrix(row, registers, 4, true);)
}
// The transposed fragment of an 8 x 8 matrix.
MMK_PTX uint32_t movmatrix(uint32_t fragment) {
    MMK_ASM(uint32_t transposed;
            asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(fragment));
            return transposed;)
    MMK_EMULATED(return simt::movmatrix(fragment);)
}

// d += a b, float32 accumulators; m16n8k16 for 16-bit types, m16n8k8 for all. With g = L / 4 and t = L % 4 lane L holds
//     16-bit  a[r]: row g + 8(r%2), k = 2t + 8(r/2) and the next    b[r]: column g, k = 2t + 8r and the next
//     tf32    a[r]: row g + 8(r%2), k = t + 4(r/2)                  b[r]: column g, k = t + 4r
//     d[i]: row g + 8(i/2), column 2t + i%2
template <class T> MMK_PTX void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
template <class T> MMK_PTX void mma_m16n8k8(float (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[1]);

template <> MMK_PTX void mma_m16n8k16<bfloat16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    MMK_ASM(asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                         "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" : "+f"(d[0]),
                         "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]),
                         "r"(b[1]));)
    MMK_EMULATED(simt::mma(simt::Element::bf16, 16, d, a, b);)
}
template <> MMK_PTX void mma_m16n8k16<float16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    MMK_ASM(asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                         "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" : "+f"(d[0]),
                         "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]),
                         "r"(b[1]));)
    MMK_EMULATED(simt::mma(simt::Element::f16, 16, d, a, b);)
}
template <> MMK_PTX void mma_m16n8k8<bfloat16>(float (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[1]) {
    MMK_ASM(asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 "
                         "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};" : "+f"(d[0]),
                         "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(b[0]));)
    MMK_EMULATED(simt::mma(simt::Element::bf16, 8, d, a, b);)
}
template <> MMK_PTX void mma_m16n8k8<float16>(float (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[1]) {
    MMK_ASM(asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
                         "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};" : "+f"(d[0]),
                         "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(b[0]));)
    MMK_EMULATED(simt::mma(simt::Element::f16, 8, d, a, b);)
}
MMK_PTX void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    MMK_ASM(asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                         "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" : "+f"(d[0]),
                         "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]),
                         "r"(b[1]));)
    MMK_EMULATED(simt::mma(simt::Element::tf32, 8, d, a, b);)
}

// ---- cp.async: copies of 4, 8 or 16 bytes from global to shared memory ---------------------------------------------

// Bytes from `valid` on become 0; the address must be in range even if none is valid. 16 bytes bypass the first cache.
template <int bytes> MMK_PTX void cp_async(void* shared, const void* global, int valid = bytes) {
    static_assert(bytes == 4 || bytes == 8 || bytes == 16);
    MMK_ASM(if constexpr (bytes == 16) asm volatile(
                "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                "r"(valid) : "memory");
            else asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)),
                              "l"(global), "n"(bytes), "r"(valid) : "memory");)
    MMK_EMULATED(simt::cp_async(shared, global, bytes, valid);)
}
MMK_PTX void cp_async_commit() {
    MMK_ASM(asm volatile("cp.async.commit_group;" :: : "memory");)
    MMK_EMULATED(simt::cp_async_commit();)
}
// Until at most `pending` of this thread's groups are under way; other threads see the bytes after a barrier.
template <int pending> MMK_PTX void cp_async_wait() {
    MMK_ASM(asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");)
    MMK_EMULATED(simt::cp_async_wait(pending);)
}

// The barrier's arrival that follows this thread's cp.async copies so far: one of those that its count foresees.
MMK_PTX void cp_async_arrive(uint64_t* barrier) {
    MMK_ASM(asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];"
                         ::"r"(shared_address(barrier)) : "memory");)
    MMK_EMULATED(simt::cp_async_arrive(barrier);)
}

// ---- barriers of some threads of a block ---------------------------------------------------------------------------

// Numbers 1 to 15 (0 is __syncthreads); threads is a multiple of 32 and counts those who wait and those who only arrive.
MMK_PTX void barrier_sync(int number, int threads) {
    MMK_ASM(asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");)
    MMK_EMULATED(simt::barrier_sync(number, threads);)
}
MMK_PTX void barrier_arrive(int number, int threads) {
    MMK_ASM(asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");)
    MMK_EMULATED(simt::barrier_arrive(number, threads);)
}

// ---- mbarrier: 8 bytes of shared memory that count arrivals and bytes ------------------------------------------------

// By one thread; then fence_mbarrier_init() and __syncthreads() before anybody uses it.
MMK_PTX void mbarrier_init(uint64_t* barrier, uint32_t arrivals) {
    MMK_ASM_90(asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;"
                            ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");)
    MMK_EMULATED(simt::mbarrier_init(barrier, arrivals);)
}
MMK_PTX void mbarrier_invalidate(uint64_t* barrier) {
    MMK_ASM_90(asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");)
    MMK_EMULATED(simt::mbarrier_invalidate(barrier);)
}
MMK_PTX void mbarrier_arrive(uint64_t* barrier) {
    MMK_ASM_90(asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");)
    MMK_EMULATED(simt::mbarrier_arrive(barrier, 1);)
}
// The phase also waits for so many bytes; at most 2^20 - 1 in one phase.
MMK_PTX void mbarrier_expect(uint64_t* barrier, uint32_t bytes) {
    MMK_ASM_90(asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;"
                            ::"r"(shared_address(barrier)), "r"(bytes) : "memory");)
    MMK_EMULATED(simt::mbarrier_expect(barrier, bytes);)
}
MMK_PTX void mbarrier_arrive_expect(uint64_t* barrier, uint32_t bytes) {
    MMK_ASM_90(asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                            ::"r"(shared_address(barrier)), "r"(bytes) : "memory");)
    MMK_EMULATED(simt::mbarrier_expect(barrier, bytes); simt::mbarrier_arrive(barrier, 1);)
}
// Whether the phase of this parity is over: parity 1 passes on a fresh barrier, 0 waits for the first phase.
MMK_PTX bool mbarrier_try_wait(uint64_t* barrier, uint32_t parity) {
    MMK_ASM_90(uint32_t over;
               asm volatile("{\n"
                            ".reg .pred p;\n"
                            "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                            "selp.u32 %0, 1, 0, p;\n"
                            "}" : "=r"(over) : "r"(shared_address(barrier)), "r"(parity) : "memory");
               return over != 0;)
    MMK_EMULATED(return simt::mbarrier_test(barrier, parity);)
}
MMK_PTX void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
    MMK_ASM(while (!mbarrier_try_wait(barrier, parity)) {})
    MMK_EMULATED(simt::mbarrier_wait(barrier, parity);)
}

// ---- fences (the emulator cannot tell where one is missing) ------------------------------------------------------------

// After mbarrier_init, by the thread that did it.
MMK_PTX void fence_mbarrier_init() {
    MMK_ASM_90(asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");)
    MMK_EMULATED()
}
// In every thread that wrote shared memory, before the barrier after which wgmma or a bulk store reads it; and in every
// thread that read what a bulk load will overwrite, before it says so.
MMK_PTX void fence_proxy_async() {
    MMK_ASM_90(asm volatile("fence.proxy.async;" ::: "memory");)
    MMK_EMULATED()
}

// ---- bulk copies: addresses and sizes are multiples of 16 ------------------------------------------------------------

// One thread starts it; the bytes are counted on the barrier, which must expect them.
MMK_PTX void bulk_load(void* shared, const void* global, uint32_t bytes, uint64_t* barrier) {
    MMK_ASM_90(asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                            ::"r"(shared_address(shared)), "l"(global), "r"(bytes), "r"(shared_address(barrier))
                            : "memory");)
    MMK_EMULATED(simt::bulk_load(shared, global, bytes, barrier);)
}
MMK_PTX void bulk_store(void* global, const void* shared, uint32_t bytes) {
    MMK_ASM_90(asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;"
                            ::"l"(global), "r"(shared_address(shared)), "r"(bytes) : "memory");)
    MMK_EMULATED(simt::bulk_store(global, shared, bytes);)
}
// A thread's stores since the last commit are a group; wait until at most `pending` groups are under way, or, with
// bulk_wait_read, until all but so many have read their source.
MMK_PTX void bulk_commit() {
    MMK_ASM_90(asm volatile("cp.async.bulk.commit_group;" ::: "memory");)
    MMK_EMULATED(simt::bulk_commit();)
}
template <int pending> MMK_PTX void bulk_wait() {
    MMK_ASM_90(asm volatile("cp.async.bulk.wait_group %0;" ::"n"(pending) : "memory");)
    MMK_EMULATED(simt::bulk_wait(pending, false);)
}
template <int pending> MMK_PTX void bulk_wait_read() {
    MMK_ASM_90(asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(pending) : "memory");)
    MMK_EMULATED(simt::bulk_wait(pending, true);)
}

// ---- tensor copies: a box of a tensor of 1 to 5 extents, coordinates innermost first ------------------------------------

// The map is a `const __grid_constant__ CUtensorMap` parameter. Loads: the shared address is a multiple of 128 (of 1024
// with a swizzle of 128 bytes, if row 0 is to be at chunk 0); elements outside the tensor become 0 and are counted, so
// the barrier always expects the whole box. Stores: nothing below coordinate 0; what is past the end is left out.
MMK_PTX void prefetch_tensor_map(const CUtensorMap& map) {
    MMK_ASM_90(asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");)
    MMK_EMULATED((void)map;)
}
MMK_PTX void tensor_load(void* shared, const CUtensorMap& map, uint64_t* barrier, int c0) {
    MMK_ASM_90(asm volatile("cp.async.bulk.tensor.1d.shared::cluster.global.mbarrier::complete_tx::bytes "
                            "[%0], [%1, {%3}], [%2];"
                            ::"r"(shared_address(shared)), "l"(&map), "r"(shared_address(barrier)), "r"(c0) : "memory");)
    MMK_EMULATED(const int at[] = {c0}; simt::tensor_load(shared, map, at, 1, barrier);)
}
MMK_PTX void tensor_load(void* shared, const CUtensorMap& map, uint64_t* barrier, int c0, int c1) {
    MMK_ASM_90(asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
                            "[%0], [%1, {%3, %4}], [%2];"
                            ::"r"(shared_address(shared)), "l"(&map), "r"(shared_address(barrier)), "r"(c0), "r"(c1)
                            : "memory");)
    MMK_EMULATED(const int at[] = {c0, c1}; simt::tensor_load(shared, map, at, 2, barrier);)
}
MMK_PTX void tensor_load(void* shared, const CUtensorMap& map, uint64_t* barrier, int c0, int c1, int c2) {
    MMK_ASM_90(asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
                            "[%0], [%1, {%3, %4, %5}], [%2];"
                            ::"r"(shared_address(shared)), "l"(&map), "r"(shared_address(barrier)), "r"(c0), "r"(c1),
                            "r"(c2) : "memory");)
    MMK_EMULATED(const int at[] = {c0, c1, c2}; simt::tensor_load(shared, map, at, 3, barrier);)
}
MMK_PTX void tensor_load(void* shared, const CUtensorMap& map, uint64_t* barrier, int c0, int c1, int c2, int c3) {
    MMK_ASM_90(asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
                            "[%0], [%1, {%3, %4, %5, %6}], [%2];"
                            ::"r"(shared_address(shared)), "l"(&map), "r"(shared_address(barrier)), "r"(c0), "r"(c1),
                            "r"(c2), "r"(c3) : "memory");)
    MMK_EMULATED(const int at[] = {c0, c1, c2, c3}; simt::tensor_load(shared, map, at, 4, barrier);)
}
MMK_PTX void tensor_load(void* shared, const CUtensorMap& map, uint64_t* barrier, int c0, int c1, int c2, int c3,
                         int c4) {
    MMK_ASM_90(asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes "
                            "[%0], [%1, {%3, %4, %5, %6, %7}], [%2];"
                            ::"r"(shared_address(shared)), "l"(&map), "r"(shared_address(barrier)), "r"(c0), "r"(c1),
                            "r"(c2), "r"(c3), "r"(c4) : "memory");)
    MMK_EMULATED(const int at[] = {c0, c1, c2, c3, c4}; simt::tensor_load(shared, map, at, 5, barrier);)
}
MMK_PTX void tensor_store(const CUtensorMap& map, const void* shared, int c0) {
    MMK_ASM_90(asm volatile("cp.async.bulk.tensor.1d.global.shared::cta.bulk_group [%0, {%2}], [%1];"
                            ::"l"(&map), "r"(shared_address(shared)), "r"(c0) : "memory");)
    MMK_EMULATED(const int at[] = {c0}; simt::tensor_store(map, shared, at, 1);)
}
MMK_PTX void tensor_store(const CUtensorMap& map, const void* shared, int c0, int c1) {
    MMK_ASM_90(asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];"
                            ::"l"(&map), "r"(shared_address(shared)), "r"(c0), "r"(c1) : "memory");)
    MMK_EMULATED(const int at[] = {c0, c1}; simt::tensor_store(map, shared, at, 2);)
}
MMK_PTX void tensor_store(const CUtensorMap& map, const void* shared, int c0, int c1, int c2) {
    MMK_ASM_90(asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];"
                            ::"l"(&map), "r"(shared_address(shared)), "r"(c0), "r"(c1), "r"(c2) : "memory");)
    MMK_EMULATED(const int at[] = {c0, c1, c2}; simt::tensor_store(map, shared, at, 3);)
}
MMK_PTX void tensor_store(const CUtensorMap& map, const void* shared, int c0, int c1, int c2, int c3) {
    MMK_ASM_90(asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];"
                            ::"l"(&map), "r"(shared_address(shared)), "r"(c0), "r"(c1), "r"(c2), "r"(c3) : "memory");)
    MMK_EMULATED(const int at[] = {c0, c1, c2, c3}; simt::tensor_store(map, shared, at, 4);)
}
MMK_PTX void tensor_store(const CUtensorMap& map, const void* shared, int c0, int c1, int c2, int c3, int c4) {
    MMK_ASM_90(asm volatile("cp.async.bulk.tensor.5d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5, %6}], [%1];"
                            ::"l"(&map), "r"(shared_address(shared)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
                            : "memory");)
    MMK_EMULATED(const int at[] = {c0, c1, c2, c3, c4}; simt::tensor_store(map, shared, at, 5);)
}

// 16-byte chunks are exchanged by bits of the shared address: chunk ^= (address / 128) % 8, (address / 128) % 4 or
// (address / 128) % 2 for rows of 128, 64 and 32 bytes.
enum class Swizzle : int { none = 0, bytes32 = 32, bytes64 = 64, bytes128 = 128 };

// On the host. Extents in elements and box innermost first; strides in bytes of all extents but the innermost; steps is
// null or how far apart the box's elements lie. False where the driver refuses (alignment of 16 bytes, a box of at most
// 256 and of no more bytes than the swizzle in the innermost extent), or is missing.
template <class T>
bool encode_tensor_map(CUtensorMap& map, const T* base, int rank, const uint64_t* extents, const uint64_t* strides,
                       const uint32_t* box, Swizzle swizzle, const uint32_t* steps = nullptr) {
    static_assert(sizeof(T) == 1 || sizeof(T) == 2 || sizeof(T) == 4);
    const uint32_t ones[5] = {1, 1, 1, 1, 1};
    if (steps == nullptr) steps = ones;
#if defined(__CUDACC__)
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult status;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &status) !=
            cudaSuccess || entry == nullptr)
        return false;
    // copies do not look at what the bytes mean, but stores that add would
    CUtensorMapDataType type = sizeof(T) == 1   ? CU_TENSOR_MAP_DATA_TYPE_UINT8
                               : sizeof(T) == 2 ? CU_TENSOR_MAP_DATA_TYPE_UINT16
                                                : CU_TENSOR_MAP_DATA_TYPE_UINT32;
    if constexpr (std::is_same_v<T, float>) type = CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
    if constexpr (std::is_same_v<T, float16>) type = CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    if constexpr (std::is_same_v<T, bfloat16>) type = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    const CUtensorMapSwizzle code = swizzle == Swizzle::none      ? CU_TENSOR_MAP_SWIZZLE_NONE
                                    : swizzle == Swizzle::bytes32 ? CU_TENSOR_MAP_SWIZZLE_32B
                                    : swizzle == Swizzle::bytes64 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                                  : CU_TENSOR_MAP_SWIZZLE_128B;
    using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                                const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                                CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
    cuuint64_t driver_extents[5] = {}, driver_strides[5] = {};
    uint64_t span = extents[0] * sizeof(T);
    for (int i = 0; i < rank; ++i) driver_extents[i] = extents[i];
    for (int i = 0; i + 1 < rank; ++i) {
        driver_strides[i] = strides[i];
        if (span < strides[i] * extents[i + 1]) span = strides[i] * extents[i + 1];
    }
    if (reinterpret_cast<Encode>(entry)(&map, type, cuuint32_t(rank), const_cast<T*>(base), driver_extents,
                                        driver_strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, code,
                                        CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                                        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) != CUDA_SUCCESS)
        return false;
    // Drivers up to 13.1 set a bit that is wrong for tensors below 128 KiB; other libraries clear it, too.
    int version = 0;
    if (span < uint64_t(128) << 10 && cudaDriverGetVersion(&version) == cudaSuccess && version <= 13010)
        map.opaque[1] &= ~(cuuint64_t(1) << 21);
    return true;
#else
    return simt::encode_tiled(map, sizeof(T), rank, base, extents, strides, box, steps, int(swizzle));
#endif
}

// ---- wgmma: products of a warpgroup (128 threads, the first a multiple of 128) ------------------------------------------

// An operand in shared memory: where it starts, two strides in bytes and its swizzle, which wgmma numbers otherwise
// than tensor maps do. With W the swizzle's width, an element of s bytes at row m (of A; of B: column n) and depth k is at
//     k contiguous, none  (m%8) 16 + (m/8) stride + (k s)%16 + (k s/16) leading
//     k contiguous, W     (m%8) W + (m/8) stride + k s                                  (leading is ignored)
//     m contiguous, none  (m s)%16 + (m s/16) stride + (k%8) 16 + (k/8) leading
//     m contiguous, W     (m s)%W + (m s/W) leading + (k%8) W + (k/8) stride
// Along k add bytes to the start: 32 for one step while inside the width. Rows start at multiples of 8.
MMK_PTX uint64_t wgmma_descriptor(const void* shared, uint32_t leading, uint32_t stride, Swizzle swizzle) {
    const uint64_t code = swizzle == Swizzle::bytes128 ? 1 : swizzle == Swizzle::bytes64 ? 2 : swizzle == Swizzle::bytes32 ? 3 : 0;
    return uint64_t((shared_address(shared) & 0x3ffff) >> 4) | uint64_t((leading & 0x3ffff) >> 4) << 16 |
           uint64_t((stride & 0x3ffff) >> 4) << 32 | code << 62;
}

// Before the first wgmma, and after any other access to accumulators or to A's registers.
MMK_PTX void wgmma_fence() {
    MMK_ASM_90(asm volatile("wgmma.fence.sync.aligned;" ::: "memory");)
    MMK_EMULATED()
}
MMK_PTX void wgmma_commit() {
    MMK_ASM_90(asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");)
    MMK_EMULATED(simt::wgmma_commit();)
}
// Until then nobody may touch the accumulators, A's registers and the operands in shared memory.
template <int pending> MMK_PTX void wgmma_wait() {
    MMK_ASM_90(asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");)
    MMK_EMULATED(simt::wgmma_wait(pending);)
}
// Keeps the compiler from moving copies of the accumulators past this point.
template <int n> MMK_PTX void wgmma_keep(float (&d)[n]) {
    MMK_ASM(for (int i = 0; i < n; ++i) asm volatile("" : "+f"(d[i])::"memory");)
    MMK_EMULATED((void)d;)
}

#if defined(__CUDACC__)
#define MMK_WGMMA_PREDICATE(p) "{\n.reg .pred p;\nsetp.ne.b32 p, %" #p ", 0;\n"
#define MMK_WGMMA_SHARED_16(n, type, p0, p1, p2, p3, p4)                                                               \
    asm volatile(MMK_WGMMA_PREDICATE(p2) "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type               \
                 " {" MMK_WGMMA_TEXT_##n "}, %" #p0 ", %" #p1 ", p, 1, 1, %" #p3 ", %" #p4 ";\n}"                      \
                 : MMK_WGMMA_BIND_##n(d)                                                                               \
                 : "l"(a), "l"(b), "r"(int(accumulate)), "n"(int(a_transposed)), "n"(int(b_transposed)))
#define MMK_WGMMA_SHARED(n, p0, p1, p2, p3, p4, p5, p6)                                                                \
    if constexpr (2 * half_n == n) {                                                                                   \
        if constexpr (std::is_same_v<T, bfloat16>) MMK_WGMMA_SHARED_16(n, "bf16", p0, p1, p2, p3, p4);            \
        else if constexpr (std::is_same_v<T, float16>) MMK_WGMMA_SHARED_16(n, "f16", p0, p1, p2, p3, p4);               \
        else                                                                                                           \
            asm volatile(MMK_WGMMA_PREDICATE(p2) "wgmma.mma_async.sync.aligned.m64n" #n "k8.f32.tf32.tf32"             \
                         " {" MMK_WGMMA_TEXT_##n "}, %" #p0 ", %" #p1 ", p, 1, 1;\n}"                                  \
                         : MMK_WGMMA_BIND_##n(d)                                                                       \
                         : "l"(a), "l"(b), "r"(int(accumulate)));                                                      \
    }
#define MMK_WGMMA_REGISTERS_16(n, type, p0, p1, p2, p3, p4, p5, p6)                                                    \
    asm volatile(MMK_WGMMA_PREDICATE(p5) "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type               \
                 " {" MMK_WGMMA_TEXT_##n "}, {%" #p0 ", %" #p1 ", %" #p2 ", %" #p3 "}, %" #p4 ", p, 1, 1, %" #p6 ";\n}" \
                 : MMK_WGMMA_BIND_##n(d)                                                                               \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(accumulate)), "n"(int(b_transposed)))
#define MMK_WGMMA_REGISTERS(n, p0, p1, p2, p3, p4, p5, p6)                                                             \
    if constexpr (2 * half_n == n) {                                                                                   \
        if constexpr (std::is_same_v<T, bfloat16>)                                                                \
            MMK_WGMMA_REGISTERS_16(n, "bf16", p0, p1, p2, p3, p4, p5, p6);                                             \
        else if constexpr (std::is_same_v<T, float16>)                                                                  \
            MMK_WGMMA_REGISTERS_16(n, "f16", p0, p1, p2, p3, p4, p5, p6);                                              \
        else                                                                                                           \
            asm volatile(MMK_WGMMA_PREDICATE(p5) "wgmma.mma_async.sync.aligned.m64n" #n "k8.f32.tf32.tf32"             \
                         " {" MMK_WGMMA_TEXT_##n "}, {%" #p0 ", %" #p1 ", %" #p2 ", %" #p3 "}, %" #p4 ", p, 1, 1;\n}"  \
                         : MMK_WGMMA_BIND_##n(d)                                                                       \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(accumulate)));                  \
    }
#else
template <class T>
inline constexpr simt::Element wgmma_element = std::is_same_v<T, bfloat16> ? simt::Element::bf16
                                               : std::is_same_v<T, float16>      ? simt::Element::f16
                                                                                : simt::Element::tf32;
#endif

// d (64 x n) = a b, or d += a b if accumulate. T is bfloat16 or float16 (k = 16), or float for tf32 (k = 8, k
// contiguous only); transposed means that k is not the contiguous direction. d has n/2 elements in each thread: d[i] of
// thread w is at row 16 (w/32) + (w%32)/4 + 8 (i/2%2), column 8 (i/4) + 2 (w%4) + i%2.
template <class T, bool a_transposed = false, bool b_transposed = false, int half_n>
MMK_PTX void wgmma(float (&d)[half_n], uint64_t a, uint64_t b, bool accumulate) {
    static_assert(half_n % 4 == 0 && half_n <= 128);
    static_assert(sizeof(T) == 2 || !(a_transposed || b_transposed));
    MMK_ASM_90(MMK_WGMMA_FOR_EACH_N(MMK_WGMMA_SHARED))
    MMK_EMULATED(simt::wgmma({wgmma_element<T>, 2 * half_n, a, b, nullptr, a_transposed, b_transposed, accumulate}, d);)
}
// The same with A in registers: the fragments of mma_m16n8k16 (tf32: mma_m16n8k8_tf32), warp w holding rows 16 w on.
template <class T, bool b_transposed = false, int half_n>
MMK_PTX void wgmma(float (&d)[half_n], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
    static_assert(half_n % 4 == 0 && half_n <= 128);
    static_assert(sizeof(T) == 2 || !b_transposed);
    MMK_ASM_90(MMK_WGMMA_FOR_EACH_N(MMK_WGMMA_REGISTERS))
    MMK_EMULATED(simt::wgmma({wgmma_element<T>, 2 * half_n, 0, b, a, false, b_transposed, accumulate}, d);)
}

// Registers for each thread of a warpgroup, 24 to 256, a multiple of 8; the kernel must have __launch_bounds__(threads, 1).
template <int count> MMK_PTX void registers_increase() {
    static_assert(count >= 24 && count <= 256 && count % 8 == 0);
    MMK_ASM_90(asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));)
    MMK_EMULATED()
}
template <int count> MMK_PTX void registers_decrease() {
    static_assert(count >= 24 && count <= 256 && count % 8 == 0);
    MMK_ASM_90(asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));)
    MMK_EMULATED()
}

// At most 2 units in the last place off, subnormals flushed; other bits than any CPU's, so not for float32 results.
MMK_PTX float exp2_approximate(float x) {
    MMK_ASM(float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y;)
    MMK_EMULATED(return __builtin_exp2f(x);)
}

} // namespace mmk::cuda
// clang-format on
