// Compute the logits of recurrent networks from token ids, for inference on a CPU.
//
// Texts are packed: the tokens of one text after those of another, without padding. `hf_rnn_run` answers for one batch
// of texts; native.py makes its structures and checks every shape and id. A text gets the same bits in any batch.
//
// The file includes itself once per instruction set, with vectors of LANES floats and tiles of ROWS rows, and takes
// the widest set that the processor has. It needs the vector extensions of GCC and Clang.
//
// Legend: N tokens of a batch, R residual stream, H hidden per direction, D directions, S = D * H, G parts of a cell,
// K inputs of a linear layer, P pooled vector.
#ifndef LANES
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif
#define INLINE static inline __attribute__((always_inline))

enum { COLUMNS = 16 };  // of a panel of weights
enum { PANELS = 4 };    // of few rows at once, as the sums of one panel wait for each other
enum { SCANNED = 64 };  // features that run along time together
enum { GROUP = 96 };    // rows that pass through some layers together, so that they stay in the cache
enum { NORM = 32700 };  // of rows in int16; no sum overflows, as that of each output's weights is at most 65500
enum { MIN_GRU, LSTM, GRU, RNN_TANH, RNN_RELU };
enum { PER_TOKEN, LAST, MEAN, MAX, MEAN_MAX, ATTENTION };
enum { LINEAR, RELU, TANH, GELU };
enum { STORE, SIGMOID, ADDEND, SILU, ADD, SQUASH };  // what a linear layer does with its sums

typedef struct {              // a linear layer; its outputs are padded to a multiple of 16
  const void *weights;        // float32 [panel][K][16], int16 [panel][K / 2][16][2] or int8 [panel][K / 4][16][4]
  const float *bias, *scale;  // per output; `scale` is that of int16 and int8
  const int32_t *start;       // per output: -128 times the sum of its weights, of int8
  int32_t inputs, outputs;
  int32_t is_short;  // whether the weights are int16 (1) or int8 (2)
} Layer;

typedef struct {
  const float *weight, *bias;
} Norm;

typedef struct {                 // a residual block, or a plain layer, which has cells alone
  Norm input_norm, mlp_norm;     // of R
  const float *conv;             // [taps][R], or NULL
  Layer gate, out, up, down;     // R to S, S to R, R to inner, inner to R
  Layer keep, candidate;         // min_gru: to S each; the weights of `keep` are negated
  Layer input, hidden[2];        // other cells: to D * G * H, and H to G * H per direction
} Block;

// of the hashes of n-grams, as in models/ngrams_rnn.py
static const uint64_t NGRAM_FACTOR = 1000003, NGRAM_PRIME = 2147483647, NGRAM_BUCKET_FACTOR = 1540483477;
static const uint64_t NGRAM_STEP_FACTOR = 461845907, NGRAM_CHECK_FACTOR = 1812433253;

typedef struct {            // the linear part of a classifier
  const int8_t *weights;    // [rows][labels]
  const int16_t *check;     // per row
  const int16_t *shift;     // per bucket
  const float *scale;       // per label
  int64_t rows, buckets;
  int32_t labels;
} Ngrams;

typedef struct {
  const Block *blocks;
  const float *table;  // per token: R numbers of residual blocks, or the first layer's 2 * S or D * G * H
  Norm norm;           // of R, after residual blocks
  Layer attention, head;
  const float *context;                                           // of the pooling by attention
  // Of each text, before and after its tokens, or NULL. By layer: H, then H of an LSTM or [taps - 1][R]. Then what pooling
  // carries: the maximum or the last state, the number of tokens and the sum of their states, these two in double.
  float *state;
  int32_t count, residual, cell, directions, hidden, row;         // `count` of blocks; numbers per row of the table
  int32_t stream, inner, taps, ahead;                             // R, MLP, convolution
  int32_t pooling, activation, pooled, carried;                   // `pooled`: P; `carried`: numbers of a text's state
  float epsilon;
} Network;

typedef struct {  // rows of K inputs; `shorts` times `scales` of each row are the inputs of int16 layers
  const float *floats;
  int16_t *shorts;
  float *scales;
} Rows;

typedef struct {  // memory of a batch
  float *wide, *keep, *addend, *gate, *normed, *inner, *products, *hidden, *memory, *scores;
  Rows rows;  // those of a group in int16
} Room;

// Memory of earlier batches, which spares the pages of each new one; a place is free where it is 0.
enum { SPARES = 8, MOST_KEPT = 64 << 20 };
static void *spares[SPARES];
static void *take_room(size_t bytes) {
  for (int i = 0; i < SPARES; i++) {
    size_t *found = __atomic_exchange_n(&spares[i], (void *)0, __ATOMIC_ACQUIRE);
    if (found && *found >= bytes) return found;
    free(found);
  }
  size_t *room = malloc(bytes + 64);
  if (room) *room = bytes;
  return room;
}
static void give_room(void *room) {
  void *none = 0;
  for (int i = 0; room && *(size_t *)room <= MOST_KEPT && i < SPARES; i++, none = 0)
    if (__atomic_compare_exchange_n(&spares[i], &none, room, 0, __ATOMIC_RELEASE, __ATOMIC_RELAXED)) return;
  free(room);
}

static int cell_parts(int cell) { return cell == LSTM ? 4 : cell == GRU ? 3 : cell == MIN_GRU ? 2 : 1; }

