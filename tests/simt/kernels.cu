// Kernels for the emulator's own tests. `bug` is 0, or the number of a defect that must be found.
#include "../../csrc/cuda/ptx.cuh"

#include <cstdio>
#include <string>

#if !defined(__CUDACC__)
#include "../../csrc/simt/reports.h"
#endif

namespace mmk::cuda {
namespace {

// ---- sound kernels, and defects in them ------------------------------------------------------------------------------

__global__ void matmul(const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ c, int m, int n,
                       int k, int bug) {
    SHARED(float, a_tile, [16][16]);
    SHARED(float, b_tile, [16][17]);
    const int tx = int(threadIdx.x), ty = int(threadIdx.y);
    const int row = int(blockIdx.y) * 16 + ty, column = int(blockIdx.x) * 16 + tx;
    float sum = 0.0f;
    for (int k0 = 0; k0 < k; k0 += 16) {
        a_tile[ty][tx] = row < m && k0 + tx < k ? a[row * k + k0 + tx] : 0.0f;
        b_tile[ty][tx] = k0 + ty < k && column < n ? b[(k0 + ty) * n + column] : 0.0f;
        if (bug != 1) __syncthreads();
        for (int i = 0; i < 16; ++i) sum = __fmaf_rn(a_tile[ty][i + (bug == 3)], b_tile[i][tx], sum);
        if (bug != 2) __syncthreads();
    }
    if ((row < m && column < n) || bug == 4) c[row * n + column] = sum;
}

__device__ float block_sum(float value, float* parts, int bug) {
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32, warps = int(blockDim.x) / 32;
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
    if (lane == 0) parts[warp] = value;
    __syncthreads();
    value = lane < warps ? parts[lane] : 0.0f;
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
    if (bug != 5) __syncthreads(); // parts are used again by the next sum
    return value;
}

// Each row less its mean, over its mean absolute deviation, in bfloat16.
__global__ void centre_rows(const float* x, bfloat16* y, int columns, int bug) {
    DYN_SHARED(float, memory);
    float *parts = memory, *row = memory + 32;
    x += size_t(blockIdx.x) * columns, y += size_t(blockIdx.x) * columns;
    float sum = 0.0f;
    for (int i = int(threadIdx.x); i < columns; i += int(blockDim.x)) row[i] = x[i], sum += row[i];
    const float mean = block_sum(sum, parts, bug) / float(columns);
    sum = 0.0f;
    for (int i = int(threadIdx.x); i < columns; i += int(blockDim.x)) sum += fabsf(row[i] - mean);
    const float deviation = block_sum(sum, parts, bug) / float(columns);
    for (int i = int(threadIdx.x); i < columns; i += int(blockDim.x))
        y[i] = {uint16_t(pack_bf16((row[i] - mean) / deviation, 0.0f))};
}

// c [m][n] = a [m][k] b [k][n]: 64 x 64 for four warps, two stages of cp.async.
__global__ void __launch_bounds__(128)
    gemm_mma(const bfloat16* a, const bfloat16* b, float* c, int m, int n, int k, int bug) {
    SHARED(bfloat16, a_tile, [2][64][40]); // rows of 80 bytes: ldmatrix has no bank conflicts
    SHARED(bfloat16, b_tile, [2][32][72]);
    const int thread = int(threadIdx.x), lane = thread % 32, warp = thread / 32;
    const int warp_row = warp % 2 * 32, warp_column = warp / 2 * 32;
    const int row0 = int(blockIdx.y) * 64, column0 = int(blockIdx.x) * 64, steps = k / 32;
    float d[2][4][4] = {};
    const auto load = [&](int stage, int k0) {
        for (int i = thread; i < 256; i += 128) {
            const int row = i / 4, column = i % 4 * 8, inside = row0 + row < m;
            cp_async<16>(&a_tile[stage][row][column], a + size_t(inside ? row0 + row : 0) * k + k0 + column,
                         inside * 16);
        }
        for (int i = thread; i < 256; i += 128) {
            const int row = i / 8, column = i % 8 * 8, inside = column0 + column < n;
            cp_async<16>(&b_tile[stage][row][column], b + size_t(k0 + row) * n + (inside ? column0 + column : 0),
                         inside * 16);
        }
        cp_async_commit();
    };
    load(0, 0);
    for (int step = 0; step < steps; ++step) {
        const int stage = step % 2;
        if (step + 1 < steps) {
            load(1 - stage, (step + 1) * 32);
            if (bug != 6) cp_async_wait<1>();
        } else {
            cp_async_wait<0>();
        }
        __syncthreads();
        for (int kk = 0; kk < 32; kk += 16) {
            uint32_t a_part[2][4], b_part[2][4];
            for (int i = 0; i < 2; ++i)
                ldmatrix(a_part[i], &a_tile[stage][warp_row + 16 * i + lane % 16][kk + lane / 16 * 8]);
            for (int j = 0; j < 2; ++j)
                ldmatrix_transposed(b_part[j], &b_tile[stage][kk + lane % 16][warp_column + 16 * j + lane / 16 * 8]);
            for (int i = 0; i < 2; ++i)
                for (int j = 0; j < 4; ++j) {
                    const uint32_t pair[2] = {b_part[j / 2][j % 2 * 2], b_part[j / 2][j % 2 * 2 + 1]};
                    mma_m16n8k16<bfloat16>(d[i][j], a_part[i], pair);
                }
        }
        if (bug != 7) __syncthreads();
    }
    for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 4; ++j)
            for (int e = 0; e < 4; ++e) {
                const int row = row0 + warp_row + 16 * i + lane / 4 + 8 * (e / 2);
                const int column = column0 + warp_column + 8 * j + 2 * (lane % 4) + e % 2;
                if (row < m && column < n) c[size_t(row) * n + column] = d[i][j][e];
            }
}

// c [m][n] = a [m][k] b [n][k] transposed: a producer thread fills a ring by tensor copies, a warpgroup multiplies, and
// the result leaves by a tensor copy. 64 x 32 for each block, 64 along k. Pipelined: one step's products are still under
// way while the next ones are started.
template <bool pipelined> __global__ void __launch_bounds__(256, 1)
    gemm_wgmma(const __grid_constant__ CUtensorMap a_map, const __grid_constant__ CUtensorMap b_map,
               const __grid_constant__ CUtensorMap c_map, int k, int bug) {
    constexpr int stages = 2, a_bytes = 64 * 128, b_bytes = 32 * 128;
    DYN_SHARED(char, memory);
    char *a_tiles = memory, *b_tiles = memory + stages * a_bytes;
    float* c_tile = reinterpret_cast<float*>(memory + stages * (a_bytes + b_bytes));
    SHARED(uint64_t, full, [stages]);
    SHARED(uint64_t, empty, [stages]);
    const int thread = int(threadIdx.x), steps = (k + 63) / 64;
    if (thread == 0) {
        for (int s = 0; s < stages; ++s) mbarrier_init(&full[s], 1), mbarrier_init(&empty[s], 128);
        fence_mbarrier_init();
    }
    if (bug != 22) __syncthreads();
    if (thread >= 128) {
        registers_decrease<24>();
        if (thread == 128)
            for (int step = 0; step < steps; ++step) {
                const int s = step % stages;
                const uint32_t round = uint32_t(step / stages % 2);
                if (bug != 8) mbarrier_wait(&empty[s], round ^ 1);
                mbarrier_arrive_expect(&full[s], a_bytes + b_bytes - (bug == 23 ? 16 : 0));
                tensor_load(a_tiles + s * a_bytes, a_map, &full[s], step * 64, int(blockIdx.y) * 64);
                tensor_load(b_tiles + s * b_bytes, b_map, &full[s], step * 64, int(blockIdx.x) * 32);
            }
    } else {
        registers_increase<240>();
        float d[16] = {};
        for (int step = 0; step < steps; ++step) {
            const int s = step % stages;
            if (bug != 9) mbarrier_wait(&full[s], uint32_t(step / stages % 2));
            if constexpr (!pipelined) wgmma_keep(d);
            wgmma_fence();
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const uint64_t a = wgmma_descriptor(a_tiles + s * a_bytes + 32 * i, 16, 1024, Swizzle::bytes128);
                const uint64_t b = wgmma_descriptor(b_tiles + s * b_bytes + 32 * i, 16, 1024, Swizzle::bytes128);
                wgmma<bfloat16>(d, a, b, true);
            }
            wgmma_commit();
            if constexpr (pipelined) {
                wgmma_wait<1>();
                fence_proxy_async();
                if (step > 0 || bug == 27) mbarrier_arrive(&empty[bug == 27 ? s : 1 - s]);
            } else {
                if (bug != 12) wgmma_wait<0>();
                wgmma_keep(d);
                fence_proxy_async();
                mbarrier_arrive(&empty[s]);
            }
        }
        wgmma_wait<0>();
        wgmma_keep(d);
        for (int i = 0; i < 16; ++i)
            c_tile[(thread / 32 * 16 + thread % 32 / 4 + 8 * (i / 2 % 2)) * 32 + 8 * (i / 4) + 2 * (thread % 4) +
                   i % 2] = d[i];
        fence_proxy_async();
        if (bug != 25) barrier_sync(1, 128);
        if (thread == 0) {
            tensor_store(c_map, c_tile, int(blockIdx.x) * 32, int(blockIdx.y) * 64);
            bulk_commit();
            if (bug != 24) bulk_wait_read<0>();
        }
    }
}

