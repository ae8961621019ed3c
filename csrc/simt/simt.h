// What kernels see of CUDA when a plain C++ compiler compiles them: every CUDA thread is a fiber, a block runs on one
// host thread, and the functions below park fibers, compute for a warp, or copy on behalf of a thread.
//
// There is no __shared__ (SHARED and DYN_SHARED in ptx.cuh give memory with red zones), no floating-point atomic (its
// order would differ from run to run) and no approximate intrinsic (its bits cannot be had here).
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#include "host.h"
#include "types.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)

// The emulator's own state is not kernel memory. The compiler will not inline such a function into an instrumented one.
#define SIMT_UNCHECKED inline __attribute__((no_sanitize("thread", "bounds", "alignment")))
// Inlined, so that the address a function of the runtime returns to is the kernel's line.
#define SIMT_FORWARD inline __attribute__((always_inline))

struct alignas(128) CUtensorMap {
    const char* base;
    uint64_t extents[5], strides[5]; // of elements, and in bytes; innermost first
    uint16_t box[5], steps[5];
    uint8_t rank, element_bytes, swizzle_bytes, encoded;
};

namespace simt {

struct Thread {
    uint3 index;
    int linear, lane, warp;
};
struct Geometry {
    uint3 block_index, block_extent, grid_extent;
};
extern Thread* current; // null on the host
extern Geometry geometry;
SIMT_UNCHECKED uint3 thread_index() { return current->index; }
SIMT_UNCHECKED uint3 block_index() { return geometry.block_index; }
SIMT_UNCHECKED uint3 block_extent() { return geometry.block_extent; }
SIMT_UNCHECKED uint3 grid_extent() { return geometry.grid_extent; }
SIMT_UNCHECKED int lane() { return current->lane; }

// Where a shared array lies is decided when a launch first reaches it.
struct SharedSlot {
    uint64_t launch;
    uint32_t offset;
};
void* shared_array(SharedSlot& slot, const char* name, size_t bytes, size_t alignment);
void* dynamic_shared();
uint32_t shared_address(const void* pointer);

enum class Reduction { none, both, any, count };
int block_barrier(Reduction reduction, int predicate, const char* file, int line);
void barrier_sync(int barrier, int threads);
void barrier_arrive(int barrier, int threads);
void yield();
void fence();

void warp_barrier(uint32_t mask);
uint64_t shuffle(uint32_t mask, uint64_t value, int source);
uint32_t ballot(uint32_t mask, bool predicate);

enum class Atomic { add, exchange, compare_and_swap, bit_and, bit_or, bit_xor, min_signed, max_signed, min, max };
uint64_t atomic(Atomic what, void* address, int bytes, uint64_t value, uint64_t expected);

void cp_async(void* shared, const void* global, int bytes, int valid);
void cp_async_commit();
void cp_async_wait(int pending);
void cp_async_arrive(uint64_t* barrier);

void ldmatrix(uint32_t* registers, const void* row, int matrices, bool transposed);
void stmatrix(void* row, const uint32_t* registers, int matrices, bool transposed);
uint32_t movmatrix(uint32_t fragment);
enum class Element { f16, bf16, tf32 };
// d += a b with the fragments of mma.sync.m16n8k; k is 8 or 16.
void mma(Element element, int k, float* d, const uint32_t* a, const uint32_t* b);

void mbarrier_init(uint64_t* barrier, uint32_t count);
void mbarrier_invalidate(uint64_t* barrier);
void mbarrier_expect(uint64_t* barrier, uint32_t bytes);
void mbarrier_arrive(uint64_t* barrier, uint32_t count);
bool mbarrier_test(uint64_t* barrier, uint32_t parity);
void mbarrier_wait(uint64_t* barrier, uint32_t parity);

bool encode_tiled(CUtensorMap& map, int element_bytes, int rank, const void* base, const uint64_t* extents,
                  const uint64_t* strides, const uint32_t* box, const uint32_t* steps, int swizzle_bytes);
void bulk_load(void* shared, const void* global, uint32_t bytes, uint64_t* barrier);
void bulk_store(void* global, const void* shared, uint32_t bytes);
void tensor_load(void* shared, const CUtensorMap& map, const int* coordinates, int rank, uint64_t* barrier);
void tensor_store(const CUtensorMap& map, const void* shared, const int* coordinates, int rank);
void bulk_commit();
void bulk_wait(int pending, bool sources_only);

struct Wgmma {
    Element element;
    int n;
    uint64_t a, b;               // descriptors
    const uint32_t* a_registers; // null: a is in shared memory
    bool a_transposed, b_transposed;
    bool accumulate;
};
void wgmma(const Wgmma& operation, float* d);
void wgmma_commit();
void wgmma_wait(int pending);

struct Launch {
    const char* kernel;
    const void* code;
    void (*call)(const void*);
    const void* arguments;
    size_t argument_bytes;
    dim3 grid, block;
    size_t shared;
    bool instrumented; // the compiler calls the checker
};
int launch(const Launch& launch);
#if defined(__SANITIZE_THREAD__)
inline constexpr bool kernels_instrumented = true;
#else
inline constexpr bool kernels_instrumented = false;
#endif

template <class... Parameters> struct Call {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> arguments;

    template <size_t... index> SIMT_UNCHECKED void run(std::index_sequence<index...>) const {
        kernel(std::get<index>(arguments)...);
    }
    static SIMT_UNCHECKED void start(const void* call) {
        static_cast<const Call*>(call)->run(std::index_sequence_for<Parameters...>());
    }
};
template <bool instrumented, class Stream, class... Parameters, class... Arguments>
int launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared, const Stream&,
           Arguments&&... arguments) {
    const Call<Parameters...> call{kernel, {static_cast<Parameters>(std::forward<Arguments>(arguments))...}};
    return launch(Launch{name, reinterpret_cast<const void*>(kernel), Call<Parameters...>::start, &call, sizeof call,
                         grid, block, shared, instrumented});
}

} // namespace simt

