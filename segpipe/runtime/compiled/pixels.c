/* Frames' and masks' pixels on a CPU: what `borders.py` and `preprocess.py` do by numpy, in the same order of the same
   float32 operations, so that every bit is the same. Knows nothing of Python. No index leaves the sizes that a caller
   gives, whatever numbers stand in the tables; a table that is none makes a function give 0 and leave the answer.

   A cell holds the pixels between four neighbouring scores, in `parts` times `parts` parts. Corners and winners are in
   the order above left, above right, below left, below right. */

#include <float.h>
#include <stdint.h>
#include <string.h>

#if FLT_EVAL_METHOD != 0 || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "float32 arithmetic is done in another precision here, or bytes lie the other way round: numpy does it"
#endif

#define CLASSES 256 /* at most */
#define EDGES 5     /* of the parts of a cell along one axis, at most */
#define LANES 16    /* pixels of a row that are blended together */
#define BLOCK 1024  /* scores whose labels are found together */
#define RUN 256     /* pixels of a row that are normalised together */

typedef struct {
    int64_t scores; /* along the axis; its cells are one more */
    int64_t parts;  /* of each cell: 1, 2 or 4 */
    int64_t pixels;
    const int64_t *starts; /* first pixel of each part, and the number of pixels */
    const float *weights;  /* of each pixel, between the two scores of its cell */
} Axis;

typedef struct {
    int64_t size;  /* of the frame along the axis, 1 at least */
    int64_t count; /* of the answer along it */
    const int64_t *first; /* neighbour of each pixel of the answer; one outside the frame means its edge */
    const float *weights; /* of the second */
} Taps;

typedef struct {
    const uint8_t *pixels;
    int64_t row, column, channel; /* bytes from one to the next */
    int64_t channels;             /* 1 to 4 */
} Frame;

typedef struct {
    float *numbers;
    int64_t plane, row;       /* numbers from one to the next */
    const int64_t *order;     /* which channel of the frame each plane is */
    const float *scale, *shift; /* of each plane */
} Planes;

typedef struct {
    int64_t y, y_end, x, x_end;
} Area;

typedef struct {
    int count;
    uint8_t names[CLASSES];
    float corners[CLASSES][4];
} Candidates;

const char *segpipe_source(void) { return PIXELS_SOURCE; }

/* ---- Masks ---- */

/* Let number `k` win where its value is greater than the best so far; a NaN is never greater, and nothing is than it.
   By masks: compilers turn a choice into jumps. */
static inline __attribute__((always_inline)) void contest(float value, int32_t k, float *best, int32_t *winner) {
    int32_t better = -(value > *best), instead = better | -(value != value), bits, old;
    memcpy(&bits, &value, sizeof bits);
    memcpy(&old, best, sizeof old);
    old = (old & ~instead) | (bits & instead);
    memcpy(best, &old, sizeof old);
    *winner = (*winner & ~better) | (k & better);
}

/* The number of the greatest of several rows of `count` values; the first wins ties. */
static void greatest(const float *rows, int64_t apart, int64_t number, int count, float *restrict best,
                     int32_t *restrict winner) {
    memcpy(best, rows, (size_t)count * sizeof *best);
    memset(winner, 0, (size_t)count * sizeof *winner);
    for (int64_t k = 1; k < number; k++) {
        const float *restrict row = rows + k * apart;
        for (int i = 0; i < count; i++)
            contest(row[i], (int32_t)k, best + i, winner + i);
    }
}

/* Label of the greatest score at each place. */
int32_t segpipe_labels(const float *scores, int64_t classes, int64_t places, uint8_t *labels) {
    float best[BLOCK];
    int32_t winner[BLOCK];
    if (classes < 1 || classes > CLASSES)
        return 0;
    for (int64_t start = 0; start < places; start += BLOCK) {
        int count = places - start < BLOCK ? (int)(places - start) : BLOCK;
        greatest(scores + start, places, classes, count, best, winner);
        for (int i = 0; i < count; i++)
            labels[start + i] = (uint8_t)winner[i];
    }
    return 1;
}

