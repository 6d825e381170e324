// Causal attention of one packed forward pass, over each sequence's own keys and values in place.
//
// A tile is some tokens of one sequence with all query heads of one KV head; a decode step is a tile of one token. All
// tiles run the same code: blocks of 64 keys at fixed positions, first to last, with an online softmax (Milakov and
// Gimelshein, 2018). A row's sums never cross rows, and a tile never crosses a block boundary, so that every row sees the same
// blocks, in the same order, whatever tile it is in. Hidden keys weigh exactly zero.
#include <algorithm>
#include <cfloat>
#include <cstdlib>
#include <new>

#include "blocks.h"
#include "call.h"
#include "parallel.h"

namespace baton {
namespace {

constexpr int kMaxTileRows = 256;
static_assert(kBlockKeys == kBlockTokens, "a block of keys is a block of memory");

struct Kind {
    float scale, softcap;  // softcap 0: none
    int64_t window;        // 0: none
};

// Per-thread memory of the tile in work; grows to the largest tile ever seen.
class Scratch {
   public:
    ~Scratch() { std::free(memory_); }
    // `count` 64-byte lines.
    char* lines(size_t count) {
        if (count > count_) {
            std::free(memory_);
            count_ = 0;
            memory_ = static_cast<char*>(std::aligned_alloc(64, count * 64));
            if (memory_ == nullptr) throw std::bad_alloc();
            count_ = count;
        }
        return memory_;
    }

