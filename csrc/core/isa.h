// Which instruction sets were compiled, which this machine has, which one is used.
#pragma once

#include "compiler.h"

#if defined(__x86_64__)
#define MMK_FOR_EACH_ISA(X) X(portable) X(avx2) X(avx512)
#else
#define MMK_FOR_EACH_ISA(X) X(portable)
#endif

namespace mmk {

#define MMK_ENUMERATOR(isa) isa,
enum class Isa : int { MMK_FOR_EACH_ISA(MMK_ENUMERATOR) count };
#undef MMK_ENUMERATOR

const char* name(Isa isa);
bool available(Isa isa);
Isa best_isa();
// The instruction set in use: the best one, or the one that MMK_ISA names.
Isa current_isa();
void set_isa(Isa isa);
// Reads MMK_ISA; throws std::runtime_error for a name that is unknown or that this machine lacks.
Isa isa_from_name(const char* text);

} // namespace mmk