static int is_axis(const Axis *axis) {
    if (axis->scores < 1 || (axis->parts != 1 && axis->parts != 2 && axis->parts != 4))
        return 0;
    int64_t parts = (axis->scores + 1) * axis->parts;
    for (int64_t k = 0; k < parts; k++)
        if (axis->starts[k] > axis->starts[k + 1])
            return 0;
    return axis->starts[0] == 0 && axis->starts[parts] == axis->pixels;
}

static void fill(uint8_t *mask, int64_t width, Area area, uint8_t name) {
    for (int64_t y = area.y; y < area.y_end; y++)
        memset(mask + y * width + area.x, name, (size_t)(area.x_end - area.x));
}

/* The blends of one candidate along a row are above + drop * (weight of the row). */
static void along(const float corner[4], const float *restrict weights, int count, float *restrict above,
                  float *restrict drop) {
    for (int i = 0; i < count; i++) {
        above[i] = corner[0] + (corner[1] - corner[0]) * weights[i];
        drop[i] = corner[2] + (corner[3] - corner[2]) * weights[i] - above[i];
    }
}

/* The pixels of two candidates, by the lead of the first. */
static void decide_two(const Candidates *two, const Axis *rows, const float *weights, Area area, uint8_t *mask,
                       int64_t width) {
    float above[LANES], drop[LANES];
    int32_t names[LANES], second = two->names[1], change = two->names[0] ^ second;
    int count = (int)(area.x_end - area.x);
    along(two->corners[0], weights, count, above, drop);
    for (int64_t y = area.y; y < area.y_end; y++) {
        float weight = rows->weights[y];
        for (int i = 0; i < count; i++)
            names[i] = second ^ (change & -(drop[i] * weight + above[i] >= 0));
        for (int i = 0; i < count; i++)
            mask[y * width + area.x + i] = (uint8_t)names[i];
    }
}

static void decide_many(const Candidates *many, const Axis *rows, const float *weights, Area area, uint8_t *mask,
                        int64_t width) {
    float above[CLASSES][LANES], drop[CLASSES][LANES], best[LANES];
    int32_t winner[LANES];
    int count = (int)(area.x_end - area.x);
    for (int k = 0; k < many->count; k++)
        along(many->corners[k], weights, count, above[k], drop[k]);
    for (int64_t y = area.y; y < area.y_end; y++) {
        float weight = rows->weights[y];
        for (int i = 0; i < count; i++) {
            best[i] = drop[0][i] * weight + above[0][i];
            winner[i] = 0;
        }
        for (int k = 1; k < many->count; k++)
            for (int i = 0; i < count; i++)
                contest(drop[k][i] * weight + above[k][i], k, best + i, winner + i);
        for (int i = 0; i < count; i++)
            mask[y * width + area.x + i] = many->names[winner[i]];
    }
}

/* Who wins each pixel of an area inside one cell. Where `lead`, corners hold the lead of the first of two. */
static void decide(const Candidates *these, int lead, const Axis *rows, const Axis *columns, Area area, uint8_t *mask) {
    for (Area part = area; part.x < area.x_end; part.x += LANES) {
        part.x_end = part.x + LANES < area.x_end ? part.x + LANES : area.x_end;
        (lead ? decide_two : decide_many)(these, rows, columns->weights + part.x, part, mask, columns->pixels);
    }
}

/* Numbers of those that are not, at all four corners, below the winner of one corner or the mean of the four winners. */
static int contenders(float from[4][CLASSES], int count, const int winners[4], uint8_t *kept) {
    float rivals[5][4];
    int32_t beaten[CLASSES];
    int number = 1, left = 0;
    memset(beaten, 0, (size_t)count * sizeof *beaten);
    for (int i = 0; i < 4; i++) {
        const float *own = from[i];
        rivals[0][i] = (own[winners[0]] + own[winners[1]] + own[winners[2]] + own[winners[3]]) * 0.25f;
    }
    for (int j = 0; j < 4; j++) {
        if ((j > 0 && winners[j] == winners[0]) || (j > 1 && winners[j] == winners[1]) ||
            (j > 2 && winners[j] == winners[2]))
            continue;
        for (int i = 0; i < 4; i++)
            rivals[number][i] = from[i][winners[j]];
        number++;
    }
    for (int r = 0; r < number; r++)
        for (int k = 0; k < count; k++)
            beaten[k] |= -(from[0][k] < rivals[r][0]) & -(from[1][k] < rivals[r][1]) & -(from[2][k] < rivals[r][2]) &
                         -(from[3][k] < rivals[r][3]);
    for (int j = 0; j < 4; j++)
        beaten[winners[j]] = 0;
    for (int k = 0; k < count; k++) {
        kept[left] = (uint8_t)k;
        left += !beaten[k];
    }
    return left;
}

