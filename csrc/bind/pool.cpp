#include "../ops/pool.h"
#include "registry.h"

namespace mmk::bind {

void bind_pool(Registry& registry) {
    MMK_BIND(max_pool2d, MaxPool2d);
    MMK_BIND(max_pool2d_grad, MaxPool2dGrad);
    MMK_BIND(max_pool2d_gather, MaxPool2dGather);
    MMK_BIND(avg_pool2d, AvgPool2d);
    MMK_BIND(avg_pool2d_grad, AvgPool2dGrad);
    MMK_BIND(max_pool1d, MaxPool);
    MMK_BIND(max_pool3d, MaxPool);
    MMK_BIND(avg_pool1d, AvgPool);
    MMK_BIND(avg_pool3d, AvgPool);
    MMK_BIND(avg_pool_grad, AvgPoolGrad);
    MMK_BIND(adaptive_avg_pool1d, AdaptiveAvgPool);
    MMK_BIND(adaptive_avg_pool2d, AdaptiveAvgPool);
    MMK_BIND(adaptive_avg_pool3d, AdaptiveAvgPool);
    MMK_BIND(adaptive_avg_pool_grad, AdaptiveAvgPoolGrad);
    MMK_BIND(adaptive_max_pool1d, AdaptiveMaxPool);
    MMK_BIND(adaptive_max_pool2d, AdaptiveMaxPool);
    MMK_BIND(adaptive_max_pool3d, AdaptiveMaxPool);
    MMK_BIND(lp_pool1d, LpPool);
    MMK_BIND(lp_pool2d, LpPool);
    MMK_BIND(lp_pool3d, LpPool);
    MMK_BIND(lp_pool_grad, LpPoolGrad);
    MMK_BIND(stochastic_pool1d, StochasticPool);
    MMK_BIND(stochastic_pool2d, StochasticPool);
    MMK_BIND(stochastic_pool3d, StochasticPool);
    MMK_BIND(max_unpool1d, MaxUnpool);
    MMK_BIND(max_unpool2d, MaxUnpool);
    MMK_BIND(max_unpool3d, MaxUnpool);
    MMK_BIND(max_unpool_grad, MaxUnpoolGrad);
}

} // namespace mmk::bind