static void activate(int kind, float *x, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (kind == RELU) x[i] = x[i] < 0 ? 0 : x[i];
    if (kind == TANH) x[i] = tanhf(x[i]);
    if (kind == GELU) x[i] *= 0.5f + 0.5f * erff(x[i] * 0.70710678f);
  }
}

// Names of the functions of an instruction set.
#define JOIN_(name, set) name##_##set
#define JOIN(name, set) JOIN_(name, set)
#define V JOIN(V, SET)
#define Stored JOIN(Stored, SET)
#define U JOIN(U, SET)
#define I JOIN(I, SET)
#define load JOIN(load, SET)
#define store JOIN(store, SET)
#define pick JOIN(pick, SET)
#define exponential JOIN(exponential, SET)
#define sigmoid JOIN(sigmoid, SET)
#define squash JOIN(squash, SET)
#define sum_lanes JOIN(sum_lanes, SET)
#define normalize JOIN(normalize, SET)
#define quantize JOIN(quantize, SET)
#define prepare JOIN(prepare, SET)
#define multiply JOIN(multiply, SET)
#define multiply_shorts JOIN(multiply_shorts, SET)
#define multiply_bytes JOIN(multiply_bytes, SET)
#define quantize_bytes JOIN(quantize_bytes, SET)
#define put JOIN(put, SET)
#define linear JOIN(linear, SET)
#define convolve JOIN(convolve, SET)
#define follow JOIN(follow, SET)
#define scan JOIN(scan, SET)
#define recur JOIN(recur, SET)
#define run_block JOIN(run_block, SET)
#define pool JOIN(pool, SET)
#define carry JOIN(carry, SET)
#define run JOIN(run, SET)

#if defined(__x86_64__)
#define SET avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma")))
#define LANES 16
#define ROWS 12
#define MULTIPLY_ADD(sum, x, w) (I) _mm512_dpwssd_epi32((__m512i)(sum), (__m512i)(x), (__m512i)(w))
#define MULTIPLY_ADD_4(sum, x, w) (I) _mm512_dpbusd_epi32((__m512i)(sum), (__m512i)(x), (__m512i)(w))
#include "kernel.c"
#define SET avx2
#define TARGET __attribute__((target("avx2,fma")))
#define LANES 8
#define ROWS 6
#define MULTIPLY_ADD(sum, x, w) ((sum) + (I)_mm256_madd_epi16((__m256i)(x), (__m256i)(w)))
#include "kernel.c"
#endif
#define SET base
#define TARGET
#define LANES 4
#if defined(__aarch64__)
#define ROWS 6
#else
#define ROWS 3
#endif
#include "kernel.c"

static int level(void) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    return 2;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
  return 0;
}

// Return the instruction set in use: 2 is AVX-512, 1 AVX2, 0 any other; int16 layers need 1 or 2. From 0 on, `most` limits
// it, for tests.
static int chosen = -1;
EXPORT int hf_rnn_level(int most) {
  int found = level();
  if (most >= 0 || chosen < 0) chosen = most >= 0 && most < found ? most : found;
  return chosen;
}

// Write the logits of `texts` texts, which end at these places of `ids`; cells other than min_gru need longer texts
// first. Return 1 if there is not enough memory.
EXPORT int hf_rnn_run(const Network *net, const int32_t *ids, const int64_t *ends, int texts, float *logits) {
#if defined(__x86_64__)
  if (chosen == 2) return run_avx512(net, ids, ends, texts, logits);
  if (chosen == 1) return run_avx2(net, ids, ends, texts, logits);
#endif
  return run_base(net, ids, ends, texts, logits);
}

// Write a float32 layer's outputs of `rows` rows, to fill the table: STORE, SIGMOID, or ADDEND with `other` of SIGMOID.
EXPORT void hf_rnn_linear(int kind, const Layer *layer, const float *inputs, int rows, float *out, const float *other) {
#if defined(__x86_64__)
  if (chosen == 2) { linear_avx512(kind, layer, inputs, rows, out, other, 0); return; }
  if (chosen == 1) { linear_avx2(kind, layer, inputs, rows, out, other, 0); return; }
#endif
  linear_base(kind, layer, inputs, rows, out, other, 0);
}

static int compare_hashes(const void *left, const void *right) {
  uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
  return (a > b) - (a < b);
}

// Add the scores of the distinct n-grams of each text to its logits, as NgramScores of models/ngrams_rnn.py does.
// `ids` are those of one text after another, `ends` where each text ends, and `stride` the numbers per row of logits.
// All arithmetic is without signs: whatever the table has, a bucket and a row are inside it.
EXPORT int hf_rnn_ngrams(const Ngrams *table, const int64_t *ids, const int64_t *ends, int texts, int stride, float *logits) {
  int64_t longest = 0;
  for (int t = 0; t < texts; t++) {
    int64_t length = ends[t] - (t ? ends[t - 1] : 0);
    if (length > longest) longest = length;
  }
  uint64_t *hashes = malloc(sizeof(int64_t) * (size_t)(2 * longest + 1) + sizeof(int32_t) * (size_t)table->labels);
  if (!hashes) return 1;
  const uint64_t rows = (uint64_t)table->rows, buckets = (uint64_t)table->buckets;
  uint64_t *ordered = hashes + longest;
  int32_t *sums = (int32_t *)(hashes + 2 * longest + 1);
  for (int t = 0; t < texts; t++, logits += stride) {
    int64_t start = t ? ends[t - 1] : 0, length = ends[t] - start;
    memset(sums, 0, sizeof(int32_t) * (size_t)table->labels);
    memset(hashes, 0, sizeof(int64_t) * (size_t)length);
    for (int64_t further = 0; further < 3 && further < length; further++) {
      int64_t count = length - further;
      for (int64_t i = 0; i < count; i++)
        ordered[i] = hashes[i] = (hashes[i] * NGRAM_FACTOR + (uint64_t)ids[start + i + further] + 1) % NGRAM_PRIME;
      qsort(ordered, (size_t)count, sizeof(int64_t), compare_hashes);
      for (int64_t i = 0; i < count; i++) {
        uint64_t hash = ordered[i];
        if (i && hash == ordered[i - 1]) continue;
        uint64_t shift = (uint16_t)table->shift[hash * NGRAM_BUCKET_FACTOR % NGRAM_PRIME % buckets];
        uint64_t row = (hash + shift * (1 + hash * NGRAM_STEP_FACTOR % NGRAM_PRIME)) % rows;
        if ((int64_t)(hash * NGRAM_CHECK_FACTOR % NGRAM_PRIME % 65536) - 32768 != table->check[row]) continue;
        const int8_t *weights = table->weights + row * table->labels;
        for (int c = 0; c < table->labels; c++) sums[c] += weights[c];
      }
    }
    float root = sqrtf((float)(length ? length : 1));
    for (int c = 0; c < table->labels; c++) logits[c] += (float)sums[c] * table->scale[c] / root;
  }
  free(hashes);
  return 0;
}