// The last block to finish adds the others' sums, in order.
__global__ void last_block_sums(const float* x, float* parts, float* total, unsigned* counter, int n, int bug) {
    SHARED(float, warp_sums, [32]);
    SHARED(int, last);
    float sum = 0.0f;
    for (int i = int(blockIdx.x * blockDim.x + threadIdx.x); i < n; i += int(gridDim.x * blockDim.x)) sum += x[i];
    parts[blockIdx.x * blockDim.x + threadIdx.x] = sum;
    if (bug != 20) __threadfence();
    if (bug != 21) __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(counter, 1) == gridDim.x - 1;
    __syncthreads();
    if (!last) return;
    sum = 0.0f;
    for (int i = int(threadIdx.x); i < int(gridDim.x * blockDim.x); i += int(blockDim.x)) sum += parts[i];
    sum = block_sum(sum, warp_sums, 0);
    if (threadIdx.x == 0) *total = sum;
}

// The same among the warps of one block.
__global__ void last_warp_sums(const float* x, float* total, int bug) {
    SHARED(float, parts, [8]);
    SHARED(unsigned, counter);
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
    if (threadIdx.x == 0) counter = 0;
    __syncthreads();
    float sum = x[threadIdx.x];
    for (int step = 16; step > 0; step /= 2) sum += __shfl_down_sync(0xffffffffu, sum, unsigned(step));
    int last = 0;
    if (lane == 0) {
        parts[warp] = sum;
        if (bug != 26) __threadfence_block();
        last = atomicAdd(&counter, 1u) == blockDim.x / 32 - 1;
        if (last) {
            sum = 0.0f;
            for (int i = 0; i < int(blockDim.x) / 32; ++i) sum += parts[i];
            *total = sum;
        }
    }
}

