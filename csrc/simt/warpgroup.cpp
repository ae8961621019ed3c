// wgmma: operations of 128 threads that read shared memory and write registers until they are waited for.
#include "products.h"
#include "runtime.h"
#include "swizzle.h"

namespace simt {

namespace {

constexpr int group_rows = 64;

// The accumulators of a warpgroup while operations on them are under way. The threads' own registers hold NaN then.
struct Accumulator {
    std::array<float*, group_threads> registers;
    int n, users;
    std::vector<float> values; // [64][n]
};
struct Operation {
    Wgmma what;
    std::vector<std::array<uint32_t, 4>> a_registers;
    std::shared_ptr<Accumulator> accumulator;
    uint32_t tick;
    const void* place;
};
struct Group {
    int arrived = 0;
    const Collective* what = nullptr;
    std::array<Fiber*, group_threads> who{};
    std::vector<Operation> open;
    std::deque<std::vector<Operation>> committed;
    std::vector<std::shared_ptr<Accumulator>> accumulators;
};
std::array<Group, max_threads / group_threads> groups;

int row_of(int thread, int i) { return 16 * (thread / 32) + thread % 32 / 4 + 8 * (i / 2 % 2); }
int column_of(int thread, int i) { return 8 * (i / 4) + 2 * (thread % 4) + i % 2; }

// Shared memory operands. "major" is the direction that is contiguous; mn is the row of A or the column of B.
struct Descriptor {
    uint32_t start, leading, stride, width; // bytes; width of the swizzle

    Descriptor(uint64_t bits, const char* name, const void* place)
        : start(uint32_t(bits & 0x3fff) << 4), leading(uint32_t(bits >> 16 & 0x3fff) << 4),
          stride(uint32_t(bits >> 32 & 0x3fff) << 4) {
        constexpr uint32_t widths[4] = {0, 128, 64, 32};
        width = widths[bits >> 62];
        if ((bits >> 49 & 7) != 0) fail(place, "wgmma: the descriptor of %s has a base offset", name);
        if (width != 0 && start / width % 8 != 0)
            fail(place, "wgmma: the descriptor of %s starts at row %u of a swizzled group of 8", name,
                 start / width % 8);
    }

