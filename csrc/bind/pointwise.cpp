#include "../ops/pointwise.h"
#include "registry.h"

namespace mmk::bind {

void bind_pointwise(Registry& registry) {
    MMK_BIND(add, Binary);
    MMK_BIND(sub, Binary);
    MMK_BIND(mul, Binary);
    MMK_BIND(div, Binary);
    MMK_BIND(greater, Binary);
    MMK_BIND(where, Where);
    MMK_BIND(sum, Reduction);
    MMK_BIND(mean, Reduction);
}

} // namespace mmk::bind