/* At the edges of parts, row by row: the number of the candidate that wins there. */
static void at_edges(const Candidates *these, int lead, int down, int across, float values[][EDGES * EDGES],
                     int32_t *first) {
    float best[EDGES * EDGES];
    int edges = (down + 1) * (across + 1);
    for (int k = 0; k < (lead ? 1 : these->count); k++) {
        const float *corner = these->corners[k];
        for (int e = 0; e < edges; e++) {
            float wy = (float)(e / (across + 1)) / (float)down, wx = (float)(e % (across + 1)) / (float)across;
            float above = corner[0] + (corner[1] - corner[0]) * wx;
            float drop = corner[2] + (corner[3] - corner[2]) * wx - above;
            values[k][e] = drop * wy + above;
        }
    }
    if (!lead)
        greatest(values[0], EDGES * EDGES, these->count, edges, best, first);
    for (int e = 0; lead && e < edges; e++)
        first[e] = !(values[0][e] >= 0);
}

/* Who wins the pixels of one part, which a border crosses. */
static void decide_part(const Candidates *these, int lead, const int at[4], float values[][EDGES * EDGES],
                        const int32_t *first, const Axis *rows, const Axis *columns, Area area, uint8_t *mask) {
    Candidates kept;
    float edges[4][CLASSES];
    uint8_t numbers[CLASSES];
    int winners[4] = {first[at[0]], first[at[1]], first[at[2]], first[at[3]]};
    if (lead) {
        decide(these, 1, rows, columns, area, mask);
        return;
    }
    for (int k = 0; k < these->count; k++)
        for (int i = 0; i < 4; i++)
            edges[i][k] = values[k][at[i]];
    kept.count = contenders(edges, these->count, winners, numbers);
    for (int k = 0; k < kept.count; k++) {
        memcpy(kept.corners[k], these->corners[numbers[k]], sizeof *kept.corners);
        kept.names[k] = these->names[numbers[k]];
    }
    decide(&kept, 0, rows, columns, area, mask);
}

/* A long cell: parts whose four corners share a winner are filled, the others decided pixel by pixel. */
static void decide_parts(const Candidates *these, int lead, const Axis *rows, const Axis *columns, int64_t r, int64_t c,
                         uint8_t *mask) {
    float values[CLASSES][EDGES * EDGES];
    int32_t first[EDGES * EDGES];
    int down = (int)rows->parts, across = (int)columns->parts;
    at_edges(these, lead, down, across, values, first);
    const int64_t *y = rows->starts + r * down, *x = columns->starts + c * across;
    for (int i = 0; i < down; i++)
        for (int j = 0; j < across; j++) {
            Area area = {y[i], y[i + 1], x[j], x[j + 1]};
            int e = i * (across + 1) + j;
            int at[4] = {e, e + 1, e + across + 1, e + across + 2};
            if (area.y == area.y_end || area.x == area.x_end)
                continue;
            if (first[at[0]] == first[at[1]] && first[at[0]] == first[at[2]] && first[at[0]] == first[at[3]])
                fill(mask, columns->pixels, area, these->names[first[at[0]]]);
            else
                decide_part(these, lead, at, values, first, rows, columns, area, mask);
        }
}