// Counts positive numbers; threads past the end leave before the barrier.
__global__ void count_positive(const float* x, unsigned* counts, unsigned* total, int n, int bug) {
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    const unsigned votes = __ballot_sync(0xffffffffu, (i < n || bug == 14) && x[i] > 0.0f);
    if (i >= n) return;
    if (threadIdx.x % 32 == 0) {
        if (bug == 10)
            *total += unsigned(__popc(votes));
        else
            atomicAdd(total, unsigned(__popc(votes)));
    }
    const int count = __syncthreads_count(x[i] > 0.0f);
    const int any = __syncthreads_or(x[i] > 0.0f), all = __syncthreads_and(x[i] > 0.0f);
    if (threadIdx.x == 0) counts[blockIdx.x] = unsigned(count) | unsigned(any) << 16 | unsigned(all) << 17;
}

// out[row][lane]: one row for each kind of shuffle and vote.
__global__ void warp_operations(const int* x, long long* out, int bug) {
    const int lane = int(threadIdx.x);
    const unsigned all = 0xffffffffu;
    const int v = x[lane];
    const auto put = [&](int row, long long value) { out[row * 32 + lane] = value; };
    put(0, __shfl_sync(all, v, 5));
    put(1, __shfl_sync(all, v, lane + 3, 8));
    put(2, __shfl_xor_sync(all, v, 9));
    put(3, __shfl_xor_sync(all, v, 3, 4));
    put(4, __shfl_up_sync(all, v, 3));
    put(5, __shfl_up_sync(all, v, 3, 16));
    put(6, __shfl_down_sync(all, v, 7));
    put(7, __shfl_down_sync(all, v, 2, 8));
    put(8, __shfl_sync(all, (long long)(v) << 33, 31));
    put(9, (long long)(__shfl_sync(all, float(v) * 0.5f, 1) * 2));
    put(10, __ballot_sync(all, v > 0));
    put(11, __any_sync(all, v == x[7]));
    put(12, __all_sync(all, v > -1000));
    // halves of a warp on their own ways, with masks of their own
    const unsigned mine = lane < 16 ? 0xffffu : 0xffff0000u;
    if (lane < 16)
        put(13, __shfl_xor_sync(mine, v, 1));
    else
        put(13, __ballot_sync(mine, v > 0));
    if (bug == 17)
        put(14, __shfl_sync(0xfffffffeu, v, 1));
    else if (bug == 18)
        put(14, lane < 16 ? __shfl_sync(0xffffu, v, 20) : 0);
    else if (bug == 29)
        put(14, __shfl_sync(lane < 16 ? 0xffffffffu : 0xfffffff0u, v, 8));
    else
        put(14, v);
}

