#include "layout.cuh"

namespace mmk::cuda {
namespace {

constexpr int threads = 256;

template <class T> __global__ void __launch_bounds__(threads)
    copy_elements(Walk<2> walk, int64_t count, T* to, const T* from) {
    for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < count; i += int64_t(gridDim.x) * threads) {
        int64_t offset[2];
        walk.offsets(i, offset);
        to[offset[0]] = from[offset[1]];
    }
}

// 32 x 32 elements through shared memory: rows of `from` become columns of `to`, both touched in whole sectors.
// The tile's rows are one longer than they are wide, so that a column has 32 different banks.
constexpr int tile = 32, tile_rows = 8;
template <class T> struct Planes {
    Walk<2> outer;         // the planes
    int64_t rows, columns; // to[r * to_row + c] = from[r + c * from_column]
    int64_t to_row, from_column;
    int64_t tiles_of_rows, tiles_of_columns, count; // of tiles
};
template <class T> __global__ void __launch_bounds__(tile* tile_rows)
    transpose(Planes<T> planes, T* to, const T* from) {
    SHARED(T, block, [tile][tile + 1]);
    const int x = int(threadIdx.x) % tile, y = int(threadIdx.x) / tile;
    for (int64_t index = blockIdx.x; index < planes.count; index += gridDim.x) {
        const int64_t column0 = index % planes.tiles_of_columns * tile;
        const int64_t row0 = index / planes.tiles_of_columns % planes.tiles_of_rows * tile;
        int64_t offset[2];
        planes.outer.offsets(index / (planes.tiles_of_columns * planes.tiles_of_rows), offset);
        for (int k = y; k < tile; k += tile_rows)
            if (row0 + x < planes.rows && column0 + k < planes.columns)
                block[k][x] = from[offset[1] + row0 + x + (column0 + k) * planes.from_column];
        __syncthreads();
        for (int k = y; k < tile; k += tile_rows)
            if (row0 + k < planes.rows && column0 + x < planes.columns)
                to[offset[0] + (row0 + k) * planes.to_row + column0 + x] = block[x][k];
        __syncthreads();
    }
}

__global__ void __launch_bounds__(threads) zero_bytes(uint8_t* data, int64_t bytes) {
    for (int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x; i < bytes / 16; i += int64_t(gridDim.x) * threads)
        reinterpret_cast<uint4*>(data)[i] = make_uint4(0, 0, 0, 0);
    const int64_t last = bytes / 16 * 16 + threadIdx.x;
    if (blockIdx.x == 0 && last < bytes) data[last] = 0;
}

// Whether, the target's last axis being dense, another axis is dense in the source: then a plane of the two is
// transposed. Fills `planes`.
template <class T> bool find_planes(const Walk<2>& walk, Planes<T>& planes) {
    const int last = walk.rank - 1;
    if (walk.rank < 2 || walk.stride[0][last] != 1) return false;
    int dense = -1;
    for (int axis = 0; axis < last; ++axis)
        if (walk.stride[1][axis] == 1) dense = axis;
    if (dense < 0 || walk.extent[dense] < 4 || walk.extent[last] < 4) return false;
    planes.rows = walk.extent[dense], planes.columns = walk.extent[last];
    planes.to_row = walk.stride[0][dense], planes.from_column = walk.stride[1][last];
    int64_t outer = 1;
    for (int axis = 0; axis < last; ++axis) {
        if (axis == dense) continue;
        const int at = planes.outer.rank++;
        planes.outer.extent[at] = walk.extent[axis];
        for (int k = 0; k < 2; ++k) planes.outer.stride[k][at] = walk.stride[k][axis];
        outer *= walk.extent[axis];
    }
    planes.tiles_of_rows = ceil_div(planes.rows, tile), planes.tiles_of_columns = ceil_div(planes.columns, tile);
    planes.count = outer * planes.tiles_of_rows * planes.tiles_of_columns;
    return true;
}

template <class T> void copy_typed(Context& context, const Tensor& to, const Tensor& from) {
    const Tensor* const both[2] = {&to, &from};
    const Walk<2> walk = walk_of(both);
    T* const target = static_cast<T*>(to.data);
    const T* const source = static_cast<const T*>(from.data);
    Planes<T> planes{};
    if (find_planes(walk, planes)) {
        MMK_LAUNCH(context, (transpose<T>), grid_of(planes.count), tile * tile_rows, 0, planes, target, source);
        return;
    }
    const int64_t count = to.size();
    MMK_LAUNCH(context, (copy_elements<T>), grid_of(ceil_div(count, threads)), threads, 0, walk, count, target, source);
}

} // namespace

void copy_strided(Context& context, const Tensor& to, const Tensor& from) {
    if (to.size() == 0) return;
    switch (itemsize(to.dtype)) {
    case 1: return copy_typed<uint8_t>(context, to, from);
    case 2: return copy_typed<uint16_t>(context, to, from);
    case 4: return copy_typed<uint32_t>(context, to, from);
    case 8: return copy_typed<uint64_t>(context, to, from);
    }
}

Tensor contiguous_scratch(Context& context, const Tensor& like) {
    Tensor t = contiguous_like(like);
    t.data = context.scratch_bytes(t.size() * itemsize(t.dtype));
    return t;
}

Tensor pack(Context& context, const Tensor& x) {
    const Tensor t = contiguous_scratch(context, x);
    copy_strided(context, t, x);
    return t;
}

void fill_zero(Context& context, void* data, int64_t bytes) {
    if (bytes)
        MMK_LAUNCH(context, zero_bytes, grid_of(ceil_div(bytes, 16 * threads)), threads, 0, static_cast<uint8_t*>(data),
                   bytes);
}

} // namespace mmk::cuda