/* A cell whose corners lie at these places of the scores. */
static void decide_cell(const float *scores, int classes, int64_t places, const int64_t at[4], const uint8_t *labels,
                        const Axis *rows, const Axis *columns, int64_t r, int64_t c, uint8_t *mask) {
    Candidates kept;
    kept.count = 2, kept.names[0] = 0, kept.names[1] = 1;
    float all[4][CLASSES];
    int winners[4] = {labels[at[0]], labels[at[1]], labels[at[2]], labels[at[3]]};
    for (int k = 0; k < classes; k++)
        for (int i = 0; i < 4; i++)
            all[i][k] = scores[k * places + at[i]];
    if (classes != 2) /* where each of two wins a corner, both may win inside */
        kept.count = contenders(all, classes, winners, kept.names);
    for (int k = 0; k < kept.count; k++)
        for (int i = 0; i < 4; i++)
            kept.corners[k][i] = all[i][kept.names[k]];
    int lead = kept.count == 2;
    for (int i = 0; lead && i < 4; i++)
        kept.corners[0][i] -= kept.corners[1][i];
    if (rows->parts == 1 && columns->parts == 1)
        decide(&kept, lead, rows, columns,
               (Area){rows->starts[r], rows->starts[r + 1], columns->starts[c], columns->starts[c + 1]}, mask);
    else
        decide_parts(&kept, lead, rows, columns, r, c, mask);
}

/* The cells of one row: each the label above left of it, and decided where its corners have several. */
static void decide_row(const float *scores, int classes, int64_t places, const uint8_t *labels, const Axis *rows,
                       const Axis *columns, int64_t r, uint8_t *mask) {
    int64_t width = columns->pixels, last = rows->scores - 1;
    int64_t y = rows->starts[r * rows->parts], y_end = rows->starts[(r + 1) * rows->parts];
    int64_t up = (r > 0 ? r - 1 : 0) * columns->scores, down = (r < last ? r : last) * columns->scores;
    if (y == y_end)
        return;
    for (int64_t c = 0; c <= columns->scores; c++) {
        const int64_t *x = columns->starts + c * columns->parts;
        Area area = {y, y + 1, x[0], x[columns->parts]};
        fill(mask, width, area, labels[up + (c > 0 ? c - 1 : 0)]);
    }
    for (int64_t line = y + 1; line < y_end; line++)
        memcpy(mask + line * width, mask + y * width, (size_t)width);
    for (int64_t c = 0; c <= columns->scores; c++) {
        int64_t left = c > 0 ? c - 1 : 0, right = c < columns->scores ? c : columns->scores - 1;
        int64_t at[4] = {up + left, up + right, down + left, down + right};
        uint8_t label = labels[at[0]];
        const int64_t *x = columns->starts + c * columns->parts;
        if (x[0] == x[columns->parts] ||
            (label == labels[at[1]] && label == labels[at[2]] && label == labels[at[3]]))
            continue;
        decide_cell(scores, classes, places, at, labels, rows, columns, r, c, mask);
    }
}

/* Scores, classes x rows x columns, to the class of every pixel. `labels` is room for one byte a score. */
int32_t segpipe_mask(const float *scores, int64_t classes, const Axis *rows, const Axis *columns, uint8_t *labels,
                     uint8_t *mask) {
    if (!is_axis(rows) || !is_axis(columns))
        return 0;
    int64_t places = rows->scores * columns->scores;
    if (!segpipe_labels(scores, classes, places, labels))
        return 0;
    for (int64_t r = 0; r <= rows->scores; r++)
        decide_row(scores, (int)classes, places, labels, rows, columns, r, mask);
    return 1;
}

/* ---- Frames ---- */

typedef struct {
    uint32_t left[2][RUN], right[2][RUN]; /* a byte a channel, of two rows */
} Words;

/* The two neighbours that a pixel of the answer has; both are the edge where `first` lies outside. */
static int64_t first_of(const Taps *taps, int64_t at) {
    int64_t first = taps->first[at];
    return first < 0 ? 0 : first >= taps->size ? taps->size - 1 : first;
}

static int64_t second_of(const Taps *taps, int64_t at) {
    return first_of(taps, at) + (taps->first[at] >= 0 && taps->first[at] < taps->size - 1);
}

static uint32_t word(const uint8_t *pixel, const Frame *frame) {
    uint32_t found = 0;
    for (int64_t c = 0; c < frame->channels; c++)
        found |= (uint32_t)pixel[c * frame->channel] << (8 * c);
    return found;
}

