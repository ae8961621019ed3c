#include "products.h"

namespace simt {

namespace {

float toward_zero(double exact) {
    if (exact >= 0x1p128 || exact <= -0x1p128) return exact > 0 ? INFINITY : -INFINITY;
    const float nearest = float(exact);
    if (std::fabs(double(nearest)) <= std::fabs(exact)) return nearest;
    return bits_as<float>(bits_as<uint32_t>(nearest) - 1);
}

// Left to itself the compiler takes the columns one by one.
using Doubles = double __attribute__((vector_size(32)));
using Ints = int32_t __attribute__((vector_size(16)));
// What is aligned to the largest exponent is below 2^27.
inline Doubles truncated(Doubles x) { return __builtin_convertvector(__builtin_convertvector(x, Ints), Doubles); }

float sum_with_infinities(double sum) { return sum != sum ? bits_as<float>(0x7fffffffu) : float(sum); }

} // namespace

void accumulate(int k, const Row& row, const Columns& columns, float* d) {
    int exponent[columns_at_once];
    for (int n = 0; n < columns_at_once; ++n) exponent[n] = std::max(exponent_of<Element::tf32>(d[n]), -400);
    for (int i = 0; i < k; ++i)
        for (int n = 0; n < columns_at_once; ++n)
            exponent[n] = std::max(exponent[n], row.exponent[i] + columns.exponent[i][n]);

    constexpr int halves = columns_at_once / 4;
    Doubles plain[halves], sum[halves], scale[halves];
    for (int h = 0; h < halves; ++h)
        for (int n = 0; n < 4; ++n) {
            plain[h][n] = d[4 * h + n];
            scale[h][n] = power_of_two(fraction_bits - exponent[4 * h + n]);
        }
    for (int h = 0; h < halves; ++h) sum[h] = truncated(plain[h] * scale[h]);
    for (int i = 0; i < k; ++i)
        for (int h = 0; h < halves; ++h) {
            Doubles column;
            std::memcpy(&column, &columns.value[i][4 * h], sizeof column);
            const Doubles product = row.value[i] * column;
            sum[h] += truncated(product * scale[h]);
            plain[h] += product; // to find infinities and NaN
        }

    for (int n = 0; n < columns_at_once; ++n) {
        const double unaligned = plain[n / 4][n % 4], aligned = sum[n / 4][n % 4];
        const bool finite = std::fabs(unaligned) <= 0x1p1000;
        d[n] =
            finite ? toward_zero(aligned * power_of_two(exponent[n] - fraction_bits)) : sum_with_infinities(unaligned);
    }
}

} // namespace simt
