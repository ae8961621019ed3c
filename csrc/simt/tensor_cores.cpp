// ldmatrix, stmatrix, movmatrix and mma.sync: collectives of a warp. In what follows L is a lane, g = L / 4, t = L % 4.
#include "products.h"
#include "runtime.h"

namespace simt {

namespace {

constexpr int matrix_rows = 8, row_bytes = 16;

struct MatrixMove {
    char* row;
    uint32_t* registers;
    int matrices;
    bool transposed;
    const void* place;
};

uint16_t element_at(const char* row, int column) {
    uint16_t value;
    std::memcpy(&value, row + 2 * column, sizeof value);
    return value;
}

// Lanes 8j to 8j+7 give the rows of matrix j; the addresses of other lanes are ignored.
void check_rows(void* const* operands, Access kind, const char* what) {
    const auto& first = *static_cast<const MatrixMove*>(operands[0]);
    for (int lane = 0; lane < warp_lanes; ++lane) {
        const auto& move = *static_cast<const MatrixMove*>(operands[lane]);
        if (move.matrices != first.matrices || move.transposed != first.transposed)
            fail(move.place, "lanes 0 and %d are at different forms of %s", lane, what);
        if (lane >= first.matrices * matrix_rows) continue;
        if (!in_arena(move.row, row_bytes) || (move.row - arena) % row_bytes != 0)
            fail(move.place, "%s: row address of lane %d is not a multiple of 16 in shared memory", what, lane);
        access(move.row, row_bytes, kind, move.place);
    }
}

// Register j of lane L: of matrix j, [g][2t] and [g][2t+1], or with .trans [2t][g] and [2t+1][g].
void run_ldmatrix(uint32_t, void* const* operands) {
    check_rows(operands, Access::read, "ldmatrix");
    for (int lane = 0; lane < warp_lanes; ++lane) {
        const auto& move = *static_cast<const MatrixMove*>(operands[lane]);
        const int g = lane / 4, t = lane % 4;
        for (int j = 0; j < move.matrices; ++j) {
            const auto row = [&](int r) { return static_cast<const MatrixMove*>(operands[j * matrix_rows + r])->row; };
            const uint16_t low = move.transposed ? element_at(row(2 * t), g) : element_at(row(g), 2 * t);
            const uint16_t high = move.transposed ? element_at(row(2 * t + 1), g) : element_at(row(g), 2 * t + 1);
            move.registers[j] = low | uint32_t(high) << 16;
        }
    }
}
constexpr Collective ldmatrix_operation{"ldmatrix", run_ldmatrix, true, false};

void run_stmatrix(uint32_t, void* const* operands) {
    check_rows(operands, Access::write, "stmatrix");
    for (int lane = 0; lane < warp_lanes; ++lane) {
        const auto& move = *static_cast<const MatrixMove*>(operands[lane]);
        const int g = lane / 4, t = lane % 4;
        for (int j = 0; j < move.matrices; ++j) {
            const auto row = [&](int r) { return static_cast<const MatrixMove*>(operands[j * matrix_rows + r])->row; };
            for (int half = 0; half < 2; ++half) {
                const auto value = uint16_t(move.registers[j] >> 16 * half);
                char* to = move.transposed ? row(2 * t + half) + 2 * g : row(g) + 2 * (2 * t + half);
                std::memcpy(to, &value, sizeof value);
            }
        }
    }
}
constexpr Collective stmatrix_operation{"stmatrix", run_stmatrix, true, false};

struct Fragment {
    uint32_t in, out;
};
// d of lane L is a[2t][g], a[2t+1][g]; lane 4r + c/2 holds a[r][c] in its half c % 2.
void run_movmatrix(uint32_t, void* const* operands) {
    const auto at = [&](int r, int c) {
        return static_cast<const Fragment*>(operands[4 * r + c / 2])->in >> 16 * (c % 2) & 0xffff;
    };
    for (int lane = 0; lane < warp_lanes; ++lane) {
        const int g = lane / 4, t = lane % 4;
        static_cast<Fragment*>(operands[lane])->out = at(2 * t, g) | at(2 * t + 1, g) << 16;
    }
}
constexpr Collective movmatrix_operation{"movmatrix", run_movmatrix, true, false};

struct Mma {
    Element element;
    int k;
    float* d;
    const uint32_t *a, *b;
};
// Fragments of m16n8k8 and m16n8k16. 16-bit types: register r of A holds row g + 8 (r % 2), k = 2t + 8 (r / 2) and the
// next; of B column g, k = 2t + 8 r and the next. tf32: A row g + 8 (r % 2), k = t + 4 (r / 2); B column g, k = t + 4 r.
// D: row g + 8 (i / 2), column 2t + i % 2.
void run_mma(uint32_t, void* const* operands) {
    const auto& first = *static_cast<const Mma*>(operands[0]);
    const Element element = first.element;
    const int k = first.k;
    uint32_t a_bits[16][16] = {}, b_bits[16][columns_at_once] = {};
    Row a[16];
    Columns b;
    float d[16][columns_at_once];
    for (int lane = 0; lane < warp_lanes; ++lane) {
        const auto& mma = *static_cast<const Mma*>(operands[lane]);
        const int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; ++i) d[g + 8 * (i / 2)][2 * t + i % 2] = mma.d[i];
        if (element == Element::tf32) {
            for (int r = 0; r < 4; ++r) a_bits[g + 8 * (r % 2)][t + 4 * (r / 2)] = mma.a[r];
            for (int r = 0; r < 2; ++r) b_bits[t + 4 * r][g] = mma.b[r];
            continue;
        }
        for (int half = 0; half < 2; ++half) {
            for (int r = 0; r < k / 4; ++r)
                a_bits[g + 8 * (r % 2)][2 * t + 8 * (r / 2) + half] = mma.a[r] >> 16 * half & 0xffff;
            for (int r = 0; r < k / 8; ++r) b_bits[2 * t + 8 * r + half][g] = mma.b[r] >> 16 * half & 0xffff;
        }
    }
    for (int m = 0; m < 16; ++m) decode(element, a_bits[m], k, a[m].value, a[m].exponent);
    decode(element, b_bits[0], k * columns_at_once, b.value[0], b.exponent[0]);
    for (int m = 0; m < 16; ++m) accumulate(k, a[m], b, d[m]);
    for (int lane = 0; lane < warp_lanes; ++lane) {
        const auto& mma = *static_cast<const Mma*>(operands[lane]);
        for (int i = 0; i < 4; ++i) mma.d[i] = d[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
    }
}
// one for each form, so that lanes at different ones are told apart
constexpr Collective mma_operations[] = {{"mma.m16n8k8.f16", run_mma, true, false},
                                         {"mma.m16n8k16.f16", run_mma, true, false},
                                         {"mma.m16n8k8.bf16", run_mma, true, false},
                                         {"mma.m16n8k16.bf16", run_mma, true, false},
                                         {"mma.m16n8k8.tf32", run_mma, true, false}};

} // namespace

void ldmatrix(uint32_t* registers, const void* row, int matrices, bool transposed) {
    MatrixMove move{const_cast<char*>(static_cast<const char*>(row)), registers, matrices, transposed, SIMT_CALLER};
    collective(0xffffffffu, ldmatrix_operation, &move, SIMT_CALLER);
}

void stmatrix(void* row, const uint32_t* registers, int matrices, bool transposed) {
    MatrixMove move{static_cast<char*>(row), const_cast<uint32_t*>(registers), matrices, transposed, SIMT_CALLER};
    collective(0xffffffffu, stmatrix_operation, &move, SIMT_CALLER);
}

uint32_t movmatrix(uint32_t fragment) {
    Fragment operand{fragment, 0};
    collective(0xffffffffu, movmatrix_operation, &operand, SIMT_CALLER);
    return operand.out;
}

void mma(Element element, int k, float* d, const uint32_t* a, const uint32_t* b) {
    Mma operand{element, k, d, a, b};
    collective(0xffffffffu, mma_operations[int(element) * 2 + (k == 16)], &operand, SIMT_CALLER);
}

} // namespace simt
