// Work cut into units that threads share. A unit computes rows of its own, so no bit depends on who has it.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "call.h"

namespace baton {

// Calls `body(index)` for each of `count` units on `threads` threads, on one without OpenMP. False when a unit threw:
// others may be undone then. The team is always as large as asked for: OpenMP ends threads that a smaller one leaves over.
template <class Body>
static bool share(int64_t count, int64_t threads, const Body& body) {
    std::atomic<bool> done{true};
    const auto compute = [&](int64_t index) {
        try {
            body(index);
        } catch (...) {
            done = false;
        }
    };
#if defined(_OPENMP)
    if (threads > 1 && count > 1) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(static_cast<int>(threads))
        for (int64_t index = 0; index < count; index++) compute(index);
        return done;
    }
#endif
    for (int64_t index = 0; index < count; index++) compute(index);
    return done;
}

// Rows of `width` numbers that are work enough to be worth another thread's while.
static inline int64_t rows_per_unit(int64_t width) { return std::max<int64_t>(1, 8192 / width); }

// As `share`, with the rows of a matrix: `body(first, stop)`.
template <class Body>
static bool share_rows(int64_t rows, int64_t width, int64_t threads, const Body& body) {
    const int64_t most = threads > 1 ? rows_per_unit(width) : std::max<int64_t>(1, rows);
    return share((rows + most - 1) / most, threads,
                 [&](int64_t unit) { body(unit * most, std::min(rows, (unit + 1) * most)); });
}

// Tokens `[start, stop)` of a segment, of one block.
struct Slice {
    const Segment* segment;
    int64_t start, stop;
};

// Adds all tokens of `segment` to `slices`, in slices of up to `most`.
static inline void cut(const Segment& segment, int64_t most, std::vector<Slice>& slices) {
    const int64_t end = segment.start + segment.tokens;
    for (int64_t start = segment.start, stop; start < end; start = stop) {
        stop = std::min({start + most, (start / kBlockTokens + 1) * kBlockTokens, end});
        slices.push_back({&segment, start, stop});
    }
}

}  // namespace baton
