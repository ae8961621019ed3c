// Words for what was found, with places in the source.
#include <cstdarg>
#include <cstdio>
#include <dlfcn.h>
#include <unistd.h>

#include "runtime.h"

namespace simt {

namespace {

std::vector<std::string> reports;

std::string formatted(const char* format, va_list arguments) {
    va_list again;
    va_copy(again, arguments);
    std::string text(size_t(vsnprintf(nullptr, 0, format, again)), '\0');
    va_end(again);
    vsnprintf(text.data(), text.size() + 1, format, arguments);
    return text;
}

std::string shell_quoted(const char* text) {
    std::string quoted = "'";
    for (; *text != '\0'; ++text)
        if (*text == '\'')
            quoted += "'\\''";
        else
            quoted += *text;
    return quoted + "'";
}

bool ends_with(const std::string& text, const char* end) {
    const std::string tail = end;
    return text.size() >= tail.size() && text.compare(text.size() - tail.size(), tail.size(), tail) == 0;
}

} // namespace

// addr2line lists inlined frames from the innermost; the first outside the wrappers is the kernel's own line.
std::string place_in_source(const void* place) {
    Dl_info module;
    if (place == nullptr || dladdr(place, &module) == 0) return "an unknown place";
    // a return address is one past the call
    const unsigned long offset = (unsigned long)(uintptr_t(place) - uintptr_t(module.dli_fbase)) - 1;
    char text[64];
    snprintf(text, sizeof text, "+0x%lx", offset);
    std::string found = module.dli_fname + std::string(text);
    const std::string command = "addr2line -i -e " + shell_quoted(module.dli_fname) + " " + (text + 1) + " 2>/dev/null";
    FILE* lines = popen(command.c_str(), "r");
    if (lines == nullptr) return found;
    char line[4096];
    while (fgets(line, sizeof line, lines) != nullptr) {
        std::string frame = line;
        frame = frame.substr(0, frame.find_last_not_of("\n") + 1);
        if (const size_t note = frame.find(" ("); note != std::string::npos) frame.resize(note); // (discriminator 3)
        if (frame.empty() || frame[0] == '?' || ends_with(frame, ":?") || ends_with(frame, ":0")) continue;
        const std::string file = frame.substr(0, frame.rfind(':'));
        found = frame.substr(frame.rfind('/') + 1);
        if (!ends_with(file, "/simt.h") && !ends_with(file, "/ptx.cuh") && !ends_with(file, "/types.h")) break;
    }
    while (fgets(line, sizeof line, lines) != nullptr) {
    }
    pclose(lines);
    return found;
}

std::string thread_name(int linear) {
    const uint3& i = fibers[size_t(linear)]->index;
    char text[64];
    snprintf(text, sizeof text, "thread (%u,%u,%u)", i.x, i.y, i.z);
    return text;
}

void fail(const void* place, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    const uint3& b = geometry.block_index;
    std::string text = "kernel ";
    text += running.kernel;
    char where[96];
    snprintf(where, sizeof where, ", block (%u,%u,%u), ", b.x, b.y, b.z);
    text += where;
    if (current != nullptr) text += thread_name(current->linear) + ", ";
    text += place_in_source(place) + ": " + formatted(format, arguments);
    va_end(arguments);
    reports.push_back(std::move(text));
    abandon();
}

void report_on_host(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    reports.push_back("kernel " + std::string(running.kernel) + ": " + formatted(format, arguments));
    va_end(arguments);
}

std::vector<std::string> take_reports() {
    const std::lock_guard lock(launching);
    return std::exchange(reports, {});
}

} // namespace simt