    uint32_t address(bool mn_major, uint32_t size, uint32_t mn, uint32_t k) const {
        uint32_t offset = 0;
        if (!mn_major && width == 0)
            offset = mn % 8 * 16 + mn / 8 * stride + k * size % 16 + k * size / 16 * leading;
        else if (!mn_major)
            offset = mn % 8 * width + mn / 8 * stride + k * size;
        else if (width == 0)
            offset = mn * size % 16 + mn * size / 16 * stride + k % 8 * 16 + k / 8 * leading;
        else
            offset = mn * size % width + mn * size / width * leading + k % 8 * width + k / 8 * stride;
        return swizzled(start + offset, width);
    }
};

int depth_of(const Wgmma& what) { return what.element == Element::tf32 ? 8 : 16; }

// Every 16 bytes of one operand, in the checker's eyes: read from here until the wait.
void check_operand(const Operation& op, uint64_t bits, bool mn_major, int extent, const char* name, int agent) {
    const uint32_t size = op.what.element == Element::tf32 ? 4 : 2, per_chunk = 16 / size;
    const Descriptor descriptor(bits, name, op.place);
    const uint32_t mn_step = mn_major ? per_chunk : 1, k_step = mn_major ? 1 : per_chunk;
    for (uint32_t mn = 0; mn < uint32_t(extent); mn += mn_step)
        for (uint32_t k = 0; k < uint32_t(depth_of(op.what)); k += k_step) {
            const uint32_t address = descriptor.address(mn_major, size, mn, k);
            if (address + 16 > arena_bytes) fail(op.place, "wgmma: %s leaves shared memory at %u", name, address);
            access(arena + address, 16, Access::read, op.place, agent);
        }
}

// Elements first to first + count - 1 of one operand, all along k, 16 contiguous bytes at a time.
template <class Put>
void read_operand(const Wgmma& what, const Descriptor& descriptor, bool mn_major, int first, int count, Put put) {
    const int size = what.element == Element::tf32 ? 4 : 2, per_chunk = 16 / size;
    const int mn_step = mn_major ? per_chunk : 1, k_step = mn_major ? 1 : per_chunk;
    for (int mn = first; mn < first + count; mn += mn_step)
        for (int k = 0; k < depth_of(what); k += k_step) {
            const char* from = arena + descriptor.address(mn_major, uint32_t(size), uint32_t(mn), uint32_t(k));
            for (int i = 0; i < per_chunk; ++i) {
                uint32_t word;
                uint16_t half;
                if (size == 4)
                    std::memcpy(&word, from + 4 * i, sizeof word);
                else
                    std::memcpy(&half, from + 2 * i, sizeof half), word = half;
                put(mn_major ? mn + i : mn, mn_major ? k : k + i, word);
            }
        }
}

void read_a(const Operation& op, uint32_t (*bits)[16]) {
    const Wgmma& what = op.what;
    if (op.a_registers.empty()) {
        const Descriptor descriptor(what.a, "A", op.place);
        read_operand(what, descriptor, what.a_transposed, 0, group_rows,
                     [&](int m, int k, uint32_t value) { bits[m][k] = value; });
        return;
    }
    for (int thread = 0; thread < group_threads; ++thread)
        for (int r = 0; r < 4; ++r) {
            const uint32_t pair = op.a_registers[size_t(thread)][size_t(r)];
            const int m = row_of(thread, 0) + 8 * (r % 2), t = thread % 4;
            if (what.element == Element::tf32)
                bits[m][t + 4 * (r / 2)] = pair;
            else
                for (int half = 0; half < 2; ++half) bits[m][2 * t + 8 * (r / 2) + half] = pair >> 16 * half & 0xffff;
        }
}

void execute(Operation& op) {
    const Wgmma& what = op.what;
    const int depth = depth_of(what), n = what.n;
    static uint32_t a_bits[group_rows][16];
    static Row rows[group_rows];
    static Columns columns[256 / columns_at_once];
    read_a(op, a_bits);
    for (int m = 0; m < group_rows; ++m) decode(what.element, a_bits[m], depth, rows[m].value, rows[m].exponent);
    const Descriptor descriptor(what.b, "B", op.place);
    for (int block = 0; block < n / columns_at_once; ++block) {
        uint32_t bits[16][columns_at_once];
        const int first = block * columns_at_once;
        read_operand(what, descriptor, what.b_transposed, first, columns_at_once,
                     [&](int column, int k, uint32_t value) { bits[k][column - first] = value; });
        decode(what.element, bits[0], depth * columns_at_once, columns[block].value[0], columns[block].exponent[0]);
    }
    std::vector<float>& d = op.accumulator->values;
    if (!what.accumulate) std::fill(d.begin(), d.end(), 0.0f);
    for (int m = 0; m < group_rows; ++m)
        for (int block = 0; block < n / columns_at_once; ++block)
            accumulate(depth, rows[m], columns[block], &d[size_t(m * n + block * columns_at_once)]);
    --op.accumulator->users;
}

void give_back(Accumulator& accumulator) {
    const int n = accumulator.n;
    for (int thread = 0; thread < group_threads; ++thread)
        for (int i = 0; i < n / 2; ++i)
            accumulator.registers[size_t(thread)][i] =
                accumulator.values[size_t(row_of(thread, i) * n + column_of(thread, i))];
}

void give_back_finished(Group& group) {
    std::erase_if(group.accumulators, [](const auto& accumulator) {
        if (accumulator->users != 0) return false;
        give_back(*accumulator);
        return true;
    });
}

std::shared_ptr<Accumulator> take_registers(Group& group, const std::array<float*, group_threads>& registers, int n,
                                            const void* place) {
    for (const auto& accumulator : group.accumulators)
        if (accumulator->registers[0] == registers[0]) {
            if (accumulator->n != n || accumulator->registers != registers)
                fail(place, "wgmma: accumulators of another shape are still being written");
            ++accumulator->users;
            return accumulator;
        }
    auto taken =
        std::make_shared<Accumulator>(Accumulator{registers, n, 1, std::vector<float>(size_t(group_rows * n))});
    for (int thread = 0; thread < group_threads; ++thread)
        for (int i = 0; i < n / 2; ++i) {
            float& value = registers[size_t(thread)][i];
            taken->values[size_t(row_of(thread, i) * n + column_of(thread, i))] = value;
            value = bits_as<float>(0xffffffffu);
        }
    group.accumulators.push_back(taken);
    return taken;
}

struct Operand {
    const Wgmma* what;
    float* d;
};

void run_wgmma(uint32_t number, void* const* operands) {
    Group& group = groups[number];
    const auto& first = *static_cast<const Operand*>(operands[0]);
    Operation op{*first.what, {}, nullptr, agent_tick(int(number)), group.who[0]->place};
    std::array<float*, group_threads> registers{};
    for (size_t thread = 0; thread < group_threads; ++thread) {
        const auto& operand = *static_cast<const Operand*>(operands[thread]);
        const Wgmma &a = *first.what, &b = *operand.what;
        if (a.element != b.element || a.n != b.n || a.b != b.b || a.accumulate != b.accumulate ||
            (a.a_registers == nullptr) != (b.a_registers == nullptr) || (a.a_registers == nullptr && a.a != b.a))
            fail(op.place, "wgmma: threads 0 and %zu of the warpgroup give different operations or descriptors",
                 thread);
        registers[thread] = operand.d;
        if (b.a_registers == nullptr) continue;
        op.a_registers.push_back({b.a_registers[0], b.a_registers[1], b.a_registers[2], b.a_registers[3]});
    }
    if (op.a_registers.empty()) check_operand(op, op.what.a, op.what.a_transposed, group_rows, "A", int(number));
    check_operand(op, op.what.b, op.what.b_transposed, op.what.n, "B", int(number));
    op.accumulator = take_registers(group, registers, op.what.n, op.place);
    if (!settings.late) {
        execute(op);
        give_back_finished(group);
        op.accumulator = nullptr;
    }
    group.open.push_back(std::move(op));
}
constexpr Collective wgmma_operation{"wgmma", run_wgmma, true, false};

void run_commit(uint32_t number, void* const*) {
    groups[number].committed.push_back(std::exchange(groups[number].open, {}));
}
constexpr Collective commit_operation{"wgmma.commit_group", run_commit, true, false};

void run_wait(uint32_t number, void* const* operands) {
    Group& group = groups[number];
    const int pending = *static_cast<const int*>(operands[0]);
    while (int(group.committed.size()) > pending) {
        for (Operation& op : group.committed.front()) {
            if (op.accumulator != nullptr) execute(op);
            for (Fiber* fiber : group.who) agent_seen(*fiber, int(number), op.tick);
        }
        group.committed.pop_front();
    }
    give_back_finished(group);
}
constexpr Collective wait_operation{"wgmma.wait_group", run_wait, true, false};

void meet(const Collective& what, void* operand, const void* place) {
    Fiber* fiber = self();
    const int number = fiber->linear / group_threads;
    if ((number + 1) * group_threads > thread_count)
        fail(place, "%s: the block's last %d threads are no warpgroup", what.name, thread_count % group_threads);
    Group& group = groups[size_t(number)];
    if (group.arrived != 0 && group.what != &what)
        fail(place, "a thread comes to %s while others of its warpgroup wait at %s", what.name, group.what->name);
    group.what = fiber->collective = &what;
    fiber->operand = operand, fiber->wait = Wait::group, fiber->place = place;
    group.who[size_t(fiber->linear % group_threads)] = fiber;
    if (++group.arrived == group_threads) {
        group.arrived = 0;
        void* operands[group_threads];
        for (size_t i = 0; i < group_threads; ++i) operands[i] = group.who[i]->operand;
        what.run(uint32_t(number), operands);
        for (Fiber* each : group.who) make_ready(each);
    }
    run_others();
}

} // namespace

void begin_block_warpgroups() {
    for (Group& group : groups) group = {};
}

void wgmma(const Wgmma& operation, float* d) {
    Operand operand{&operation, d};
    meet(wgmma_operation, &operand, SIMT_CALLER);
}
void wgmma_commit() { meet(commit_operation, nullptr, SIMT_CALLER); }
void wgmma_wait(int pending) { meet(wait_operation, &pending, SIMT_CALLER); }

} // namespace simt