// Lanes exchange through shared memory.
__global__ void reverse_warps(const int* x, int* y, int bug) {
    SHARED(int, slots, [256]);
    const int base = int(threadIdx.x) / 32 * 32, lane = int(threadIdx.x) % 32;
    slots[base + lane] = x[threadIdx.x];
    if (bug != 19) __syncwarp();
    y[threadIdx.x] = slots[base + 31 - lane];
}

__global__ void atomics(const int* x, int* i32, unsigned* u32, unsigned long long* u64, int n) {
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n) return;
    const int v = x[i];
    atomicAdd(&i32[0], v), atomicMax(&i32[1], v), atomicMin(&i32[2], v);
    atomicOr(&u32[0], 1u << (v & 31)), atomicAnd(&u32[1], ~(1u << (v & 7))), atomicXor(&u32[2], unsigned(v));
    atomicMax(&u32[3], unsigned(v)), atomicMin(&u32[4], unsigned(v));
    atomicAdd(&u64[0], (unsigned long long)(v) << 20), atomicMax(&u64[1], (unsigned long long)(v));
    unsigned old = u32[8 + i], seen; // a slot of its own, changed by compare and swap
    do seen = old, old = atomicCAS(&u32[8 + i], seen, seen + unsigned(v));
    while (old != seen);
    i32[3 + i] = atomicExch(&i32[3 + i], -v) - v;
}

__global__ void integers(const int* x, long long* out) {
    const int i = int(threadIdx.x), v = x[i];
    const auto u = unsigned(v);
    long long* row = out + 16 * i;
    row[0] = __popc(u), row[1] = __clz(v), row[2] = __ffs(v), row[3] = __brev(u);
    row[4] = __mulhi(v, 0x12345678), row[5] = __umulhi(u, 0x9abcdef0u);
    row[6] = __funnelshift_l(u, 0x80000001u, 5), row[7] = __funnelshift_r(u, 0x80000001u, 5);
    row[8] = __float2int_rn(__int_as_float(v)), row[9] = __float2int_rz(__int_as_float(v));
    row[10] = __float2uint_rn(__int_as_float(v)), row[11] = min(v, 7), row[12] = max(u, 7u);
    row[13] = __float_as_int(__fmaf_rn(__int_as_float(v), 3.0f, 1.0f));
    row[14] = (long long)(__umul64hi((unsigned long long)(v), 0xfedcba9876543210ull));
    row[15] = __float_as_int(__fdiv_rn(1.0f, __int_as_float(v)));
}

