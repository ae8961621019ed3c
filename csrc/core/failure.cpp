#include "failure.h"

#include <stdexcept>

namespace mmk {

void unexpected_dtype() { throw std::logic_error("a host function met a dtype that its contract does not allow"); }
void fail(const char* reason) { throw std::runtime_error(reason); }

} // namespace mmk
