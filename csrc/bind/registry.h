// What a family's binding file registers: its operators' structs, described field by field.
#pragma once

#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "../core/dispatch.h"

#ifndef MMK_FLOOR
#error "families are bound to the floor that MMK_FLOOR names"
#endif

namespace mmk::bind {

using Context = MMK_FLOOR::Context;

enum class FieldKind { tensor, integer, real };

struct FieldInfo {
    std::string name;
    FieldKind kind;
    int count; // of integers or reals: more than one for an array
    size_t offset;
};

struct OperatorInfo {
    std::string name;
    size_t size = 0;
    std::vector<FieldInfo> fields;
    void (*initialise)(void* op) = nullptr;
    void (*run)(const void* op, Context& context) = nullptr;
};

class Registry {
  public:
    template <class Op> void add(const char* name, void (*run)(const void*, Context&)) {
        static_assert(std::is_trivially_copyable_v<Op> && sizeof(Op) <= max_operator_bytes);
        OperatorInfo info;
        info.name = name;
        info.size = sizeof(Op);
        info.run = run;
        info.initialise = [](void* op) {
            const Op fresh{};
            std::memcpy(op, &fresh, sizeof fresh);
        };
        std::apply([&](auto... field) { (info.fields.push_back(describe<Op>(field)), ...); }, Op::fields());
        operators.push_back(info);
    }
    std::vector<OperatorInfo> operators;
    static constexpr size_t max_operator_bytes = 8192;

  private:
    template <class Op, class Member> static FieldInfo describe(Field<Op, Member> field) {
        using Element = std::remove_extent_t<Member>;
        static const Op op{};
        const size_t offset =
            size_t(reinterpret_cast<const char*>(&(op.*field.member)) - reinterpret_cast<const char*>(&op));
        const int count = std::is_array_v<Member> ? int(std::extent_v<Member>) : 1;
        if constexpr (std::is_same_v<Member, Tensor>)
            return {field.name, FieldKind::tensor, 1, offset};
        else if constexpr (std::is_same_v<Element, double>)
            return {field.name, FieldKind::real, count, offset};
        else {
            static_assert(sizeof(Element) == 8, "attributes cross the boundary as int64 or double");
            return {field.name, FieldKind::integer, count, offset};
        }
    }
};

// MMK_BIND(conv2d, Conv2d): the operator conv2d runs cpu::conv2d, or cuda::conv2d, on the struct Conv2d.
#define MMK_BIND(function, Op)                                                                                         \
    registry.add<Op>(#function, [](const void* op, Context& context) {                                                 \
        MMK_FLOOR::function(*static_cast<const Op*>(op), context);                                                     \
    })

} // namespace mmk::bind
