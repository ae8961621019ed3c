// The activations that other operators can apply to their results.
#pragma once

#include "compiler.h"

namespace mmk {

// In the order of the contracts' choices: None, "relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu".
enum class Activation : int64_t { none, relu, leaky_relu, sigmoid, tanh, silu, gelu };

} // namespace mmk
