// Frames to the network's input, and its scores to masks. Compiled by NVRTC; the arithmetic is tested on the CPU, where
// the same file is compiled as C++ with a shim. Every kernel takes one structure by value: kernels.py holds its twin.
// blockIdx.z is the frame of the batch; a thread does four neighbouring pixels of one row.
//
// Where a pixel takes its values from is not computed here but read from tables of taps (one a row, one a column),
// which come from the same double-precision geometry as the CPU path's.

#ifndef SEGPIPE_ON_CPU
#include <cuda_fp16.h>
#endif

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

struct alignas(16) Tap {  // one row or column of the target
    int first;            // -1: padding
    int second;
    float weight;         // of the second
    int nearest;
};

struct PreArguments {
    const void *source;   // batch x height x width x channels, packed
    void *target;         // batch x canvas in the network's layout
    const Tap *rows, *columns;
    const float *scale, *shift;  // one a channel, in the network's order
    int height, width, channels, canvas_height, canvas_width, nhwc, reversed, padding_;
};

struct ScoreArguments {
    const void *scores;   // batch x the network's output
    void *labels;         // batch x height x width: the winner of every score vector
    void *mask;           // batch x mask_height x mask_width
    float *confidence;    // the same size, or null
    const Tap *rows, *columns;
    int height, width, channels, mask_height, mask_width, nhwc, kind;
    float limit;          // sigmoid: the raw score from which class 1 begins
};

struct PackArguments {    // one frame with any strides -> packed
    const void *source;
    void *target;
    long long row_bytes, column_bytes, channel_bytes;
    int height, width, channels, padding_;
};

struct BlendArguments {   // one tile's scores, weighted and added to the band of scores that tiles share
    const void *scores;   // the network's output for the tile
    float *band;          // channels x band_height x band_width
    const float *row_weights, *column_weights;  // normalised over all tiles, so that the sum is the blend
    int height, width, channels, band_height, band_width, top, left, nhwc;
};

enum Kind { LOGITS = 0, PROBABILITIES = 1, SIGMOID = 2, LABELS = 3 };

template <typename T> struct alignas(4 * sizeof(T)) Four { T at[4]; };

__device__ inline float to_float(u8 value) { return value; }
__device__ inline float to_float(u16 value) { return value; }
__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(__half value) { return __half2float(value); }

__device__ inline void store(float value, float *to) { *to = value; }
__device__ inline void store(float value, __half *to) { *to = __float2half(value); }
__device__ inline void store(float value, u8 *to) { *to = (u8)fminf(fmaxf(rintf(value), 0.0f), 255.0f); }

__device__ inline float blend(float a, float b, float c, float d, float wx, float wy) {
    float above = a + (b - a) * wx;
    float below = c + (d - c) * wx;
    return above + (below - above) * wy;
}

// Four neighbours in one aligned store where the row allows it, else one by one.
template <typename T> __device__ inline void store_four(T *row, int x, int width, const Four<T> &values) {
    if (x + 4 <= width && ((u64)(row + x)) % sizeof(Four<T>) == 0) {
        *reinterpret_cast<Four<T> *>(row + x) = values;
        return;
    }
    for (int i = 0; i < 4 && x + i < width; ++i) row[x + i] = values.at[i];
}

template <typename S> __device__ inline float sample(
    const S *upper, const S *lower, const Tap &column, float wy, int channels, int channel) {
    int left = column.first * channels + channel, right = column.second * channels + channel;
    if (wy == 0.0f && column.weight == 0.0f) return to_float(upper[left]);
    return blend(to_float(upper[left]), to_float(upper[right]), to_float(lower[left]), to_float(lower[right]),
                 column.weight, wy);
}

