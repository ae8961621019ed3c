#include "../ops/pool.h"
#include "registry.h"

namespace mmk::bind {

void bind_pool(Registry& registry) {
    MMK_BIND(max_pool2d, MaxPool2d);
    MMK_BIND(max_pool2d_grad, MaxPool2dGrad);
    MMK_BIND(max_pool2d_gather, MaxPool2dGather);
    MMK_BIND(avg_pool2d, AvgPool2d);
    MMK_BIND(avg_pool2d_grad, AvgPool2dGrad);
}

} // namespace mmk::bind