__constant__ int table[4] = {3, 1, 4, 1};
struct Shape {
    int columns;
    long long offset;
};
struct FromTable {
    float* y;
    __device__ void operator()(int64_t i, long long k) const { y[i] = float(table[i % 4] + k); }
};
template <class F> __global__ void elementwise(F f, Shape shape, int64_t n) {
    const int64_t i = (int64_t(blockIdx.z) * gridDim.y + blockIdx.y) * gridDim.x * blockDim.x +
                      int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) f(i, shape.columns + shape.offset);
}

// ---- one defect each -------------------------------------------------------------------------------------------------

__global__ void defects(float* x, float* y, int n, int bug) {
    SHARED(float, slots, [64]);
    SHARED(uint64_t, barrier);
    const int i = int(threadIdx.x);
    float local[4] = {float(i), 1.0f, 2.0f, 3.0f};
    switch (bug) {
    case 100: y[i] = x[i + n]; break;    // past the end
    case 101: y[i] = x[i - 1]; break;    // before the start
    case 102: x[i] = 1.0f; break;        // an input
    case 103: y[i] = y[i] + 1.0f; break; // never written
    case 104: y[i] = slots[i]; break;    // never written
    case 105: y[0] = float(i); break;    // by everybody
    case 106: slots[i] = 1.0f, y[i] = slots[i ^ 1]; break;
    case 107: y[i] = *reinterpret_cast<const float*>(reinterpret_cast<const char*>(x) + 2); break;
    case 108: *reinterpret_cast<float4*>(y + 1) = make_float4(1, 2, 3, 4); break;
    case 109: // in different branches
        if (i < 16)
            __syncthreads();
        else
            __syncthreads();
        break;
    case 110: // half the threads come
        if (i < 32)
            __syncthreads();
        else
            barrier_sync(3, 64);
        break;
    case 111: barrier_sync(1, i < 32 ? 64 : 32); break;
    case 112: barrier_sync(16, 64); break;
    case 113: barrier_sync(1, 40); break;
    case 114: mbarrier_wait(&barrier, 0); break; // not initialised
    case 115:                                    // nobody arrives
        if (i == 0) mbarrier_init(&barrier, 2);
        __syncthreads();
        if (i == 0) mbarrier_arrive(&barrier);
        mbarrier_wait(&barrier, 0);
        break;
    case 116: // more arrive than it counts
        if (i == 0) {
            mbarrier_init(&barrier, 1);
            mbarrier_expect(&barrier, 16);
            mbarrier_arrive(&barrier), mbarrier_arrive(&barrier);
        }
        break;
    case 117: // not waited for
        if (i == 0) {
            mbarrier_init(&barrier, 1);
            mbarrier_arrive_expect(&barrier, 128);
            bulk_load(slots, x, 128, &barrier);
        }
        break;
    case 118: // twice
        if (i == 0) mbarrier_init(&barrier, 1), mbarrier_init(&barrier, 1);
        break;
    case 119: // the source changes before it was read
        slots[i] = 1.0f;
        __syncthreads();
        if (i == 0) {
            bulk_store(y, slots, 128);
            bulk_commit();
        }
        __syncthreads();
        slots[i] = 2.0f;
        if (i == 0) bulk_wait<0>();
        break;
    case 120: { // some lanes of a warp
        uint32_t registers[1];
        if (i % 2 == 0) ldmatrix(registers, slots);
        break;
    }
    case 121: cp_async<16>(slots + 1, x); break; // misaligned
    case 122: bulk_load(slots, x + 1, 16, &barrier); break;
    case 123: cp_async<4>(slots + i, x + n); break; // past the end
    case 124: cp_async<4>(slots + i, x + i), y[i] = slots[i]; break;
    case 125: { // another thread's local variable
        SHARED(float*, pointer);
        if (i == 0) pointer = local;
        __syncthreads();
        y[i] = *pointer;
        __syncthreads();
        break;
    }
    case 126: y[i] = local[i]; break; // index 4 and more
#if !defined(__CUDACC__)              // ptxas refuses it
    case 127: {                       // more than there is
        SHARED(float, large, [12800]);
        large[i] = 1.0f, y[i] = large[63 - i];
        break;
    }
#endif
    case 128: // an atomic, and a plain write
        if (i == 0) y[0] = 0.0f;
        __syncthreads();
        atomicAdd(reinterpret_cast<unsigned*>(y), 1u);
        if (i == 40) y[0] = 0.0f;
        break;
    case 129: { // a vote here, a shuffle there
        if (i % 32 < 16)
            __ballot_sync(0xffffffffu, 1);
        else
            __shfl_sync(0xffffffffu, i, 0);
        break;
    }
    case 130: // half of them while the other half reads
        if (i < 32) slots[i] = 1.0f;
        barrier_arrive(1, 128);
        if (i >= 32) y[i] = slots[i - 32];
        break;
    case 131: slots[i + (n > 0)] = 1.0f, y[i] = 0.0f; break; // one past a shared array
    default: break;
    }
}