template <typename S, typename T> __device__ inline void pre(const PreArguments &a) {
    int x = (blockIdx.x * blockDim.x + threadIdx.x) * 4, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= a.canvas_width || y >= a.canvas_height) return;
    const S *frame = (const S *)a.source + (u64)blockIdx.z * a.height * a.width * a.channels;
    T *canvas = (T *)a.target + (u64)blockIdx.z * a.canvas_height * a.canvas_width * a.channels;
    Tap row = a.rows[y];
    Tap columns[4];
    for (int i = 0; i < 4; ++i) {
        columns[i] = a.columns[x + i < a.canvas_width ? x + i : a.canvas_width - 1];
        if (row.first < 0) columns[i].first = -1;
    }
    const S *upper = frame + (u64)(row.first < 0 ? 0 : row.first) * a.width * a.channels;
    const S *lower = frame + (u64)(row.first < 0 ? 0 : row.second) * a.width * a.channels;
    for (int channel = 0; channel < a.channels; ++channel) {
        int from = a.reversed ? a.channels - 1 - channel : channel;
        float scale = a.scale[channel], shift = a.shift[channel];
        Four<T> values;
        for (int i = 0; i < 4; ++i) {
            float value = 0.0f;
            if (columns[i].first >= 0)
                value = sample(upper, lower, columns[i], row.weight, a.channels, from) * scale + shift;
            store(value, &values.at[i]);
        }
        if (!a.nhwc) {
            T *plane = canvas + ((u64)channel * a.canvas_height + y) * a.canvas_width;
            store_four(plane, x, a.canvas_width, values);
        } else {
            T *line = canvas + (u64)y * a.canvas_width * a.channels + channel;
            for (int i = 0; i < 4 && x + i < a.canvas_width; ++i) line[(u64)(x + i) * a.channels] = values.at[i];
        }
    }
}

// A score vector's position: element c of the vector at cell p lies at p * step + c * stride.
struct Vectors {
    u64 base, stride;
    int step;
    __device__ Vectors(const ScoreArguments &a) {
        u64 area = (u64)a.height * a.width;
        base = blockIdx.z * area * a.channels;
        stride = a.nhwc ? 1 : area;
        step = a.nhwc ? a.channels : 1;
    }
};

template <typename S, typename L> __device__ inline void label(const ScoreArguments &a) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= a.width || y >= a.height) return;
    Vectors vectors(a);
    u64 cell = (u64)y * a.width + x;
    const S *at = (const S *)a.scores + vectors.base + cell * vectors.step;
    int winner = 0;
    float best = to_float(at[0]);
    if (a.kind == SIGMOID) {
        winner = best >= a.limit;
    } else {
        for (int channel = 1; channel < a.channels; ++channel) {
            float value = to_float(at[channel * vectors.stride]);
            if (value > best) { best = value; winner = channel; }
        }
    }
    ((L *)a.labels)[(u64)blockIdx.z * a.height * a.width + cell] = (L)winner;
}

// Bilinear values of one pixel's score vector; corners are cells of the score grid.
template <typename S> struct Blended {
    const S *scores;
    u64 stride;
    u64 upper_left, upper_right, lower_left, lower_right;
    float wx, wy;
    __device__ Blended(const ScoreArguments &a, const Vectors &vectors, const Tap &row, const Tap &column) {
        scores = (const S *)a.scores + vectors.base;
        stride = vectors.stride;
        upper_left = ((u64)row.first * a.width + column.first) * vectors.step;
        upper_right = ((u64)row.first * a.width + column.second) * vectors.step;
        lower_left = ((u64)row.second * a.width + column.first) * vectors.step;
        lower_right = ((u64)row.second * a.width + column.second) * vectors.step;
        wx = column.weight;
        wy = row.weight;
    }
    __device__ float operator()(int channel) const {
        const S *plane = scores + channel * stride;
        return blend(to_float(plane[upper_left]), to_float(plane[upper_right]), to_float(plane[lower_left]),
                     to_float(plane[lower_right]), wx, wy);
    }
};

template <typename S> __device__ inline int winner_of(const ScoreArguments &a, const Blended<S> &at) {
    if (a.kind == SIGMOID) return at(0) >= a.limit;
    int winner = 0;
    float best = at(0);
    for (int channel = 1; channel < a.channels; ++channel) {
        float value = at(channel);
        if (value > best) { best = value; winner = channel; }
    }
    return winner;
}

// How sure the network is of the winner: its softmax, its own probability, or the sigmoid on its side.
template <typename S> __device__ inline float sureness(const ScoreArguments &a, const Blended<S> &at, int winner) {
    float best = at(a.kind == SIGMOID ? 0 : winner);
    if (a.kind == PROBABILITIES) return best;
    if (a.kind == SIGMOID) return 1.0f / (1.0f + expf(winner ? -best : best));
    float sum = 0.0f;
    for (int channel = 0; channel < a.channels; ++channel) sum += expf(at(channel) - best);
    return 1.0f / sum;
}