/* The neighbours of `count` pixels of the answer in one row of the frame. */
static void gather(const Frame *frame, const uint8_t *row, const Taps *columns, int64_t start, int count,
                   uint32_t *restrict left, uint32_t *restrict right) {
    /* Of pixels of 3 bytes that lie side by side, two reads of 4 bytes take two. */
    int64_t pairs = frame->channels == 3 && frame->channel == 1 && frame->column == 3 ? columns->size - 1 : 0;
    for (int i = 0; i < count; i++) {
        int64_t first = columns->first[start + i];
        if ((uint64_t)first < (uint64_t)pairs) {
            uint32_t second;
            memcpy(left + i, row + 3 * first, 4);
            memcpy(&second, row + 3 * first + 2, 4);
            right[i] = second >> 8;
        } else {
            left[i] = word(row + first_of(columns, start + i) * frame->column, frame);
            right[i] = word(row + second_of(columns, start + i) * frame->column, frame);
        }
    }
}

static inline __attribute__((always_inline)) float between(float first, float second, float weight, int fused) {
    return fused ? __builtin_fmaf(second - first, weight, first) : first + (second - first) * weight;
}

/* One channel of the words, resized and then normalised. */
static inline __attribute__((always_inline)) void normalise(const Words *words, int channel, const float *restrict across,
                                                            float down, float scale, float shift, int count,
                                                            float *restrict numbers, int fused) {
    for (int i = 0; i < count; i++) {
        float four[4];
        for (int row = 0; row < 2; row++) {
            four[2 * row] = (float)(int32_t)(words->left[row][i] >> (8 * channel) & 255);
            four[2 * row + 1] = (float)(int32_t)(words->right[row][i] >> (8 * channel) & 255);
        }
        float above = between(four[0], four[1], across[i], fused), below = between(four[2], four[3], across[i], fused);
        float value = between(above, below, down, fused) * scale;
        numbers[i] = value + shift;
    }
}

static inline __attribute__((always_inline)) void resize(const Frame *frame, const Taps *rows, const Taps *columns,
                                                         const Planes *planes, int fused) {
    Words words;
    for (int64_t y = 0; y < rows->count; y++)
        for (int64_t start = 0; start < columns->count; start += RUN) {
            int count = columns->count - start < RUN ? (int)(columns->count - start) : RUN;
            for (int k = 0; k < 2; k++) {
                int64_t at = k ? second_of(rows, y) : first_of(rows, y);
                gather(frame, frame->pixels + at * frame->row, columns, start, count, words.left[k], words.right[k]);
            }
            for (int64_t c = 0; c < frame->channels; c++)
                normalise(&words, (int)planes->order[c], columns->weights + start, rows->weights[y], planes->scale[c],
                          planes->shift[c], count, planes->numbers + c * planes->plane + y * planes->row + start, fused);
        }
}

#ifdef __x86_64__
__attribute__((target("avx2,fma"))) static void resize_fused(const Frame *frame, const Taps *rows, const Taps *columns,
                                                             const Planes *planes) {
    resize(frame, rows, columns, planes, 1);
}
static int fuses(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#else
static void resize_fused(const Frame *frame, const Taps *rows, const Taps *columns, const Planes *planes) {
    (void)frame, (void)rows, (void)columns, (void)planes;
}
static int fuses(void) { return 0; }
#endif

/* 8 bits to the network's numbers: half-pixel bilinear in float32, rows first, then scale and shift. `fused` rounds
   each blend once, as IPP does where the processor can. */
int32_t segpipe_frame(const Frame *frame, const Taps *rows, const Taps *columns, const Planes *planes, int32_t fused) {
    if (frame->channels < 1 || frame->channels > 4 || rows->size < 1 || columns->size < 1 || (fused && !fuses()))
        return 0;
    for (int64_t c = 0; c < frame->channels; c++)
        if (planes->order[c] < 0 || planes->order[c] >= frame->channels)
            return 0;
    if (fused)
        resize_fused(frame, rows, columns, planes);
    else
        resize(frame, rows, columns, planes, 0);
    return 1;
}
