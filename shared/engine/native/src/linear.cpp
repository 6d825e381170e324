// Linear layers, bf16 in and out, float32 inside, on a weight that was laid out once.
//
// The weight lies in panels of 32 outputs; a panel has 32 pairs of numbers for each pair of inputs, so that one vector
// is a pair of 16 outputs. A tile is up to 12 rows by one panel, or up to 6 by two: 24 sums in registers. Every sum goes
// over the pairs of inputs in order, however many rows there are, so a row's bits depend on that row alone.
//
// With few rows the memory of the weight is what takes the time: one tile has them all, and reads each panel once, in
// order. Of more rows, all pass two panels while these are in the cache, tile by tile; each tile fetches its share of
// the next two panels, and the rows of the next tile.
#include <algorithm>
#include <memory>
#if defined(_OPENMP)
#include <omp.h>
#endif

#include "call.h"
#include "lanes.h"

namespace baton {
namespace {

#if defined(__AVX512BF16__)

constexpr int kPanelVectors = 2, kPairNumbers = 2;
constexpr int64_t kPanel = kPanelVectors * kLanes;  // outputs
constexpr int64_t kWide = 2 * kPanel;               // outputs of two panels
constexpr int64_t kLine = 64;                       // bytes
constexpr int64_t kAheadPairs = 32;                 // how far memory that is read once is fetched ahead
constexpr int64_t kWideRows = 6, kTallRows = 12;
constexpr int64_t kLargeResult = 1 << 19;  // numbers: a megabyte
constexpr int64_t kPiecePairs = 1024;      // panels of more are taken in pieces that a second-level cache can hold

// What is fetched while a tile is computed: a line at each pair of inputs, so many bytes further each time.
struct Fetch {
    const char* from;
    int64_t step;
};

// So many pairs of inputs, of panels that lie `panel` numbers apart, and where the tile's first row begins.
struct Piece {
    const uint16_t* weight;
    int64_t panel;
    const uint16_t* x;
    int64_t x_row, pairs;
    Fetch weights, rows;
};

// A tile that is `kAlone` fetches the weight ahead, and nothing else.
template <int kRows, int kPanels, bool kAlone>
static inline void add_products(const Piece& piece, Lanes (&sums)[kRows][kPanels * kPanelVectors]) {
    constexpr int kVectors = kPanels * kPanelVectors;
    for (int64_t pair = 0; pair < piece.pairs; pair++) {
        if (!kAlone) {
            __builtin_prefetch(piece.weights.from + pair * piece.weights.step);
            __builtin_prefetch(piece.rows.from + pair * piece.rows.step);
        }
        Ints outputs[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; v++) {
            const uint16_t* from = piece.weight + v / kPanelVectors * piece.panel +
                                   (pair * kPanel + v % kPanelVectors * kLanes) * kPairNumbers;
            if (kAlone) __builtin_prefetch(from + kAheadPairs * kPanel * kPairNumbers);
            outputs[v] = load(reinterpret_cast<const uint32_t*>(from));
        }
#pragma GCC unroll 12
        for (int row = 0; row < kRows; row++) {
            uint32_t inputs;
            std::memcpy(&inputs, piece.x + row * piece.x_row + kPairNumbers * pair, sizeof inputs);
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; v++) sums[row][v] = dot_pairs(sums[row][v], splat_bits(inputs), outputs[v]);
        }
    }
}

// `kept` `[kRows][kWide]` has the sums over earlier pieces, null before the first; `sums_to` gets those up to this one.
template <int kRows, int kPanels, bool kAlone>
static void tile(const Piece& piece, const float* kept, float* sums_to) {
    constexpr int kVectors = kPanels * kPanelVectors;
    Lanes sums[kRows][kVectors];
#pragma GCC unroll 12
    for (int row = 0; row < kRows; row++)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; v++) sums[row][v] = kept ? load(kept + row * kWide + v * kLanes) : Lanes{};
    add_products<kRows, kPanels, kAlone>(piece, sums);
#pragma GCC unroll 12
    for (int row = 0; row < kRows; row++)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; v++) store(sums_to + row * kWide + v * kLanes, sums[row][v]);
}

using TileFunction = void (*)(const Piece&, const float*, float*);

static TileFunction wide_tile(int64_t rows) {
    constexpr TileFunction tiles[kWideRows] = {tile<1, 2, false>, tile<2, 2, false>, tile<3, 2, false>,
                                               tile<4, 2, false>, tile<5, 2, false>, tile<6, 2, false>};
    return tiles[rows - 1];
}

template <bool kAlone>
static TileFunction tall_tile(int64_t rows) {
    constexpr TileFunction tiles[kTallRows] = {tile<1, 1, kAlone>,  tile<2, 1, kAlone>,  tile<3, 1, kAlone>,
                                               tile<4, 1, kAlone>,  tile<5, 1, kAlone>,  tile<6, 1, kAlone>,
                                               tile<7, 1, kAlone>,  tile<8, 1, kAlone>,  tile<9, 1, kAlone>,
                                               tile<10, 1, kAlone>, tile<11, 1, kAlone>, tile<12, 1, kAlone>};
    return tiles[rows - 1];
}

static TileFunction tile_of(int64_t rows, int64_t panels, int64_t tiles) {
    if (panels == 2) return wide_tile(rows);
    return tiles == 1 ? tall_tile<true>(rows) : tall_tile<false>(rows);
}

static bool past_caches(const LinearCall& call) {
    const bool whole_lines = call.outputs % kPanel == 0 && reinterpret_cast<uintptr_t>(call.out) % kLine == 0;
    return whole_lines && call.rows * call.outputs > kLargeResult;
}