#define threadIdx (simt::thread_index())
#define blockIdx (simt::block_index())
#define blockDim (simt::block_extent())
#define gridDim (simt::grid_extent())
#define warpSize 32

// The place in the source tells one barrier from another: threads that meet must have come to the same one.
SIMT_FORWARD void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    simt::block_barrier(simt::Reduction::none, 0, file, line);
}
SIMT_FORWARD int __syncthreads_and(int p, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return simt::block_barrier(simt::Reduction::both, p, file, line);
}
SIMT_FORWARD int __syncthreads_or(int p, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return simt::block_barrier(simt::Reduction::any, p, file, line);
}
SIMT_FORWARD int __syncthreads_count(int p, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return simt::block_barrier(simt::Reduction::count, p, file, line);
}
SIMT_FORWARD void __threadfence() { simt::fence(); }
SIMT_FORWARD void __threadfence_block() { simt::fence(); }

// Warps
SIMT_FORWARD void __syncwarp(unsigned mask = 0xffffffffu) { simt::warp_barrier(mask); }
SIMT_FORWARD unsigned __ballot_sync(unsigned mask, int predicate) { return simt::ballot(mask, predicate); }
SIMT_FORWARD int __any_sync(unsigned mask, int predicate) { return simt::ballot(mask, predicate) != 0; }
SIMT_FORWARD int __all_sync(unsigned mask, int predicate) { return simt::ballot(mask, !predicate) == 0; }

namespace simt {
template <class T> SIMT_FORWARD T shuffle_as(unsigned mask, T value, int source) {
    static_assert((sizeof(T) == 4 || sizeof(T) == 8) && std::is_trivially_copyable_v<T>);
    using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
    return bits_as<T>(Bits(shuffle(mask, bits_as<Bits>(value), source)));
}
} // namespace simt
template <class T> SIMT_FORWARD T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    return simt::shuffle_as(mask, value, (simt::lane() & -width) | (source & (width - 1)));
}
template <class T> SIMT_FORWARD T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    const int lane = simt::lane(), source = lane ^ bits;
    return simt::shuffle_as(mask, value, (source & -width) > (lane & -width) ? lane : source);
}
template <class T> SIMT_FORWARD T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32) {
    const int lane = simt::lane();
    return simt::shuffle_as(mask, value, (lane & (width - 1)) >= int(distance) ? lane - int(distance) : lane);
}
template <class T> SIMT_FORWARD T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32) {
    const int lane = simt::lane();
    return simt::shuffle_as(mask, value, (lane & (width - 1)) + int(distance) < width ? lane + int(distance) : lane);
}

// Atomics, of the integer types that CUDA has them for
namespace simt {
template <class T>
concept AtomicInteger = std::is_same_v<T, int> || std::is_same_v<T, unsigned> || std::is_same_v<T, unsigned long long>;
template <AtomicInteger T> SIMT_FORWARD T atomic_as(Atomic what, T* address, T value, T expected = 0) {
    return T(atomic(what, address, sizeof(T), uint64_t(value), uint64_t(expected)));
}
template <class T> struct Same {
    using type = T; // a parameter that takes no part in deduction
};
} // namespace simt
#define SIMT_ATOMIC(name, signed_operation, unsigned_operation)                                                        \
    template <simt::AtomicInteger T> SIMT_FORWARD T name(T* address, typename simt::Same<T>::type value) {             \
        return simt::atomic_as(                                                                                        \
            std::is_signed_v<T> ? simt::Atomic::signed_operation : simt::Atomic::unsigned_operation, address, value);  \
    }
