// Rotary embedding and the key-value cache.

// Rotates every head of x [rows, heads * head_dim]: dimension i is paired with i + rotary / 2, the rest passes through.
extern "C" __global__ void rope(const void *x, int type, int stride, int rows, int heads, int head_dim,
                                const float *cosines, const float *sines, int table_rows, int rotary,
                                const u32 *positions, void *y) {
    let_next_start();
    wait_for_previous();
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    int cols = heads * head_dim;
    if (i >= (u64)rows * cols)
        return;
    u64 r = i / cols;
    int c = (int)(i - r * cols), d = c % head_dim, half = rotary / 2;
    u64 row = r * stride;
    float value = load_one(x, type, row + c);
    if (d < rotary) {
        u64 at = (u64)min(positions[r], (u32)(table_rows - 1)) * half + d % half;
        float other = load_one(x, type, d < half ? row + c + half : row + c - half);
        value = value * cosines[at] + (d < half ? -other : other) * sines[at];
    }
    store_one(y, type, i, value);
}

// Copies keys and values [batch * tokens, kv_heads * head_dim] into caches [batch, kv_heads, capacity, head_dim].
template <typename T>
__device__ void cache_write(const T *k, int k_stride, const T *v, int v_stride, int batch, int tokens, int kv_heads,
                            int head_dim, int capacity, const u32 *kv_start, T *keys, T *values) {
    let_next_start();
    wait_for_previous();
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    int cols = kv_heads * head_dim;
    if (i >= (u64)batch * tokens * cols)
        return;
    u64 r = i / cols;
    int c = (int)(i - r * cols), h = c / head_dim, d = c % head_dim;
    u64 b = r / tokens, token = kv_start[b] + (r - b * tokens);
    if (token >= (u64)capacity)
        return;
    u64 at = ((b * kv_heads + h) * capacity + token) * head_dim + d;
    keys[at] = k[r * k_stride + c];
    values[at] = v[r * v_stride + c];
}
#define CACHE_WRITE(NAME, T)                                                                                           \
    extern "C" __global__ void NAME(const T *k, int k_stride, const T *v, int v_stride, int batch, int tokens,         \
                                    int kv_heads, int head_dim, int capacity, const u32 *kv_start, T *keys,            \
                                    T *values) {                                                                       \
        cache_write(k, k_stride, v, v_stride, batch, tokens, kv_heads, head_dim, capacity, kv_start, keys, values);    \
    }
CACHE_WRITE(cache_write_f32, float)
CACHE_WRITE(cache_write_f16, f16)
CACHE_WRITE(cache_write_bf16, bf16)

// Both at once for a prompt: queries rotated into y, keys rotated into the cache, values copied there. Elements of 16
// bits, heads rotated as a whole, everything in multiples of 16 elements. A thread takes eight dimensions of either half
// of a head.
extern "C" __global__ void rotate_and_write(const u16 *q, int q_stride, const u16 *k, int k_stride, const u16 *v,
                                            int v_stride, int type, int batch, int tokens, int heads, int kv_heads,
                                            int head_dim, const float *cosines, const float *sines, int table_rows,
                                            const u32 *positions, const u32 *kv_start, int capacity, u16 *y, u16 *keys,
                                            u16 *values) {
    let_next_start();
    wait_for_previous();
    const int half = head_dim / 2, chunks = half / 8, slots = heads + 2 * kv_heads;
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (u64)batch * tokens * slots * chunks)
        return;
    int d = (int)(i % chunks) * 8, slot = (int)(i / chunks % slots);
    u64 r = i / chunks / slots, b = r / tokens, token = kv_start[b] + (r - b * tokens);
    const u16 *from;
    u16 *to;
    if (slot < heads) {
        from = q + r * q_stride + slot * head_dim;
        to = y + (r * heads + slot) * head_dim;
    } else {
        int h = slot - heads, is_value = h >= kv_heads;
        h -= is_value ? kv_heads : 0;
        if (token >= (u64)capacity)
            return;
        from = is_value ? v + r * v_stride + h * head_dim : k + r * k_stride + h * head_dim;
        to = (is_value ? values : keys) + ((b * kv_heads + h) * capacity + token) * head_dim;
        if (is_value) {
            *(uint4 *)(to + d) = *(const uint4 *)(from + d);
            *(uint4 *)(to + d + half) = *(const uint4 *)(from + d + half);
            return;
        }
    }
    float low[8], high[8], cosine[8], sine[8];
    load_eight(low, from, type, d, 8, true);
    load_eight(high, from, type, d + half, 8, true);
    u64 at = (u64)min(positions[r], (u32)(table_rows - 1)) * half + d;
    load_eight(cosine, cosines, IS_F32, at, 8, true);
    load_eight(sine, sines, IS_F32, at, 8, true);
#pragma unroll
    for (int e = 0; e < 8; e++) {
        float a = low[e], c = high[e];
        low[e] = a * cosine[e] - c * sine[e];
        high[e] = c * cosine[e] + a * sine[e];
    }
    store_eight(low, to, type, d, 8, true);
    store_eight(high, to, type, d + half, 8, true);
}