// The size of the structures, by which a library of another version is known.
EXPORT int hf_rnn_size(void) { return (int)(1000 * sizeof(Block) + sizeof(Network) + 1000000 * sizeof(Ngrams)); }

EXPORT void *PyInit__kernel(void) { return 0; }  // Windows exports it from every extension

#else  // ---- for one instruction set

typedef float V __attribute__((vector_size(4 * LANES)));
typedef uint32_t U __attribute__((vector_size(4 * LANES)));
typedef int32_t I __attribute__((vector_size(4 * LANES)));
typedef float Stored __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE TARGET V load(const float *from) { return *(const Stored *)from; }
INLINE TARGET void store(float *to, V x) { *(Stored *)to = x; }
INLINE TARGET V pick(I mask, V a, V b) { return (V)((mask & (I)a) | (~mask & (I)b)); }

// exp by a polynomial of degree 6 (Cephes), within 2 units of the last place; NaN stays NaN.
INLINE TARGET V exponential(V x) {
  const V zero = {0};
  x = pick(x < -87.f, zero - 87.f, x);
  x = pick(x > 88.f, zero + 88.f, x);
  V n = x * 1.44269504f + 12582912.f - 12582912.f;  // the nearest integer
  V r = x - n * 0.693359375f + n * 2.12194440e-4f;
  V p = zero + 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + (r + 1.f);
  return p * (V)((U)(n + 8388735.f) << 23);  // 2^n: the lowest bits of n + 127 + 2^23 are an exponent
}
#if LANES == 16
// 2^f by a polynomial of degree 6 for 0 <= f < 1, times 2^floor; infinity has f = 0, and NaN stays NaN.
INLINE TARGET V sigmoid(V x) {
  const V zero = {0};
  V t = x * -1.44269504f, f = (V)_mm512_reduce_ps((__m512)t, 1);
  V p = zero + 0.000216129151f;
  p = p * f + 0.00124678464f;
  p = p * f + 0.00967545157f;
  p = p * f + 0.0554852806f;
  p = p * f + 0.240229306f;
  p = p * f + 0.693147044f;
  p = p * f + 1.f;
  return 1.f / (1.f + (V)_mm512_scalef_ps((__m512)p, (__m512)t));
}
#else
INLINE TARGET V sigmoid(V x) { return 1.f / (1.f + exponential(-x)); }
#endif
INLINE TARGET V squash(V x) { return 2.f * sigmoid(2.f * x) - 1.f; }  // tanh
INLINE TARGET float sum_lanes(V x) {
#if LANES == 16
  return _mm512_reduce_add_ps((__m512)x);
#else
  float sum = 0;
  for (int i = 0; i < LANES; i++) sum += x[i];
  return sum;
#endif
}

// Layer normalisation of n numbers.
static TARGET void normalize(const float *x, float *y, Norm norm, int n, float epsilon) {
  V sum = {0}, squares = {0};
  for (int i = 0; i < n; i += LANES) sum += load(x + i);
  float mean = sum_lanes(sum) / n;
  for (int i = 0; i < n; i += LANES) {
    V d = load(x + i) - mean;
    squares += d * d;
  }
  float factor = 1.f / sqrtf(sum_lanes(squares) / n + epsilon);
  for (int i = 0; i < n; i += LANES) store(y + i, (load(x + i) - mean) * factor * load(norm.weight + i) + load(norm.bias + i));
}

// Round n numbers to int16, scaled to a root of the sum of squares of NORM, and return the factor back.
static TARGET float quantize(const float *x, int16_t *y, int n) {
  V squares = {0};
  for (int i = 0; i < n; i += LANES) squares += load(x + i) * load(x + i);
  float norm = sqrtf(sum_lanes(squares));
  norm = norm < 1e-30f ? 1e-30f : norm;
  float factor = NORM / norm;
  for (int i = 0; i < n; i += LANES) {
#if LANES == 16
    _mm256_storeu_si256((void *)(y + i), _mm512_cvtepi32_epi16(_mm512_cvtps_epi32((__m512)(load(x + i) * factor))));
#else
    I rounded = (I)(load(x + i) * factor + 12582912.f);  // the lowest 16 bits are the nearest integer
    for (int j = 0; j < LANES; j++) y[i + j] = (int16_t)rounded[j];
#endif
  }
  return norm / NORM;
}