template <typename S, typename L> __device__ inline void mask(const ScoreArguments &a) {
    int x = (blockIdx.x * blockDim.x + threadIdx.x) * 4, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= a.mask_width || y >= a.mask_height) return;
    Vectors vectors(a);
    Tap row = a.rows[y];
    const L *labels = (const L *)a.labels + (u64)blockIdx.z * a.height * a.width;
    const L *upper = labels + (u64)row.first * a.width, *lower = labels + (u64)row.second * a.width;
    u64 line = ((u64)blockIdx.z * a.mask_height + y) * a.mask_width;
    Four<L> winners;
    for (int i = 0; i < 4; ++i) {
        if (x + i >= a.mask_width) break;
        Tap column = a.columns[x + i];
        L winner = upper[column.first];
        bool uniform = winner == upper[column.second] && winner == lower[column.first] && winner == lower[column.second];
        if (!uniform) winner = (L)winner_of(a, Blended<S>(a, vectors, row, column));
        if (a.confidence)
            a.confidence[line + x + i] = sureness(a, Blended<S>(a, vectors, row, column), winner);
        winners.at[i] = winner;
    }
    store_four((L *)a.mask + line, x, a.mask_width, winners);
}

// A network that answers labels: the nearest one.
template <typename S, typename L> __device__ inline void nearest(const ScoreArguments &a) {
    int x = (blockIdx.x * blockDim.x + threadIdx.x) * 4, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= a.mask_width || y >= a.mask_height) return;
    const S *line = (const S *)a.scores + ((u64)blockIdx.z * a.height + a.rows[y].nearest) * a.width;
    Four<L> winners;
    for (int i = 0; i < 4; ++i) winners.at[i] = x + i < a.mask_width ? (L)line[a.columns[x + i].nearest] : (L)0;
    store_four((L *)a.mask + ((u64)blockIdx.z * a.mask_height + y) * a.mask_width, x, a.mask_width, winners);
}

template <typename T> __device__ inline void pack(const PackArguments &a) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= a.width || y >= a.height) return;
    const char *from = (const char *)a.source + y * a.row_bytes + x * a.column_bytes;
    T *to = (T *)a.target + ((u64)y * a.width + x) * a.channels;
    for (int channel = 0; channel < a.channels; ++channel) to[channel] = *(const T *)(from + channel * a.channel_bytes);
}

// blockIdx.z is the channel. Tiles overlap: launches on one stream add one after the other.
template <typename S> __device__ inline void blend_tile(const BlendArguments &a) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y, channel = blockIdx.z;
    if (x >= a.width || y >= a.height) return;
    u64 cell = (u64)y * a.width + x;
    u64 from = a.nhwc ? cell * a.channels + channel : (u64)channel * a.height * a.width + cell;
    u64 to = ((u64)channel * a.band_height + a.top + y) * a.band_width + a.left + x;
    a.band[to] += to_float(((const S *)a.scores)[from]) * (a.row_weights[y] * a.column_weights[x]);
}

#define KERNEL(NAME, ARGUMENTS, BODY) extern "C" __global__ void NAME(ARGUMENTS a) { BODY(a); }
#define PRE(S, T, NAME) KERNEL(pre_##NAME, PreArguments, (pre<S, T>))
#define SCORES(S, L, NAME) \
    KERNEL(label_##NAME, ScoreArguments, (label<S, L>)) KERNEL(mask_##NAME, ScoreArguments, (mask<S, L>))
#define NEAREST(S, L, NAME) KERNEL(nearest_##NAME, ScoreArguments, (nearest<S, L>))

PRE(u8, float, uint8_float32) PRE(u8, __half, uint8_float16) PRE(u8, u8, uint8_uint8)
PRE(u16, float, uint16_float32) PRE(u16, __half, uint16_float16) PRE(u16, u8, uint16_uint8)
PRE(float, float, float32_float32) PRE(float, __half, float32_float16) PRE(float, u8, float32_uint8)
SCORES(float, u8, float32_uint8) SCORES(float, u16, float32_uint16)
SCORES(__half, u8, float16_uint8) SCORES(__half, u16, float16_uint16)
NEAREST(u8, u8, uint8_uint8) NEAREST(int, u8, int32_uint8) NEAREST(long long, u8, int64_uint8)
NEAREST(u8, u16, uint8_uint16) NEAREST(int, u16, int32_uint16) NEAREST(long long, u16, int64_uint16)
KERNEL(blend_float32, BlendArguments, blend_tile<float>) KERNEL(blend_float16, BlendArguments, blend_tile<__half>)
KERNEL(pack_1, PackArguments, pack<u8>) KERNEL(pack_2, PackArguments, pack<u16>) KERNEL(pack_4, PackArguments, pack<u32>)