// Without check: the red zones.
__global__ void stray_writes(float* y, int at, int where) {
    SHARED(float, first, [16]);
    SHARED(float, second, [16]);
    float* base = where == 0 ? y : where == 1 ? first : second;
    base[at] = 1.0f;
}

// With sleeping warps and flags: passes only if a thread that spins lets the others run.
__global__ void spin(uint32_t* out) {
    SHARED(uint64_t, barrier);
    if (threadIdx.x == 0) mbarrier_init(&barrier, 1);
    __syncthreads();
    uint32_t tries = 0;
    if (threadIdx.x == 63)
        mbarrier_arrive(&barrier);
    else
        while (!mbarrier_try_wait(&barrier, 0)) ++tries;
    out[threadIdx.x] = 1;
}

template <class T> T* as(void* pointer) { return static_cast<T*>(pointer); }

[[maybe_unused]] int run(const std::string& name, int bug, void* const* p, const long* n) {
    const auto extent = [&](int i) { return unsigned(n[i]); };
    if (name == "matmul")
        return LAUNCH(matmul, dim3((extent(1) + 15) / 16, (extent(0) + 15) / 16), dim3(16, 16), 0, 0, as<float>(p[0]),
                      as<float>(p[1]), as<float>(p[2]), int(n[0]), int(n[1]), int(n[2]), bug);
    if (name == "centre_rows")
        return LAUNCH(centre_rows, extent(0), 128, 4 * (32 + extent(1)), 0, as<float>(p[0]), as<bfloat16>(p[1]),
                      int(n[1]), bug);
    if (name == "gemm_mma")
        return LAUNCH(gemm_mma, dim3((extent(1) + 63) / 64, (extent(0) + 63) / 64), 128, 0, 0, as<bfloat16>(p[0]),
                      as<bfloat16>(p[1]), as<float>(p[2]), int(n[0]), int(n[1]), int(n[2]), bug);
    if (name == "gemm_wgmma" || name == "gemm_wgmma.pipelined") {
        const uint64_t a_extents[] = {uint64_t(n[2]), uint64_t(n[0])}, b_extents[] = {uint64_t(n[2]), uint64_t(n[1])};
        const uint64_t c_extents[] = {uint64_t(n[1]), uint64_t(n[0])};
        const uint64_t stride[] = {uint64_t(n[2]) * 2}, c_stride[] = {uint64_t(n[1]) * 4};
        const uint32_t a_box[] = {64, 64}, b_box[] = {64, 32}, c_box[] = {32, 64};
        CUtensorMap a, b, c;
        if (!encode_tensor_map(a, as<bfloat16>(p[0]), 2, a_extents, stride, a_box, Swizzle::bytes128) ||
            !encode_tensor_map(b, as<bfloat16>(p[1]), 2, b_extents, stride, b_box, Swizzle::bytes128) ||
            !encode_tensor_map(c, as<float>(p[2]), 2, c_extents, c_stride, c_box, Swizzle::none))
            return -3;
        if (name == "gemm_wgmma")
            return LAUNCH(gemm_wgmma<false>, dim3((extent(1) + 31) / 32, (extent(0) + 63) / 64), 256, 32768 + 8192, 0,
                          a, b, c, int(n[2]), bug);
        return LAUNCH(gemm_wgmma<true>, dim3((extent(1) + 31) / 32, (extent(0) + 63) / 64), 256, 32768 + 8192, 0, a, b,
                      c, int(n[2]), bug);
    }
    if (name == "last_block_sums")
        return LAUNCH(last_block_sums, 7, 64, 0, 0, as<float>(p[0]), as<float>(p[1]), as<float>(p[2]),
                      as<unsigned>(p[3]), int(n[0]), bug);
    if (name == "last_warp_sums") return LAUNCH(last_warp_sums, 1, 256, 0, 0, as<float>(p[0]), as<float>(p[1]), bug);
    if (name == "count_positive")
        return LAUNCH(count_positive, (extent(0) + 127) / 128, 128, 0, 0, as<float>(p[0]), as<unsigned>(p[1]),
                      as<unsigned>(p[2]), int(n[0]), bug);
    if (name == "warp_operations") return LAUNCH(warp_operations, 1, 32, 0, 0, as<int>(p[0]), as<long long>(p[1]), bug);
    if (name == "reverse_warps") return LAUNCH(reverse_warps, 1, 256, 0, 0, as<int>(p[0]), as<int>(p[1]), bug);
    if (name == "atomics")
        return LAUNCH(atomics, (extent(0) + 63) / 64, 64, 0, 0, as<int>(p[0]), as<int>(p[1]), as<unsigned>(p[2]),
                      as<unsigned long long>(p[3]), int(n[0]));
    if (name == "integers") return LAUNCH(integers, 1, extent(0), 0, 0, as<int>(p[0]), as<long long>(p[1]));
    if (name == "elementwise") {
        return LAUNCH((elementwise<FromTable>), dim3(2, 3, 4), 32, 0, 0, FromTable{as<float>(p[0])}, Shape{10, 1000},
                      int64_t(n[0]));
    }
    if (name == "defects") return LAUNCH(defects, 1, 64, 0, 0, as<float>(p[0]), as<float>(p[1]), int(n[0]), bug);
    if (name == "stray_writes") return LAUNCH(stray_writes, 1, 1, 0, 0, as<float>(p[0]), int(n[0]), int(n[1]));
    if (name == "spin") return LAUNCH(spin, 1, 64, 0, 0, as<uint32_t>(p[0]));
    if (name == "shape")
        return LAUNCH(stray_writes, dim3(extent(0), extent(1)), dim3(extent(2)), extent(3), 0, as<float>(p[0]), 0, 0);
    return -2;
}

} // namespace
} // namespace mmk::cuda