#ifdef MULTIPLY_ADD_4
// Round n numbers to 8 bits, 128 for zero, scaled to a largest of 127, and return the factor back.
static TARGET float quantize_bytes(const float *x, uint8_t *y, int n) {
  __m512 most = _mm512_setzero_ps();
  for (int i = 0; i < n; i += LANES) most = _mm512_max_ps(most, _mm512_abs_ps((__m512)load(x + i)));
  float top = _mm512_reduce_max_ps(most);
  top = top < 1e-30f ? 1e-30f : top;
  float factor = 127.f / top;
  for (int i = 0; i < n; i += LANES) {
    __m512i rounded = _mm512_cvtps_epi32((__m512)(load(x + i) * factor));
    _mm_storeu_si128((void *)(y + i), _mm512_cvtepi32_epi8(_mm512_add_epi32(rounded, _mm512_set1_epi32(128))));
  }
  return top / 127.f;
}
#endif

// Quantise rows for a layer if it is in int16 or int8.
static TARGET Rows prepare(const Layer *l, const float *x, int rows, Rows room) {
  room.floats = x;
#ifdef MULTIPLY_ADD_4
  if (l->is_short == 2) {
    for (int i = 0; i < rows; i++)
      room.scales[i] = quantize_bytes(x + (size_t)i * l->inputs, (uint8_t *)room.shorts + (size_t)i * l->inputs, l->inputs);
    return room;
  }
#endif
  if (l->is_short)
    for (int i = 0; i < rows; i++)
      room.scales[i] = quantize(x + (size_t)i * l->inputs, room.shorts + (size_t)i * l->inputs, l->inputs);
  return room;
}

// Sums of `rows` rows, at most ROWS, and one panel. `rows` is a constant where this is inlined, so the sums are in registers.
INLINE TARGET void multiply(const int rows, const Layer *l, const float *x, size_t stride, int panel, float *out) {
  enum { PARTS = COLUMNS / LANES };
  const int K = l->inputs;
  const float *w = (const float *)l->weights + (size_t)panel * K * COLUMNS;
  V sums[ROWS][PARTS];
#pragma GCC unroll 12
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
    for (int p = 0; p < PARTS; p++) sums[r][p] = load(l->bias + panel * COLUMNS + p * LANES);
  for (int k = 0; k < K; k++, w += COLUMNS) {
    V weights[PARTS];
#pragma GCC unroll 4
    for (int p = 0; p < PARTS; p++) weights[p] = load(w + p * LANES);
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
      for (int p = 0; p < PARTS; p++) sums[r][p] += x[r * stride + k] * weights[p];
  }
#pragma GCC unroll 12
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
    for (int p = 0; p < PARTS; p++) store(out + r * COLUMNS + p * LANES, sums[r][p]);
}

