// Attention over many queries, exact in f32: 32 queries of one head against tiles of 32 keys, softmax on the way.
//
// Eight neighbouring threads share a query: each computes the scores of every eighth key of the tile, and holds every
// eighth dimension of the result. A tile's keys and values use the same shared memory one after the other.

struct Keys {
    u64 batch_stride, head_stride, token_stride;
};

#define QUERIES 32
#define TILE 32

template <typename T, int DIMS> // DIMS: dimensions per thread, at least head_dim / 8
__device__ void attention(const T *q, int q_stride, const T *k, const T *v, Keys ks, Keys vs, int tokens,
                          int heads, int kv_heads, int head_dim, const u32 *kv_start, int capacity, float scale,
                          int causal, int window, const float *slopes, const u8 *mask, int mask_stride, T *y) {
    extern __shared__ float shared[];
    let_next_start();
    wait_for_previous();
    const int pitch = head_dim + 1;
    float *queries = shared, *tile = queries + QUERIES * pitch, *weights = tile + TILE * pitch;
    const int b = blockIdx.z, h = blockIdx.y, first = blockIdx.x * QUERIES;
    const int query = threadIdx.x / 8, lane = threadIdx.x % 8;
    const int start = kv_start[b], position = start + first + query;
    const int keys = min(start + tokens, capacity);
    const bool exists = first + query < tokens;
    k += b * ks.batch_stride + (h / (heads / kv_heads)) * ks.head_stride;
    v += b * vs.batch_stride + (h / (heads / kv_heads)) * vs.head_stride;
    for (int i = threadIdx.x; i < QUERIES * head_dim; i += blockDim.x) {
        int r = i / head_dim, d = i - r * head_dim;
        u64 row = (u64)b * tokens + first + r;
        queries[r * pitch + d] = first + r < tokens ? to_f32(q[row * q_stride + h * head_dim + d]) : 0.0f;
    }
    float result[DIMS];
#pragma unroll
    for (int i = 0; i < DIMS; i++)
        result[i] = 0;
    const float minus_infinity = __int_as_float(0xff800000);
    float best = minus_infinity, sum = 0;
    const float slope = slopes ? slopes[h] : 0.0f;
    // The keys that any query of the block can see.
    const int last_position = start + min(first + QUERIES, tokens) - 1, first_position = start + first;
    int begin = 0, end = causal ? min(keys, last_position + 1) : keys;
    if (window > 0) {
        begin = max(0, first_position - window + 1);
        end = min(end, last_position + window);
    }
    for (int base = begin / TILE * TILE; base < end; base += TILE) {
        __syncthreads();
        for (int i = threadIdx.x; i < TILE * head_dim; i += blockDim.x) {
            int j = i / head_dim, d = i - j * head_dim;
            tile[j * pitch + d] = base + j < keys ? to_f32(k[(base + j) * ks.token_stride + d]) : 0.0f;
        }
        __syncthreads();
        float score[4] = {0, 0, 0, 0};
        for (int d = 0; d < head_dim; d++) {
            float x = queries[query * pitch + d];
#pragma unroll
            for (int i = 0; i < 4; i++)
                score[i] += x * tile[(lane + 8 * i) * pitch + d];
        }
        float tile_best = minus_infinity;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int j = base + lane + 8 * i;
            bool visible = j < keys && (!causal || j <= position) &&
                           (window <= 0 || (j > position - window && j < position + window)) &&
                           (!mask || (j < mask_stride && mask[(u64)b * mask_stride + j]));
            score[i] = visible ? score[i] * scale + slope * j : minus_infinity;
            tile_best = fmaxf(tile_best, score[i]);
        }
#pragma unroll
        for (int m = 4; m > 0; m >>= 1)
            tile_best = fmaxf(tile_best, __shfl_xor_sync(0xffffffffu, tile_best, m));
        float new_best = fmaxf(best, tile_best);
        // Nothing visible yet: everything stays zero, and no infinity is subtracted from itself.
        float correction = new_best == minus_infinity ? 1.0f : expf(best - new_best);
        float tile_sum = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float weight = score[i] == minus_infinity ? 0.0f : expf(score[i] - new_best);
            weights[query * (TILE + 1) + lane + 8 * i] = weight;
            tile_sum += weight;
        }
#pragma unroll
        for (int m = 4; m > 0; m >>= 1)
            tile_sum += __shfl_xor_sync(0xffffffffu, tile_sum, m);
        sum = sum * correction + tile_sum;
        best = new_best;
#pragma unroll
        for (int i = 0; i < DIMS; i++)
            result[i] *= correction;
        __syncthreads();
        for (int i = threadIdx.x; i < TILE * head_dim; i += blockDim.x) {
            int j = i / head_dim, d = i - j * head_dim;
            tile[j * pitch + d] = base + j < keys ? to_f32(v[(base + j) * vs.token_stride + d]) : 0.0f;
        }
        __syncthreads();
        for (int j = 0; j < TILE; j++) {
            float weight = weights[query * (TILE + 1) + j];
#pragma unroll
            for (int i = 0; i < DIMS; i++)
                if (lane + 8 * i < head_dim)
                    result[i] += weight * tile[j * pitch + lane + 8 * i];
        }
    }
    if (!exists)
        return;
    float inverse = sum > 0 ? 1.0f / sum : 0.0f;
    u64 row = (u64)b * tokens + first + query;
#pragma unroll
    for (int i = 0; i < DIMS; i++)
        if (lane + 8 * i < head_dim)
            y[row * heads * head_dim + h * head_dim + lane + 8 * i] =
                from_f32<T>(result[i] * inverse);
}

#define ATTENTION(NAME, T, DIMS)                                                                                       \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        NAME(const T *q, int q_stride, const T *k, const T *v,     int k_batch_stride, int k_head_stride,              \
             int k_token_stride, int v_batch_stride, int v_head_stride, int v_token_stride, int tokens, int heads,     \
             int kv_heads, int head_dim, const u32 *kv_start, int capacity, float scale, int causal, int window,       \
             const float *slopes, const u8 *mask, int mask_stride, T *y) {                                             \
        Keys ks = {(u64)(u32)k_batch_stride, (u64)(u32)k_head_stride, (u64)(u32)k_token_stride};                       \
        Keys vs = {(u64)(u32)v_batch_stride, (u64)(u32)v_head_stride, (u64)(u32)v_token_stride};                       \
        attention<T, DIMS>(q, q_stride, k, v, ks, vs, tokens, heads, kv_heads, head_dim, kv_start, capacity, scale,    \
                           causal, window, slopes, mask, mask_stride, y);                                              \
    }
ATTENTION(attention_f32_64, float, 8)
ATTENTION(attention_f32_128, float, 16)
ATTENTION(attention_f32_256, float, 32)
ATTENTION(attention_f16_64, f16, 8)
ATTENTION(attention_f16_128, f16, 16)
ATTENTION(attention_f16_256, f16, 32)
ATTENTION(attention_bf16_64, bf16, 8)
ATTENTION(attention_bf16_128, bf16, 16)
ATTENTION(attention_bf16_256, bf16, 32)
