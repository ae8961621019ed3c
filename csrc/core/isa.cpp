#include "isa.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace mmk {

const char* name(Isa isa) {
#define MMK_NAME(isa) #isa,
    static const char* const names[] = {MMK_FOR_EACH_ISA(MMK_NAME)};
#undef MMK_NAME
    return names[int(isa)];
}

bool available(Isa isa) {
#if defined(__x86_64__)
    // One by one: clang does not know the level names (x86-64-v3, v4) as features.
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("avx512cd");
    if (isa == Isa::avx2) return v3;
    if (isa == Isa::avx512) return v4;
#endif
    return isa == Isa::portable;
}

Isa best_isa() {
    int best = 0;
    for (int i = 0; i < int(Isa::count); ++i)
        if (available(Isa(i))) best = i;
    return Isa(best);
}

Isa isa_from_name(const char* text) {
    std::string known;
    for (int i = 0; i < int(Isa::count); ++i) {
        if (std::strcmp(text, name(Isa(i))) == 0) {
            if (!available(Isa(i))) throw std::runtime_error(std::string("MMK_ISA: this machine has no ") + text);
            return Isa(i);
        }
        known += std::string(i ? ", " : "") + name(Isa(i));
    }
    throw std::runtime_error(std::string("MMK_ISA is '") + text + "'; expected one of " + known);
}

static std::atomic<int> chosen{-1};

Isa current_isa() {
    int isa = chosen.load(std::memory_order_relaxed);
    if (isa < 0) {
        const char* text = std::getenv("MMK_ISA");
        isa = int(text && *text ? isa_from_name(text) : best_isa());
        chosen.store(isa, std::memory_order_relaxed);
    }
    return Isa(isa);
}

void set_isa(Isa isa) { chosen.store(int(isa), std::memory_order_relaxed); }

} // namespace mmk
