// A stable sort by keys of 32 or 64 bits, least significant digits first.
#pragma once

#include "../core/context.h"
#include "../core/simd.h"

namespace mmk::cpu::MMK_ISA {

using namespace mmk::MMK_ISA;

template <class Key> struct Keyed {
    Key key;
    int32_t index;
};

// Rising keys; returns the array that holds the result, `items` or `other`.
template <class Key> Keyed<Key>* sort_keys(Context& context, Keyed<Key>* items, Keyed<Key>* other, int64_t n) {
    if (n <= 48) {
        for (int64_t i = 1; i < n; ++i) {
            const Keyed<Key> moved = items[i];
            int64_t k = i;
            for (; k > 0 && moved.key < items[k - 1].key; --k) items[k] = items[k - 1];
            items[k] = moved;
        }
        return items;
    }
    // Digits of 8 bits while tables of 11 would cost more than the boxes.
    const int bits = n < 1024 ? 8 : 11, digits = (int(sizeof(Key)) * 8 + bits - 1) / bits;
    const int64_t size = int64_t(1) << bits;
    int32_t* const tables = context.scratch<int32_t>(digits * size);
    std::memset(tables, 0, size_t(digits * size) * sizeof(int32_t));
    const auto digit = [&](Key key, int d) { return int64_t(key >> d * bits) & (size - 1); };
    for (int64_t i = 0; i < n; ++i)
        for (int d = 0; d < digits; ++d) ++tables[d * size + digit(items[i].key, d)];
    for (int d = 0; d < digits; ++d) {
        int32_t* const table = tables + d * size;
        if (table[digit(items[0].key, d)] == n) continue; // all keys agree in it
        int32_t next = 0;
        for (int64_t k = 0; k < size; ++k) {
            const int32_t count = table[k];
            table[k] = next;
            next += count;
        }
        for (int64_t i = 0; i < n; ++i) other[table[digit(items[i].key, d)]++] = items[i];
        Keyed<Key>* const sorted = other;
        other = items, items = sorted;
    }
    return items;
}

} // namespace mmk::cpu::MMK_ISA