// `outputs` numbers of each row of `sums` `[rows][kWide]`, from `output` on. A large result is written past the caches:
// what computes next would find only its end there, and lines need not be read to be written.
template <bool kPastCaches>
static void put_rows(const LinearCall& call, const float* sums, int64_t first_row, int64_t rows, int64_t output,
                     int64_t outputs) {
    for (int64_t row = 0; row < rows; row++) {
        uint16_t* to = static_cast<uint16_t*>(call.out) + (first_row + row) * call.outputs + output;
        for (int64_t i = 0; i < outputs; i += kPanel) {
            const float* from = sums + row * kWide + i;
            Lanes low = load(from), high = load(from + kLanes);
            if (call.bias) {
                low += load(call.bias + output + i);
                high += load(call.bias + output + i + kLanes);
            }
            const Ints done = pairs_of(low, high);
            if (kPastCaches) {
                _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), (__m512i)done);
            } else {
                std::memcpy(to + i, &done, sizeof(uint16_t) * std::min(kPanel, outputs - i));
            }
        }
    }
}

// `panels` panels from `panel` on, and of the rows those from `first` on. `sums` has room for `rows` of them, if the
// panels are taken in pieces, else for those of a tile.
static void panel_rows(const LinearCall& call, int64_t panel, int64_t panels, int64_t first, int64_t rows,
                       float* sums) {
    const int64_t most = panels == 1 ? kTallRows : kWideRows, tiles = (rows + most - 1) / most, pairs = call.inputs / 2;
    const int64_t output = panel * kPanel, outputs = std::min(panels * kPanel, call.outputs - output);
    const auto put = past_caches(call) ? put_rows<true> : put_rows<false>;
    const uint16_t* x = static_cast<const uint16_t*>(call.x) + first * call.x_row;
    const uint16_t* weight = static_cast<const uint16_t*>(call.weight) + output * call.inputs;
    for (int64_t from = 0; from < pairs; from += kPiecePairs) {
        Piece piece{};
        piece.weight = weight + from * kPanel * kPairNumbers;
        piece.panel = kPanel * call.inputs;
        piece.x_row = call.x_row;
        piece.pairs = std::min(kPiecePairs, pairs - from);
        for (int64_t index = 0, row = 0; index < tiles; index++) {
            const int64_t height = (rows - row) / (tiles - index), next = index + 1 < tiles ? row + height : 0;
            float* at = pairs > kPiecePairs ? sums + row * kWide : sums;
            piece.x = x + row * call.x_row + kPairNumbers * from;
            piece.weights.step = kPanel * kPairNumbers * sizeof(uint16_t) * panels / tiles;
            piece.weights.from = reinterpret_cast<const char*>(piece.weight + panels * piece.panel) +
                                 index * piece.pairs * piece.weights.step;
            // Few tiles have more than a line of the weight to fetch at each pair, and their rows are in the cache.
            piece.rows = {piece.weights.from + kLine, piece.weights.step};
            if (tiles > 3) {
                piece.rows.from = reinterpret_cast<const char*>(x + next * call.x_row + kPairNumbers * from);
                piece.rows.step = sizeof(uint16_t) * call.x_row * height / piece.pairs;
            }
            tile_of(height, panels, tiles)(piece, from ? at : nullptr, at);
            if (from + piece.pairs == pairs) put(call, at, first + row, height, output, outputs);
            row += height;
        }
    }
}

// Panels and rows in units that threads can share: how many of each, and how large they are.
struct Units {
    int64_t panels, rows, across, down;

    explicit Units(const LinearCall& call) {
        const int64_t all = (call.outputs + kPanel - 1) / kPanel;
        panels = call.rows <= kTallRows ? 1 : 2;
        across = (all + panels - 1) / panels;
        // On one thread all rows pass a panel while it is in the cache. Several take parts of them, to be even.
        rows = call.threads == 1 ? call.rows : std::min(call.rows, 8 * kTallRows);
        down = (call.rows + rows - 1) / rows;
    }

    void compute(const LinearCall& call, int64_t index, float* sums) const {
        const int64_t all = (call.outputs + kPanel - 1) / kPanel;
        const int64_t panel = index / down * panels, first = index % down * rows;
        panel_rows(call, panel, std::min(panels, all - panel), first, std::min(rows, call.rows - first), sums);
    }

    // How many sums are kept at once.
    int64_t room(const LinearCall& call) const { return kWide * (call.inputs / 2 > kPiecePairs ? rows : kTallRows); }
};

static void linear(const LinearCall& call) {
    const Units units(call);
    const int64_t count = units.across * units.down, room = units.room(call);
    const std::unique_ptr<float[]> sums(new float[room * call.threads]);
#if defined(_OPENMP)
    if (call.threads > 1) {
#pragma omp parallel num_threads(call.threads)
        {
#pragma omp for schedule(static)
            for (int64_t index = 0; index < count; index++)
                units.compute(call, index, sums.get() + room * omp_get_thread_num());
            _mm_sfence();
        }
        return;
    }
#endif
    for (int64_t index = 0; index < count; index++) units.compute(call, index, sums.get());
    _mm_sfence();
}

#endif

}  // namespace
}  // namespace baton

extern "C" {

// 1: no memory; 2: this library has no instructions for it, or only for one thread.
BATON_EXPORT int baton_linear(const baton::LinearCall* call) {
#if defined(__AVX512BF16__)
#if !defined(_OPENMP)
    if (call->threads > 1) return 2;
#endif
    try {
        if (call->rows > 0) baton::linear(*call);
        return 0;
    } catch (...) {
        return 1;
    }
#else
    (void)call;
    return 2;
#endif
}
}
