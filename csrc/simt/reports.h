// What the emulator found, for those who read it: kernels, which include host.h, do not.
#pragma once

#include <string>
#include <vector>

namespace simt {

// Since the last call. A launch stops at its first fault and returns nonzero.
std::vector<std::string> take_reports();

} // namespace simt