SIMT_ATOMIC(atomicAdd, add, add)
SIMT_ATOMIC(atomicExch, exchange, exchange)
SIMT_ATOMIC(atomicMin, min_signed, min)
SIMT_ATOMIC(atomicMax, max_signed, max)
SIMT_ATOMIC(atomicAnd, bit_and, bit_and)
SIMT_ATOMIC(atomicOr, bit_or, bit_or)
SIMT_ATOMIC(atomicXor, bit_xor, bit_xor)
#undef SIMT_ATOMIC
template <simt::AtomicInteger T>
SIMT_FORWARD T atomicCAS(T* address, typename simt::Same<T>::type expected, typename simt::Same<T>::type value) {
    return simt::atomic_as(simt::Atomic::compare_and_swap, address, value, expected);
}

// Memory with hints
template <class T> SIMT_FORWARD T __ldg(const T* address) { return *address; }
template <class T> SIMT_FORWARD T __ldcs(const T* address) { return *address; }
template <class T> SIMT_FORWARD T __ldcg(const T* address) { return *address; }
template <class T> SIMT_FORWARD void __stcs(T* address, T value) { *address = value; }
template <class T> SIMT_FORWARD void __stcg(T* address, T value) { *address = value; }

// Integers
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll((unsigned long long)(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __mulhi(int a, int b) { return int((long long)(a)*b >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((unsigned long long)(a)*b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    __extension__ using Wide = unsigned __int128;
    return (unsigned long long)(Wide(a) * b >> 64);
}
inline unsigned __brev(unsigned x) {
    unsigned reversed = 0;
    for (int i = 0; i < 32; ++i) reversed |= (x >> i & 1u) << (31 - i);
    return reversed;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return unsigned(((unsigned long long)(high) << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return unsigned(((unsigned long long)(high) << 32 | low) >> (shift & 31));
}
#define SIMT_MIN_MAX(T)                                                                                                \
    constexpr T min(T a, T b) { return b < a ? b : a; }                                                                \
    constexpr T max(T a, T b) { return a < b ? b : a; }
SIMT_MIN_MAX(int)
SIMT_MIN_MAX(unsigned)
SIMT_MIN_MAX(long)
SIMT_MIN_MAX(unsigned long)
SIMT_MIN_MAX(long long)
SIMT_MIN_MAX(unsigned long long)
#undef SIMT_MIN_MAX

// Floating point, rounded to nearest even and never contracted
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fsqrt_rn(float a) { return __builtin_sqrtf(a); }
inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __drcp_rn(double a) { return 1.0 / a; }
inline double __dsqrt_rn(double a) { return __builtin_sqrt(a); }
inline double __fma_rn(double a, double b, double c) { return __builtin_fma(a, b, c); }

// Bits
inline float __int_as_float(int bits) { return simt::bits_as<float>(bits); }
inline float __uint_as_float(unsigned bits) { return simt::bits_as<float>(bits); }
inline int __float_as_int(float value) { return simt::bits_as<int>(value); }
inline unsigned __float_as_uint(float value) { return simt::bits_as<unsigned>(value); }
inline long long __double_as_longlong(double value) { return simt::bits_as<long long>(value); }
inline double __longlong_as_double(long long bits) { return simt::bits_as<double>(bits); }

// Conversions saturate, and NaN becomes 0 (cvt to 64 bits: 0x8000000000000000)
namespace simt {
template <class Integer> inline Integer saturate(double value) {
    constexpr Integer lowest = std::is_signed_v<Integer> ? Integer(uint64_t(1) << (8 * sizeof(Integer) - 1)) : 0;
    constexpr double past = std::is_signed_v<Integer> ? 0x1p31 : 0x1p32, low = double(lowest);
    if (value != value) return 0;
    return value >= past ? Integer(~lowest) : value <= low ? lowest : Integer(value);
}
} // namespace simt
inline int __float2int_rn(float x) { return simt::saturate<int>(__builtin_rint(double(x))); }
inline int __float2int_rz(float x) { return simt::saturate<int>(double(x)); }
inline int __float2int_rd(float x) { return simt::saturate<int>(__builtin_floor(double(x))); }
inline int __float2int_ru(float x) { return simt::saturate<int>(__builtin_ceil(double(x))); }
inline unsigned __float2uint_rn(float x) { return simt::saturate<unsigned>(__builtin_rint(double(x))); }
inline unsigned __float2uint_rz(float x) { return simt::saturate<unsigned>(double(x)); }
inline float __int2float_rn(int x) { return float(x); }
inline float __uint2float_rn(unsigned x) { return float(x); }
inline float __ll2float_rn(long long x) { return float(x); }
inline float __ull2float_rn(unsigned long long x) { return float(x); }
inline double __int2double_rn(int x) { return double(x); }
inline float __double2float_rn(double x) { return float(x); }
