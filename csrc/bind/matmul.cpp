#include "../ops/matmul.h"
#include "registry.h"

namespace mmk::bind {

void bind_matmul(Registry& registry) {
    MMK_BIND(matmul, Matmul);
    MMK_BIND(linear, Linear);
}

} // namespace mmk::bind
