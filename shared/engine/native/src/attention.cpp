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

namespace baton {
namespace {

constexpr int kMaxTileRows = 256;

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
    float best;  // the largest score so far, in units of log2
};

template <class Type>
struct Tile {
    using Stored = typename Type::Stored;
    int dim;
    int count;
    Row* rows;
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

static inline void store_weights(float* to, const Lanes (&weights)[kKeyVectors]) {
    for (int v = 0; v < kKeyVectors; v++) store(to + v * kLanes, weights[v]);
}

static inline void store_weights(uint16_t* to, const Lanes (&weights)[kKeyVectors]) {
    for (int v = 0; v < kKeyVectors; v += 2) store_bf16(to + v * kLanes, weights[v], weights[v + 1]);
}

// The sum is taken over the weights as stored: what rounding does to a weight, it does to both sides of the fraction.
static inline Lanes add_weights(Lanes total, const float* weights) {
    for (int v = 0; v < kKeyVectors; v++) total = total + load(weights + v * kLanes);
    return total;
}

static inline Lanes add_weights(Lanes total, const uint16_t* weights) {
    const Ints ones = splat_bits(0x3f803f80u);
    for (int v = 0; v < kKeyVectors; v += 2) total = dot_pairs(total, load(units(weights + v * kLanes)), ones);
    return total;
}

template <class Type>
static inline void weigh(Tile<Type>& tile, int index, Lanes (&scores)[kKeyVectors], typename Type::Stored* weights) {
    Row& row = tile.rows[index];
    const float best = std::max(row.best, max_of(max(max(scores[0], scores[1]), max(scores[2], scores[3]))));
    if (best > row.best) {
        const Lanes fade = exp2_of_negative(splat(row.best - best));
        row.best = best;
        tile.totals[index] = tile.totals[index] * fade;
        float* sums = tile.sums + static_cast<int64_t>(index) * tile.dim;
        for (int d = 0; d < tile.dim; d += kLanes) store(sums + d, load(sums + d) * fade);
    }
    for (auto& score : scores) score = exp2_of_negative(score - splat(best));
    store_weights(weights, scores);
    tile.totals[index] = add_weights(tile.totals[index], weights);
}

template <class Type, int kRows, int kVectors>
static inline void add_values(Tile<Type>& tile, int first, const uint32_t* const* weights, const uint32_t* values, int d) {
    Lanes sums[kRows][kVectors];
    float* at = tile.sums + static_cast<int64_t>(first) * tile.dim + d;
    for (int row = 0; row < kRows; row++)
        for (int v = 0; v < kVectors; v++) sums[row][v] = load(at + static_cast<int64_t>(row) * tile.dim + v * kLanes);
    multiply<Type>(weights, values + d, tile.dim, kBlockKeys / Type::kPerUnit, sums);
    for (int row = 0; row < kRows; row++)
        for (int v = 0; v < kVectors; v++) store(at + static_cast<int64_t>(row) * tile.dim + v * kLanes, sums[row][v]);
}

// `kRows` rows of the tile, from `first`, against the block whose first key is at `key`.
template <class Type, int kRows>
static void attend_rows(Tile<Type>& tile, int first, int64_t key, bool whole, const uint32_t* values, const Kind& kind) {
    alignas(64) typename Type::Stored weights[kRows][kBlockKeys];
    const uint32_t *queries[kRows], *weight_units[kRows];
    for (int row = 0; row < kRows; row++) {
        queries[row] = tile.rows[first + row].query;
        weight_units[row] = units(weights[row]);
    }
    Lanes scores[kRows][kKeyVectors] = {};
    multiply<Type>(queries, tile.keys, kBlockKeys, tile.dim / Type::kPerUnit, scores);
    for (int row = 0; row < kRows; row++) {
        for (int v = 0; v < kKeyVectors; v++) {
            scores[row][v] = shaped(scores[row][v], kind);
            if (!whole) scores[row][v] = masked(scores[row][v], key + v * kLanes, tile.rows[first + row].position, kind);
        }
        weigh(tile, first + row, scores[row], weights[row]);
    }
    int d = 0;
    for (; d + kTileVectors * kLanes <= tile.dim; d += kTileVectors * kLanes)
        add_values<Type, kRows, kTileVectors>(tile, first, weight_units, values, d);
    for (; d < tile.dim; d += kLanes) add_values<Type, kRows, 1>(tile, first, weight_units, values, d);
}

template <class Type>
static void attend_block(Tile<Type>& tile, int64_t key, bool whole, const uint32_t* values, const Kind& kind) {
    int first = 0;
    for (; first + kTileRows <= tile.count; first += kTileRows)
        attend_rows<Type, kTileRows>(tile, first, key, whole, values, kind);
    switch (tile.count - first) {
        case 5: return attend_rows<Type, 5>(tile, first, key, whole, values, kind);
        case 4: return attend_rows<Type, 4>(tile, first, key, whole, values, kind);
        case 3: return attend_rows<Type, 3>(tile, first, key, whole, values, kind);
        case 2: return attend_rows<Type, 2>(tile, first, key, whole, values, kind);
        case 1: return attend_rows<Type, 1>(tile, first, key, whole, values, kind);
        default: return;
    }
}

static inline const uint32_t* values_of(Tile<Float32>&, const float* values) { return units(values); }

static inline const uint32_t* values_of(Tile<Bfloat16>& tile, const uint16_t* values) {
    lay_out_values(values, tile.dim, tile.values);
    return tile.values;
}

// All blocks that a tile of tokens `[start, stop)` sees of its KV head's `keys` and `values` `[capacity][dim]`.
template <class Type>
static void attend_blocks(Tile<Type>& tile, const typename Type::Stored* keys, const typename Type::Stored* values,
                          int64_t start, int64_t stop, const Kind& kind) {
    const int64_t oldest = kind.window ? std::max<int64_t>(0, start - kind.window + 1) : 0;
    const int64_t newest_start = kind.window ? std::max<int64_t>(0, stop - kind.window) : 0;
    for (int64_t key = oldest / kBlockKeys * kBlockKeys; key < stop; key += kBlockKeys) {
        const bool whole = key + kBlockKeys <= start + 1 && key >= newest_start;
        lay_out_keys(units(keys + key * tile.dim), tile.dim / Type::kPerUnit, tile.keys);
        attend_block(tile, key, whole, values_of(tile, values + key * tile.dim), kind);
    }
}

static inline void store_row(float* to, const float* sums, int dim, Lanes factor) {
    for (int d = 0; d < dim; d += kLanes) store(to + d, load(sums + d) * factor);
}

static inline void store_row(uint16_t* to, const float* sums, int dim, Lanes factor) {
    for (int d = 0; d < dim; d += kLanes) {
        const Lanes result = load(sums + d) * factor;
        for (int lane = 0; lane < kLanes; lane++) to[d + lane] = to_bf16(result[lane]);
    }
}

template <class Type>
static Tile<Type> tile_in(Scratch& scratch, int dim, int rows) {
    const size_t row_lines = rows * (sizeof(Row) + sizeof(Lanes) + dim * sizeof(float)) / 64 + 1;
    const size_t key_lines = kBlockKeys * dim / Type::kPerUnit * sizeof(uint32_t) / 64;
    char* memory = scratch.lines(row_lines + 2 * key_lines);
    Tile<Type> tile;
    tile.dim = dim;
    tile.keys = reinterpret_cast<uint32_t*>(memory);
    tile.values = reinterpret_cast<uint32_t*>(memory += key_lines * 64);
    tile.totals = reinterpret_cast<Lanes*>(memory += key_lines * 64);
    tile.sums = reinterpret_cast<float*>(memory += rows * sizeof(Lanes));
    tile.rows = reinterpret_cast<Row*>(memory + static_cast<size_t>(rows) * dim * sizeof(float));
    return tile;
}

template <class Type>
static void attend(const AttendCall& call) {
    using Stored = typename Type::Stored;
    static thread_local Scratch scratch;
    const Kind kind{call.scale, call.softcap, call.window};
    const int dim = static_cast<int>(call.head_dim);
    const int64_t group = call.heads / call.kv_heads;
    const int64_t tile_tokens = std::max<int64_t>(1, std::min<int64_t>(kBlockKeys, kMaxTileRows / group));
    Tile<Type> tile = tile_in<Type>(scratch, dim, static_cast<int>(tile_tokens * group));
    Stored* out = static_cast<Stored*>(call.out);
    const Stored* query = static_cast<const Stored*>(call.query);
    int64_t filled = 0;
    for (int64_t s = 0; s < call.segment_count; s++) {
        const Segment& segment = call.segments[s];
        const int64_t head_size = segment.capacity * dim;
        const Stored* kv = static_cast<const Stored*>(segment.kv) + call.layer * 2 * call.kv_heads * head_size;
        const int64_t end = segment.start + segment.tokens;
        filled = std::max(filled, segment.row + segment.tokens);
        for (int64_t kv_head = 0; kv_head < call.kv_heads; kv_head++) {
            const Stored* keys = kv + kv_head * head_size;
            const Stored* values = keys + call.kv_heads * head_size;
            for (int64_t start = segment.start, stop; start < end; start = stop) {
                stop = std::min({start + tile_tokens, (start / kBlockKeys + 1) * kBlockKeys, end});
                tile.count = static_cast<int>((stop - start) * group);
                for (int i = 0; i < tile.count; i++) {
                    const int64_t row = segment.row + (start - segment.start) + i / group;
                    const int64_t head = kv_head * group + i % group;
                    tile.rows[i] = {units(query + row * call.query_row + head * call.query_head), start + i / group, -FLT_MAX};
                    tile.totals[i] = Lanes{};
                }
                std::memset(tile.sums, 0, sizeof(float) * tile.count * dim);
                attend_blocks(tile, keys, values, start, stop, kind);
                for (int i = 0; i < tile.count; i++) {
                    const int64_t row = segment.row + (start - segment.start) + i / group;
                    const int64_t head = kv_head * group + i % group;
                    store_row(out + (row * call.heads + head) * dim, tile.sums + static_cast<int64_t>(i) * dim, dim,
                              splat(1.0f / sum_of(tile.totals[i])));
                }
            }
        }
    }
    std::memset(out + filled * call.heads * dim, 0, sizeof(Stored) * (call.rows - filled) * call.heads * dim);
}

}  // namespace
}  // namespace baton

extern "C" BATON_EXPORT int baton_attend(const baton::AttendCall* call) {
    try {
        call->bf16 ? baton::attend<baton::Bfloat16>(*call) : baton::attend<baton::Float32>(*call);
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}