#if !defined(__CUDACC__)
#define EXPORTED extern "C" __attribute__((visibility("default")))
EXPORTED int simt_run(const char* name, int bug, void* const* pointers, const long* numbers) {
    return mmk::cuda::run(name, bug, pointers, numbers);
}
EXPORTED void* simt_allocate(size_t bytes) { return simt::allocate(bytes); }
EXPORTED void simt_release(void* pointer) { simt::release(pointer); }
EXPORTED void simt_mark_written(void* pointer, size_t bytes) { simt::mark_written(pointer, bytes); }
EXPORTED void simt_set_read_only(void* pointer, int read_only) { simt::set_read_only(pointer, read_only != 0); }
EXPORTED void simt_configure(int order, uint64_t seed, int late, unsigned preempt, int check) {
    simt::configure({simt::Order(order), seed, late != 0, preempt, check != 0});
}
EXPORTED void simt_reports(char* text, size_t bytes) {
    std::string all;
    for (const std::string& report : simt::take_reports()) all += report + "\n";
    snprintf(text, bytes, "%s", all.c_str());
}
EXPORTED void simt_counts(uint64_t* counts) {
    const simt::Counts now = simt::counts();
    counts[0] = now.launches, counts[1] = now.switches, counts[2] = now.accesses;
}
#endif