   private:
    char* memory_ = nullptr;
    size_t count_ = 0;
};

struct Row {
    const uint32_t* query;
    int64_t position;
};

template <class Type>
struct Tile {
    using Stored = typename Type::Stored;
    int dim;
    int count;
    Row* rows;
    float* best;       // [rows]: the largest score so far, in units of log2
    Lanes* totals;     // [rows]: sums of weights, by lane
    float* sums;       // [rows][dim]: weighted sums of values
    uint32_t* keys;    // the block's keys, laid out
    uint32_t* values;  // the block's values, laid out; bf16 only
};

static inline Lanes shaped(Lanes score, const Kind& kind) {
    constexpr float kLog2E = 1.4426950408889634f;
    if (kind.softcap == 0.0f) return score * splat(kind.scale * kLog2E);
    return tanh_of(score * splat(kind.scale / kind.softcap)) * splat(kind.softcap * kLog2E);
}

// Hides the keys that a row at `position` does not see; the vector's first key is at `key`.
static inline Lanes masked(Lanes score, int64_t key, int64_t position, const Kind& kind) {
    const Ints age = static_cast<int32_t>(position - key) - lane_numbers();
    const int32_t oldest = kind.window ? static_cast<int32_t>(std::min<int64_t>(kind.window, INT32_MAX)) : INT32_MAX;
    const Ints hidden = (age < 0) | (age >= oldest);
    return hidden ? splat(-INFINITY) : score;
}

// Stores a row's weights, and adds them to `total` as they were stored: what rounding does to a weight, it does to both
// sides of the fraction.
static inline Lanes store_weights(float* to, const Lanes (&weights)[kKeyVectors], Lanes total) {
    for (int v = 0; v < kKeyVectors; v++) {
        store(to + v * kLanes, weights[v]);
        total = total + weights[v];
    }
    return total;
}

static inline Lanes store_weights(uint16_t* to, const Lanes (&weights)[kKeyVectors], Lanes total) {
    for (int v = 0; v < kKeyVectors; v += 2) {
        const Ints pairs = pairs_of(weights[v], weights[v + 1]);
        store(reinterpret_cast<uint32_t*>(to + v * kLanes), pairs);
        total = dot_pairs(total, pairs, splat_bits(0x3f803f80u));
    }
    return total;
}

// How much of what rows `[first, first + kRows)` have summed up so far remains, now that they meet `scores`.
template <class Type, int kRows>
static inline Lanes fade(Tile<Type>& tile, int first, const Lanes (&scores)[kRows][kKeyVectors]) {
    static_assert(kRows <= 8 && kKeyVectors == 4);
    Lanes peaks[8];
    each<8>([&](auto row) { peaks[row] = splat(-INFINITY); });
    each<kRows>([&](auto row) {
        peaks[row] = max(max(scores[row][0], scores[row][1]), max(scores[row][2], scores[row][3]));
    });
    const Lanes old = load(tile.best + first);
    const Lanes hidden = splat(-INFINITY);
    const Lanes best = max(old, lane_numbers() < kRows ? max_of_rows(peaks) : hidden);
    store(tile.best + first, best);
    return exp2_of_negative(old - best);
}

// sums[rows][kVectors * kLanes] from number `d` on = what remains of them + weights times values.
template <class Type, int kRows, int kVectors>
static inline void add_values(Tile<Type>& tile, int first, int d, const float* remains, const uint32_t* const* weights,
                              const uint32_t* values, Ahead ahead) {
    Lanes sums[kRows][kVectors];
    float* at = tile.sums + static_cast<int64_t>(first) * tile.dim + d;
    each<kRows>([&](auto row) {
        const Lanes rest = splat(remains[row]);
        each<kVectors>([&](auto v) {
            sums[row][v] = load(at + static_cast<int64_t>(row) * tile.dim + v * kLanes) * rest;
        });
    });
    multiply<Type>(weights, values + d, tile.dim, kBlockKeys / Type::kPerUnit, ahead, sums);
    each<kRows>([&](auto row) {
        each<kVectors>([&](auto v) { store(at + static_cast<int64_t>(row) * tile.dim + v * kLanes, sums[row][v]); });
    });
}

struct Block {
    int64_t key;  // the first
    bool whole;   // every row of the tile sees all of it
    const uint32_t* values;
    Ahead ahead_keys, ahead_values;
};

// `kRows` rows of the tile, from `first`, against a block.
template <class Type, int kRows>
static void attend_rows(Tile<Type>& tile, int first, const Block& block, const Kind& kind) {
    alignas(64) typename Type::Stored weights[kRows][kBlockKeys];
    alignas(64) float remains[kLanes];
    const uint32_t *queries[kRows], *weight_units[kRows];
    Lanes scores[kRows][kKeyVectors] = {};
    for (int row = 0; row < kRows; row++) {
        queries[row] = tile.rows[first + row].query;
        weight_units[row] = units(weights[row]);
    }
    multiply<Type>(queries, tile.keys, kBlockKeys, tile.dim / Type::kPerUnit, block.ahead_keys, scores);
    each<kRows * kKeyVectors>([&](auto i) {
        Lanes& score = scores[i / kKeyVectors][i % kKeyVectors];
        score = shaped(score, kind);
        if (!block.whole)
            score = masked(score, block.key + i % kKeyVectors * kLanes, tile.rows[first + i / kKeyVectors].position, kind);
    });
    store(remains, fade<Type, kRows>(tile, first, scores));
    each<kRows>([&](auto row) {
        const Lanes best = splat(tile.best[first + row]);
        each<kKeyVectors>([&](auto v) { scores[row][v] = exp2_of_negative(scores[row][v] - best); });
        const Lanes rest = tile.totals[first + row] * splat(remains[row]);
        tile.totals[first + row] = store_weights(weights[row], scores[row], rest);
    });
    constexpr int kSteps = kBlockKeys / Type::kPerUnit;
    int d = 0;
    Ahead ahead = block.ahead_values;
    for (; d + kTileVectors * kLanes <= tile.dim; d += kTileVectors * kLanes, ahead = ahead.after(kSteps))
        add_values<Type, kRows, kTileVectors>(tile, first, d, remains, weight_units, block.values, ahead);
    ahead.bytes_per_step /= kLinesPerStep;
    for (; d < tile.dim; d += kLanes, ahead = ahead.after(kSteps))
        add_values<Type, kRows, 1>(tile, first, d, remains, weight_units, block.values, ahead);
}

// The last rows of a tile, `kMost` or fewer.
template <class Type, int kMost>
static void attend_rest(Tile<Type>& tile, int first, const Block& block, const Kind& kind) {
    if (tile.count - first == kMost) {
        attend_rows<Type, kMost>(tile, first, block, kind);
    } else if constexpr (kMost > 1) {
        attend_rest<Type, kMost - 1>(tile, first, block, kind);
    }
}

template <class Type>
static void attend_block(Tile<Type>& tile, Block block, const Kind& kind) {
    int first = 0;
    for (; first + kTileRows <= tile.count; first += kTileRows) {
        attend_rows<Type, kTileRows>(tile, first, block, kind);
        block.ahead_keys = block.ahead_values = {};
    }
    attend_rest<Type, kTileRows - 1>(tile, first, block, kind);
}

static inline const uint32_t* values_of(Tile<Float32>&, const float* values) { return units(values); }

static inline const uint32_t* values_of(Tile<Bfloat16>& tile, const uint16_t* values) {
    lay_out_values(values, tile.dim, tile.values);
    return tile.values;
}

// Where the first block lies that a token at `position` sees.
static inline int64_t first_key(int64_t position, const Kind& kind) {
    const int64_t oldest = kind.window ? std::max<int64_t>(0, position - kind.window + 1) : 0;
    return oldest / kBlockKeys * kBlockKeys;
}

// A block of one KV head of one layer, each `[kBlockKeys][dim]`, the values behind the keys.
template <class Stored>
struct HeadBlock {
    const Stored *keys, *values;
};

// One KV head of one layer, wherever its blocks lie; offsets are into each of them, in elements.
template <class Stored>
struct Head {
    void* const* blocks;
    int64_t keys, values;
    // The block that begins with token `key`.
    HeadBlock<Stored> at(int64_t key) const {
        const Stored* block = static_cast<const Stored*>(blocks[key / kBlockKeys]);
        return {block + keys, block + values};
    }
};

// How the block after this one is asked for. It has 8 lines for each unit of a row: 2 are asked for while keys are laid out
// (squares of 16 units by 16 keys), 3 in the products with the keys (a step for each unit), 3 in those with the values
// (as many steps for each 64 numbers as these have units). Asking in the softmax as well holds it up.
struct Plan {
    const char* layout;
    Ahead scores, values;
};

template <class Stored>
static inline Plan plan_of(const Stored* block, int row_units) {
    const char* from = reinterpret_cast<const char*>(block);
    const Ahead scores{from + 2 * kLine * row_units, kLinesPerStep * kLine};
    return {from, scores, scores.after(row_units)};
}

// All blocks that a tile of tokens `[start, stop)` sees of its KV head; `next` is what the tile after it begins with.
template <class Type>
static void attend_blocks(Tile<Type>& tile, const Head<typename Type::Stored>& head,
                          const HeadBlock<typename Type::Stored>& next, int64_t start, int64_t stop, const Kind& kind) {
    const int64_t newest_start = kind.window ? std::max<int64_t>(0, stop - kind.window) : 0;
    for (int64_t key = first_key(start, kind); key < stop; key += kBlockKeys) {
        const bool whole = key + kBlockKeys <= start + 1 && key >= newest_start;
        const auto now = head.at(key);
        const auto later = key + kBlockKeys < stop ? head.at(key + kBlockKeys) : next;
        const int row_units = tile.dim / Type::kPerUnit;
        const Plan ahead = plan_of(later.keys, row_units);
        lay_out_keys(units(now.keys), row_units, tile.keys, ahead.layout);
        const Block block{key, whole, values_of(tile, now.values), ahead.scores, ahead.values};
        attend_block(tile, block, kind);
    }
}

static inline void store_row(float* to, const float* sums, int dim, Lanes factor) {
    for (int d = 0; d < dim; d += kLanes) store(to + d, load(sums + d) * factor);
}

static inline void store_row(uint16_t* to, const float* sums, int dim, Lanes factor) {
    for (int d = 0; d < dim; d += kLanes) store_bf16(to + d, load(sums + d) * factor);
}

template <class Type>
static Tile<Type> tile_in(Scratch& scratch, int dim, int rows) {
    const size_t row_bytes = rows * (sizeof(Row) + sizeof(Lanes) + (dim + 1) * sizeof(float));
    const size_t row_lines = (row_bytes + sizeof(Lanes)) / 64 + 1;
    const size_t key_lines = kBlockKeys * dim / Type::kPerUnit * sizeof(uint32_t) / 64;
    char* memory = scratch.lines(row_lines + 2 * key_lines);
    Tile<Type> tile;
    tile.dim = dim;
    tile.keys = reinterpret_cast<uint32_t*>(memory);
    tile.values = reinterpret_cast<uint32_t*>(memory += key_lines * 64);
    tile.totals = reinterpret_cast<Lanes*>(memory += key_lines * 64);
    tile.sums = reinterpret_cast<float*>(memory += rows * sizeof(Lanes));
    tile.rows = reinterpret_cast<Row*>(memory += static_cast<size_t>(rows) * dim * sizeof(float));
    tile.best = reinterpret_cast<float*>(memory + rows * sizeof(Row));  // and a vector more, to be read and written whole
    return tile;
}

// A segment's share of one KV head of the call's layer.
template <class Stored>
static Head<Stored> head_of(const AttendCall& call, const Segment& segment, int64_t kv_head) {
    const int64_t keys = call.layer + kv_head * call.kv_head;
    return {segment.blocks, keys, keys + kBlockKeys * call.head_dim};
}

// A tile before it is computed: tokens of one segment with all query heads of one KV head.
struct Unit {
    Slice slice;
    int64_t kv_head;
    // In the order of products: each token sees about as many keys.
    int64_t work() const { return (slice.stop - slice.start) * slice.stop; }
};

// Tokens of a tile: as many as a block has, or as have kMaxTileRows rows. Several threads want some tiles each; a quarter of
// a block costs 6 % more, since each tile lays out the blocks it sees.
static int64_t tile_tokens_of(const AttendCall& call) {
    int64_t most = std::max<int64_t>(1, std::min<int64_t>(kBlockKeys, kMaxTileRows * call.kv_heads / call.heads)), tokens = 0;
    if (call.threads == 1) return most;
    for (int64_t s = 0; s < call.segment_count; s++) tokens += call.segments[s].tokens;
    while (most >= kBlockKeys / 2 && tokens * call.kv_heads < 4 * call.threads * most) most /= 2;
    return most;
}

// One thread takes head by head, so that the blocks of one stay in the cache. Several begin with what takes longest.
static void list_units(const AttendCall& call, int64_t tile_tokens, std::vector<Unit>& units) {
    static thread_local std::vector<Slice> slices;
    units.clear();
    for (int64_t s = 0; s < call.segment_count; s++) {
        slices.clear();
        cut(call.segments[s], tile_tokens, slices);
        for (int64_t kv_head = 0; kv_head < call.kv_heads; kv_head++)
            for (const Slice& slice : slices) units.push_back({slice, kv_head});
    }
    const auto longer = [](const Unit& a, const Unit& b) { return a.work() > b.work(); };
    if (call.threads > 1 && !std::is_sorted(units.begin(), units.end(), longer))
        std::stable_sort(units.begin(), units.end(), longer);
}

// The first block that a unit reads.
template <class Stored>
static HeadBlock<Stored> first_block(const AttendCall& call, const Unit& unit, const Kind& kind) {
    return head_of<Stored>(call, *unit.slice.segment, unit.kv_head).at(first_key(unit.slice.start, kind));
}

// `next` is what is read after it.
template <class Type>
static void attend_tile(Tile<Type>& tile, const AttendCall& call, const Unit& unit,
                        const HeadBlock<typename Type::Stored>& next, const Kind& kind) {
    using Stored = typename Type::Stored;
    const Segment& segment = *unit.slice.segment;
    const int64_t start = unit.slice.start, stop = unit.slice.stop, kv_head = unit.kv_head;
    const int64_t group = call.heads / call.kv_heads, first_row = segment.row + start - segment.start;
    tile.count = static_cast<int>((stop - start) * group);
    for (int i = 0; i < tile.count; i++) {
        const int64_t row = first_row + i / group, head = kv_head * group + i % group;
        const Stored* query = static_cast<const Stored*>(call.query) + row * call.query_row + head * call.query_head;
        tile.rows[i] = {units(query), start + i / group};
        tile.best[i] = -FLT_MAX;
        tile.totals[i] = Lanes{};
    }
    std::memset(tile.sums, 0, sizeof(float) * tile.count * tile.dim);
    attend_blocks(tile, head_of<Stored>(call, segment, kv_head), next, start, stop, kind);
    for (int i = 0; i < tile.count; i++) {
        const int64_t row = first_row + i / group, head = kv_head * group + i % group;
        store_row(static_cast<Stored*>(call.out) + (row * call.heads + head) * tile.dim,
                  tile.sums + static_cast<int64_t>(i) * tile.dim, tile.dim, splat(1.0f / sum_of(tile.totals[i])));
    }
}

template <class Type>
static bool attend(const AttendCall& call) {
    using Stored = typename Type::Stored;
    static thread_local std::vector<Unit> listed;
    const Kind kind{call.scale, call.softcap, call.window};
    const int64_t tile_tokens = tile_tokens_of(call), tile_rows = tile_tokens * call.heads / call.kv_heads;
    list_units(call, tile_tokens, listed);
    const Unit* units = listed.data();
    const int64_t count = static_cast<int64_t>(listed.size());
    const bool done = share(count, call.threads, [&](int64_t index) {
        static thread_local Scratch scratch;
        Tile<Type> tile = tile_in<Type>(scratch, static_cast<int>(call.head_dim), static_cast<int>(tile_rows));
        // About what this thread will have next.
        const Unit& later = units[std::min(index + call.threads, count - 1)];
        attend_tile(tile, call, units[index], first_block<Stored>(call, later, kind), kind);
    });
    int64_t filled = 0;
    for (int64_t s = 0; s < call.segment_count; s++)
        filled = std::max(filled, call.segments[s].row + call.segments[s].tokens);
    const int64_t row_size = call.heads * call.head_dim;
    std::memset(static_cast<Stored*>(call.out) + filled * row_size, 0, sizeof(Stored) * (call.rows - filled) * row_size);
    return done;
}

}  // namespace
}  // namespace baton

extern "C" BATON_EXPORT int baton_attend(const baton::AttendCall* call) {
    try {
        return (call->bf16 ? baton::attend<baton::Bfloat16>(*call) : baton::attend<baton::Float32>(*call)) ? 0 : 1;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}
