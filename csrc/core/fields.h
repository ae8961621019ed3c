// MMK_FIELDS names the members of an operator's struct once, so that the binding can fill them by name.
#pragma once

#include <tuple>

#include "tensor.h"

#define MMK_PARENTHESES ()
#define MMK_EXPAND(...) MMK_EXPAND_3(MMK_EXPAND_3(MMK_EXPAND_3(__VA_ARGS__)))
#define MMK_EXPAND_3(...) MMK_EXPAND_2(MMK_EXPAND_2(MMK_EXPAND_2(__VA_ARGS__)))
#define MMK_EXPAND_2(...) MMK_EXPAND_1(MMK_EXPAND_1(MMK_EXPAND_1(__VA_ARGS__)))
#define MMK_EXPAND_1(...) __VA_ARGS__
#define MMK_EACH(macro, ...) __VA_OPT__(MMK_EXPAND(MMK_EACH_NEXT(macro, __VA_ARGS__)))
#define MMK_EACH_NEXT(macro, first, ...) macro(first) __VA_OPT__(, MMK_EACH_AGAIN MMK_PARENTHESES(macro, __VA_ARGS__))
#define MMK_EACH_AGAIN() MMK_EACH_NEXT

#define MMK_FIELD(member) ::mmk::field(#member, &Self::member)
#define MMK_FIELDS(Op, ...)                                                                                            \
    static constexpr auto fields() {                                                                                   \
        using Self = Op;                                                                                               \
        return std::make_tuple(MMK_EACH(MMK_FIELD, __VA_ARGS__));                                                      \
    }

namespace mmk {

template <class Op, class Member> struct Field {
    const char* name;
    Member Op::* member;
};
template <class Op, class Member> constexpr Field<Op, Member> field(const char* name, Member Op::* member) {
    return {name, member};
}

} // namespace mmk