#ifdef MULTIPLY_ADD
INLINE TARGET void multiply_shorts(const int rows, const Layer *l, const int16_t *x, size_t stride, const float *scales, int panel, float *out) {
  enum { PARTS = COLUMNS / LANES };
  const int K = l->inputs;
  const int16_t *w = (const int16_t *)l->weights + (size_t)panel * K * COLUMNS;
  I sums[ROWS][PARTS];
#pragma GCC unroll 12
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
    for (int p = 0; p < PARTS; p++) sums[r][p] = (I){0};
  for (int k = 0; k < K; k += 2, w += 2 * COLUMNS) {
    I weights[PARTS];
#pragma GCC unroll 4
    for (int p = 0; p < PARTS; p++) memcpy(&weights[p], w + 2 * p * LANES, sizeof(I));
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
      int32_t pair;
      memcpy(&pair, x + r * stride + k, sizeof pair);
      I both = pair + (I){0};
#pragma GCC unroll 4
      for (int p = 0; p < PARTS; p++) sums[r][p] = MULTIPLY_ADD(sums[r][p], both, weights[p]);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
    for (int p = 0; p < PARTS; p++) {
      int at = panel * COLUMNS + p * LANES;
      V sum = __builtin_convertvector(sums[r][p], V);
      store(out + r * COLUMNS + p * LANES, sum * (scales[stride ? r : 0] * load(l->scale + at)) + load(l->bias + at));
    }
}
#ifdef MULTIPLY_ADD_4
INLINE TARGET void multiply_bytes(const int rows, const Layer *l, const uint8_t *x, size_t stride, const float *scales, int panel, float *out) {
  const int K = l->inputs;
  const int8_t *w = (const int8_t *)l->weights + (size_t)panel * K * COLUMNS;
  I sums[ROWS], first;
  memcpy(&first, l->start + panel * COLUMNS, sizeof first);
#pragma GCC unroll 12
  for (int r = 0; r < rows; r++) sums[r] = first;
  for (int k = 0; k < K; k += 4, w += 4 * COLUMNS) {
    I weights;
    memcpy(&weights, w, sizeof(I));
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
      int32_t four;
      memcpy(&four, x + r * stride + k, sizeof four);
      sums[r] = MULTIPLY_ADD_4(sums[r], four + (I){0}, weights);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < rows; r++) {
    V sum = __builtin_convertvector(sums[r], V);
    store(out + r * COLUMNS, sum * (scales[stride ? r : 0] * load(l->scale + panel * COLUMNS)) + load(l->bias + panel * COLUMNS));
  }
}
#define TIMES(n) l->is_short == 2 ? multiply_bytes(n, l, (const uint8_t *)in.shorts + first, stride, in.scales + row, panel, sums) : l->is_short ? multiply_shorts(n, l, in.shorts + first, stride, in.scales + row, panel, sums) : multiply(n, l, in.floats + first, stride, panel, sums)
#else
#define TIMES(n) l->is_short ? multiply_shorts(n, l, in.shorts + first, stride, in.scales + row, panel, sums) : multiply(n, l, in.floats + first, stride, panel, sums)
#endif
#else
#define TIMES(n) multiply(n, l, in.floats + first, stride, panel, sums)
#endif

#if LANES > 4
#define FEW (LANES == 16 ? 3 : 1)
#define few JOIN(few, SET)
INLINE TARGET void few(const int rows, const int short_, const Layer *l, Rows in, int row, int panel, float *out) {
  enum { PARTS = COLUMNS / LANES, ALL = PANELS * PARTS };
  const int K = l->inputs, step = short_ == 2 ? 4 : short_ == 1 ? 2 : 1;
  const size_t size = (size_t)K * COLUMNS * 4 / step;  // bytes of a panel
  const char *w = (const char *)l->weights + panel * size;
  const char *x = short_ ? (const char *)in.shorts + (size_t)row * K * (3 - short_) : (const char *)(in.floats + (size_t)row * K);
  const size_t stride = (size_t)K * 4 / step;
  V sums[FEW][ALL];
  I counts[FEW][ALL];
#pragma GCC unroll 3
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
    for (int p = 0; p < ALL; p++) {
      if (short_ == 2) memcpy(&counts[r][p], l->start + panel * COLUMNS + p * LANES, sizeof(I));
      else counts[r][p] = (I){0};
      sums[r][p] = load(l->bias + panel * COLUMNS + p * LANES);
    }
  for (int k = 0; k < K / step; k++, w += 4 * COLUMNS) {
#pragma GCC unroll 8
    for (int p = 0; p < ALL; p++) {
      I weights;
      memcpy(&weights, w + p / PARTS * size + p % PARTS * sizeof(I), sizeof(I));
#pragma GCC unroll 3
      for (int r = 0; r < rows; r++) {
        int32_t bits;
        float number;
        memcpy(&bits, x + r * stride + 4 * k, 4), memcpy(&number, x + r * stride + 4 * k, 4);
        if (!short_) sums[r][p] += number * (V)weights;
#ifdef MULTIPLY_ADD
        if (short_ == 1) counts[r][p] = MULTIPLY_ADD(counts[r][p], bits + (I){0}, weights);
#endif
#ifdef MULTIPLY_ADD_4
        if (short_ == 2) counts[r][p] = MULTIPLY_ADD_4(counts[r][p], bits + (I){0}, weights);
#endif
      }
    }
  }
#pragma GCC unroll 3
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
    for (int p = 0; p < ALL; p++) {
      int at = panel * COLUMNS + p * LANES;
      V sum = sums[r][p];
      if (short_) sum = __builtin_convertvector(counts[r][p], V) * (in.scales[row + r] * load(l->scale + at)) + load(l->bias + at);
      store(out + (p / PARTS * rows + r) * COLUMNS + p % PARTS * LANES, sum);
    }
}
#define SOME(n) l->is_short == 2 ? few(n, 2, l, in, row, panel, sums) : l->is_short ? few(n, 1, l, in, row, panel, sums) : few(n, 0, l, in, row, panel, sums)
#endif

// Compute the sums of a tile, and write what `kind` makes of them to the same places of `out`.
static TARGET void put(int kind, const Layer *l, Rows in, int row, int rows, int panel, float *out, const float *other) {
  float sums[12 * COLUMNS];
  size_t first = (size_t)row * l->inputs, stride = rows > 1 ? l->inputs : 0;
  int panels = 1;
#if LANES > 4
  if (rows <= FEW && panel / PANELS * PANELS + PANELS <= l->outputs / COLUMNS) {
    if (panel % PANELS) return;  // done with the first one
    panels = PANELS;
    if (rows == 1) SOME(1);
#if LANES == 16
    else if (rows == 2) SOME(2);
    else SOME(3);
#endif
  } else
#endif
  switch (rows) {
    case 1:  // twice the same row: one chain of sums might be rounded otherwise, and takes as long
    case 2: TIMES(2); break;
    case 3: TIMES(3); break;
#if ROWS > 3
    case 4: TIMES(4); break;
    case 5: TIMES(5); break;
    case 6: TIMES(6); break;
#endif
#if ROWS > 6
    case 7: TIMES(7); break;
    case 8: TIMES(8); break;
    case 9: TIMES(9); break;
    case 10: TIMES(10); break;
    case 11: TIMES(11); break;
    case 12: TIMES(12); break;
#endif
  }
  size_t start = (size_t)row * l->outputs + (size_t)panel * COLUMNS;
#define EACH(value)                                                \
  for (int p = 0; p < panels; p++)                                 \
  for (int r = 0; r < rows; r++)                                   \
    for (int c = 0; c < COLUMNS; c += LANES) {                     \
      size_t at = start + (size_t)r * l->outputs + p * COLUMNS + c; \
      V x = load(sums + (p * rows + r) * COLUMNS + c);             \
      store(out + at, value);                                      \
    }                                                              \
  break;
  switch (kind) {
    case STORE: EACH(x)
    case SIGMOID: EACH(sigmoid(x))
    case ADDEND: EACH(x - x * load(other + at))  // what is not kept
    case SILU: EACH(x * sigmoid(x))
    case ADD: EACH(load(out + at) + x)
    case SQUASH: EACH(squash(x))
  }
#undef EACH
}

static TARGET void linear(int kind, const Layer *l, const float *x, int rows, float *out, const float *other, const Rows *room) {
  for (int first = 0; first < rows; first += GROUP) {
    int count = rows - first < GROUP ? rows - first : GROUP;
    size_t at = (size_t)first * l->outputs;
    const float *inputs = x + (size_t)first * l->inputs;
    Rows in = room ? prepare(l, inputs, count, *room) : (Rows){inputs, 0, 0};
    for (int panel = 0; panel < l->outputs / COLUMNS; panel++)
      for (int row = 0; row < count; row += ROWS)
        put(kind, l, in, row, count - row < ROWS ? count - row : ROWS, panel, out + at, other ? other + at : 0);
  }
}

// Sum each token's neighbours within its text, weighted by feature; `held` rows before those of each text belong to it.
static TARGET void convolve(const Network *net, const float *kernel, const float *x, const int64_t *ends, int texts, float *out, int held) {
  const int R = net->stream, behind = net->taps - 1 - net->ahead;
  int64_t start = 0;
  for (int t = 0; t < texts; start = ends[t++], x += (size_t)held * R)
    for (int64_t i = start; i < ends[t]; i++)
      for (int f = 0; f < R; f += LANES) {
        V sum = {0};
        for (int k = 0; k < net->taps; k++) {
          int64_t j = i + k - behind;
          if (j >= start - held && j < ends[t]) sum += load(x + j * R + f) * load(kernel + (size_t)k * R + f);
        }
        store(out + i * R + f, sum);
      }
}

// Run `width` features of one text in one direction; `width` is a constant where this is inlined.
INLINE TARGET void follow(const int width, const float *keep, const float *addend, const float *gate, float *out, int64_t steps, ptrdiff_t step, float *state) {
  V h[SCANNED / LANES] = {{0}};
  if (state) memcpy(h, state, sizeof(float) * width);
  for (ptrdiff_t at = 0; steps > 0; steps--, at += step)
#pragma GCC unroll 16
    for (int p = 0; p < width / LANES; p++) {
      h[p] = load(keep + at + p * LANES) * h[p] + load(addend + at + p * LANES);
      store(out + at + p * LANES, gate ? h[p] * load(gate + at + p * LANES) : h[p]);
    }
  if (state) memcpy(state, h, sizeof(float) * width);
}

// Run h = keep * h + addend in each direction, and write h, or h * gate, to `out`, which may be `gate`.
static TARGET void scan(const Network *net, const float *keep, const float *addend, const float *gate, const int64_t *ends, int texts, float *out, float *state) {
  const int S = net->directions * net->hidden, wide = net->hidden % SCANNED ? COLUMNS : SCANNED;
  int64_t start = 0;
  for (int t = 0; t < texts; start = ends[t++])
    for (int f = 0; f < S && start < ends[t]; f += wide) {
      const size_t first = (size_t)(f >= net->hidden ? ends[t] - 1 : start) * S + f;
      const ptrdiff_t step = f >= net->hidden ? -S : S;
      const float *gates = gate ? gate + first : 0;
      float *held = state ? state + (size_t)t * net->carried + f : 0;
      if (wide == COLUMNS) follow(COLUMNS, keep + first, addend + first, gates, out + first, ends[t] - start, step, held);
      else follow(SCANNED, keep + first, addend + first, gates, out + first, ends[t] - start, step, held);
    }
}

// Run the cell over the inputs' sums, a step of all texts at once; `ends` are of texts of descending length.
static TARGET void recur(const Network *net, const Block *b, const float *wide, const int64_t *ends, int texts, float *out, const Room *room, float *state) {
  const int H = net->hidden, width = cell_parts(net->cell) * H, D = net->directions;
  for (int d = 0; d < D; d++) {
    int active = texts;
    float *first = room->hidden, *second = room->memory;
    memset(first, 0, sizeof(float) * texts * H), memset(second, 0, sizeof(float) * texts * H);
    for (int t = 0; state && t < texts; t++) {
      memcpy(first + (size_t)t * H, state + (size_t)t * net->carried, sizeof(float) * H);
      memcpy(second + (size_t)t * H, state + (size_t)t * net->carried + H, sizeof(float) * H);
    }
    for (int64_t step = 0;; step++) {
      while (active && ends[active - 1] - (active > 1 ? ends[active - 2] : 0) <= step) active--;
      if (!active) break;
      linear(STORE, &b->hidden[d], first, active, room->products, 0, &room->rows);
      for (int t = 0; t < active; t++) {
        int64_t start = t ? ends[t - 1] : 0, token = d ? ends[t] - 1 - step : start + step;
        const float *x = wide + ((size_t)token * D + d) * width, *y = room->products + (size_t)t * width;
        float *to = out + ((size_t)token * D + d) * H, *hidden = first + (size_t)t * H, *memory = second + (size_t)t * H;
        for (int f = 0; f < H; f += LANES) {
#define PART(i) load(x + (i) * H + f)
#define HIDDEN(i) load(y + (i) * H + f)
          V h = PART(0) + HIDDEN(0);
          if (net->cell == LSTM) {  // input gate, forget gate, candidate, output gate
            V c = sigmoid(PART(1) + HIDDEN(1)) * load(memory + f) + sigmoid(h) * squash(PART(2) + HIDDEN(2));
            store(memory + f, c);
            h = sigmoid(PART(3) + HIDDEN(3)) * squash(c);
          } else if (net->cell == GRU) {  // reset gate, update gate, candidate
            V candidate = squash(PART(2) + sigmoid(h) * HIDDEN(2));
            h = candidate + sigmoid(PART(1) + HIDDEN(1)) * (load(hidden + f) - candidate);
          } else {
            h = net->cell == RNN_TANH ? squash(h) : pick(h < 0.f, (V){0}, h);
          }
          store(hidden + f, h);
          store(to + f, h);
        }
      }
    }
    for (int t = 0; state && t < texts; t++) {
      memcpy(state + (size_t)t * net->carried, first + (size_t)t * H, sizeof(float) * H);
      memcpy(state + (size_t)t * net->carried + H, second + (size_t)t * H, sizeof(float) * H);
    }
  }
}

// Add both branches of a residual block to the stream (N, R).
static TARGET void run_block(const Network *net, const Block *b, float *stream, const int64_t *ends, int texts, const Room *room, float *state) {
  const int N = (int)ends[texts - 1], R = net->stream, S = net->directions * net->hidden;
  const int held = state && b->conv ? net->taps - 1 : 0;
  float *inputs = b->conv ? room->keep + (size_t)held * R : room->wide;
  for (int i = 0, t = 0; t < texts; t++) {
    float *own = inputs + (size_t)t * held * R;
    if (held) memcpy(own + ((size_t)i - held) * R, state + (size_t)t * net->carried + S, sizeof(float) * held * R);
    for (; i < ends[t]; i++) normalize(stream + (size_t)i * R, own + (size_t)i * R, b->input_norm, R, net->epsilon);
    if (held) memcpy(state + (size_t)t * net->carried + S, own + ((size_t)i - held) * R, sizeof(float) * held * R);
  }
  if (b->conv) convolve(net, b->conv, inputs, ends, texts, room->wide, held);
  for (int first = 0; first < N; first += GROUP) {
    int count = N - first < GROUP ? N - first : GROUP;
    size_t at = (size_t)first * S;
    Rows in = prepare(&b->keep, room->wide + (size_t)first * R, count, room->rows);
    for (int panel = 0; panel < S / COLUMNS; panel++)
      for (int row = 0; row < count; row += ROWS) {
        int rows = count - row < ROWS ? count - row : ROWS;
        put(SIGMOID, &b->keep, in, row, rows, panel, room->keep + at, 0);
        put(ADDEND, &b->candidate, in, row, rows, panel, room->addend + at, room->keep + at);
        put(SILU, &b->gate, in, row, rows, panel, room->gate + at, 0);
      }
  }
  scan(net, room->keep, room->addend, room->gate, ends, texts, room->gate, state);
  for (int first = 0; first < N; first += GROUP) {
    int count = N - first < GROUP ? N - first : GROUP;
    float *x = stream + (size_t)first * R;
    linear(ADD, &b->out, room->gate + (size_t)first * S, count, x, 0, &room->rows);
    for (int i = 0; i < count; i++) normalize(x + (size_t)i * R, room->normed + (size_t)i * R, b->mlp_norm, R, net->epsilon);
    linear(SILU, &b->up, room->normed, count, room->inner, 0, &room->rows);
    linear(ADD, &b->down, room->inner, count, x, 0, &room->rows);
  }
}

// Pool states (N, `width`) to vectors (texts, P), zero for a text without tokens.
static TARGET void pool(const Network *net, const float *states, int width, const int64_t *ends, int texts, const Room *room, float *pooled) {
  int64_t start = 0;
  memset(pooled, 0, sizeof(float) * texts * net->pooled);
  for (int t = 0; t < texts; start = ends[t++]) {
    float *mean = pooled + (size_t)t * net->pooled, *top = net->pooling == MEAN_MAX ? mean + width : mean;
    int64_t count = ends[t] - start;
    const float *first = states + start * width, *last = states + (ends[t] - 1) * width;
    if (!count) continue;
    if (net->pooling == LAST) {
      memcpy(mean, last, sizeof(float) * width);
      if (net->directions == 2) memcpy(mean + width / 2, first + width / 2, sizeof(float) * (width / 2));
    }
    if (net->pooling == MEAN || net->pooling == MEAN_MAX) {
      for (int64_t part = 0; part < count; part += 256) {  // long sums lose digits
        int64_t end = part + 256 < count ? part + 256 : count;
        float *sum = room->inner;
        memset(sum, 0, sizeof(float) * width);
        for (int64_t i = part; i < end; i++)
          for (int f = 0; f < width; f += LANES) store(sum + f, load(sum + f) + load(first + i * width + f));
        for (int f = 0; f < width; f += LANES) store(mean + f, load(mean + f) + load(sum + f));
      }
      for (int f = 0; f < width; f++) mean[f] /= count;
    }
    if (net->pooling == MAX || net->pooling == MEAN_MAX) {
      memcpy(top, first, sizeof(float) * width);
      for (int64_t i = 1; i < count; i++)
        for (int f = 0; f < width; f += LANES) {
          V old = load(top + f), x = load(first + i * width + f);
          store(top + f, pick((old >= x) | (old != old), old, x));
        }
    }
    if (net->pooling == ATTENTION) {
      float most = room->scores[start], sum = 0;
      for (int64_t i = start; i < ends[t]; i++) most = room->scores[i] > most ? room->scores[i] : most;
      for (int64_t i = start; i < ends[t]; i++) {
        float weight = expf(room->scores[i] - most);
        sum += weight;
        for (int f = 0; f < width; f++) mean[f] += weight * states[i * width + f];
      }
      for (int f = 0; f < width; f++) mean[f] /= sum;
    }
  }
}

// Pool as above with what the texts carry, which changes.
static TARGET void carry(const Network *net, const float *states, int width, const int64_t *ends, int texts, float *pooled) {
  typedef double Wide __attribute__((aligned(4), may_alias));
  int64_t start = 0;
  for (int t = 0; t < texts; start = ends[t++]) {
    float *top = net->state + (size_t)(t + 1) * net->carried - 3 * width - 2, *mean = pooled + (size_t)t * net->pooled;
    Wide *count = (Wide *)(top + width), *sums = count + 1;
    for (int64_t i = start; i < ends[t]; i++)
      for (int f = 0; f < width; f++) {
        float x = states[i * width + f];
        if (net->pooling == LAST || (*count == 0 && i == start) || x > top[f] || x != x) top[f] = x;
        sums[f] += x;
      }
    *count += ends[t] - start;
    if (net->pooling == MEAN || net->pooling == MEAN_MAX)
      for (int f = 0; f < width; f++) *mean++ = (float)(sums[f] / (*count > 0 ? *count : 1));
    if (net->pooling != MEAN) memcpy(mean, top, sizeof(float) * width);
  }
}

static TARGET int run(const Network *net, const int32_t *ids, const int64_t *ends, int texts, float *logits) {
  const size_t N = (size_t)ends[texts - 1], S = (size_t)net->directions * net->hidden, R = net->stream;
  const size_t parts = cell_parts(net->cell), width = net->residual ? R : S, P = net->pooled;
  const size_t largest = S > R ? S : R, inner = (size_t)net->inner > width ? (size_t)net->inner : width;
  const size_t widest = inner > largest ? inner : largest, sums = net->cell == MIN_GRU ? largest : S * parts;
  const size_t sizes[] = {N * width, N * sums, (N + (size_t)texts * net->taps) * largest, N * S, N * S, GROUP * R, GROUP * inner, texts * parts * net->hidden,
      texts * (size_t)net->hidden, texts * (size_t)net->hidden, N, texts * P, GROUP, GROUP * widest / 2};
  enum { COUNT = sizeof sizes / sizeof *sizes };
  size_t total = 16;
  for (int i = 0; i < COUNT; i++) total += (sizes[i] + 31) / 16 * 16;
  void *memory = take_room(total * sizeof(float));
  if (!memory) return 1;
  float *places[COUNT], *next = (float *)(((uintptr_t)memory + sizeof(size_t) + 63) / 64 * 64);
  for (int i = 0; i < COUNT; i++) {
    places[i] = next;
    next += (sizes[i] + 15) / 16 * 16;
  }
  float *states = places[0], *pooled = places[11];
  Room room = {places[1], places[2], places[3], places[4], places[5], places[6], places[7], places[8], places[9], places[10],
      {0, (int16_t *)places[13], places[12]}};
  for (int b = 0; N && b < net->count; b++) {
    const Block *block = net->blocks + b;
    float *state = net->state ? net->state + b * (S + (net->residual ? (net->taps - 1) * R : S)) : 0;  // of the first text
    if (!b)
      for (size_t i = 0; i < N; i++) {
        const float *row = net->table + (size_t)ids[i] * net->row;
        if (net->residual) memcpy(states + i * R, row, sizeof(float) * R);
        else if (net->cell != MIN_GRU) memcpy(room.wide + i * S * parts, row, sizeof(float) * S * parts);
        else memcpy(room.keep + i * S, row, sizeof(float) * S), memcpy(room.addend + i * S, row + S, sizeof(float) * S);
      }
    if (net->residual) run_block(net, block, states, ends, texts, &room, state);
    else if (net->cell == MIN_GRU) {
      if (b) linear(SIGMOID, &block->keep, states, (int)N, room.keep, 0, &room.rows);
      if (b) linear(ADDEND, &block->candidate, states, (int)N, room.addend, room.keep, &room.rows);
      scan(net, room.keep, room.addend, 0, ends, texts, states, state);
    } else {
      if (b) linear(STORE, &block->input, states, (int)N, room.wide, 0, &room.rows);
      recur(net, block, room.wide, ends, texts, states, &room, state);
    }
  }
  if (net->residual)
    for (size_t i = 0; i < N; i++) normalize(states + i * R, states + i * R, net->norm, (int)R, net->epsilon);
  if (net->pooling == ATTENTION) {
    linear(SQUASH, &net->attention, states, (int)N, room.wide, 0, &room.rows);
    for (size_t i = 0; i < N; i++) {
      room.scores[i] = 0;
      for (size_t f = 0; f < width; f++) room.scores[i] += room.wide[i * width + f] * net->context[f];
    }
  }
  if (net->pooling != PER_TOKEN && net->state) carry(net, states, (int)width, ends, texts, pooled);
  else if (net->pooling != PER_TOKEN) pool(net, states, (int)width, ends, texts, &room, pooled);
  float *vectors = net->pooling == PER_TOKEN ? states : pooled;
  size_t count = net->pooling == PER_TOKEN ? N : (size_t)texts;
  activate(net->activation, vectors, count * P);
  linear(STORE, &net->head, vectors, (int)count, logits, 0, 0);
  give_room(memory);
  return 0;
}

#undef TIMES
#undef SOME
#undef FEW
#undef few
#undef MULTIPLY_ADD
#undef MULTIPLY_ADD_4
#undef LANES
#undef ROWS
#undef TARGET
#undef SET
#endif
