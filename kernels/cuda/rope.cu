// Rotary embedding and the key-value cache.

// Rotates every head of x [rows, heads * head_dim]: dimension i is paired with i + rotary / 2, the rest passes through.
extern "C" __global__ void rope(const float *x, int stride, int rows, int heads, int head_dim, const float *cosines,
                                const float *sines, int table_rows, int rotary, const u32 *positions, float *y) {
    let_next_start();
    wait_for_previous();
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    int cols = heads * head_dim;
    if (i >= (u64)rows * cols)
        return;
    u64 r = i / cols;
    int c = (int)(i - r * cols), d = c % head_dim, half = rotary / 2;
    const float *row = x + r * stride;
    if (d >= rotary) {
        y[i] = row[c];
        return;
    }
    u64 at = (u64)min(positions[r], (u32)(table_rows - 1)) * half + d % half;
    float cosine = cosines[at], sine = sines[at];
    y[i] = d < half ? row[c] * cosine - row[c + half] * sine : row[c] * cosine + row[c - half] * sine;
}

// Copies keys and values [batch * tokens, kv_heads * head_dim] into caches [batch, kv_heads, capacity, head_dim].
template <typename T>
__device__ void cache_write(const float *k, int k_stride, const float *v, int v_stride, int batch, int tokens,
                            int kv_heads, int head_dim, int capacity, const u32 *kv_start, T *keys, T *values) {
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
    keys[at] = from_f32<T>(k[r * k_stride + c]);
    values[at] = from_f32<T>(v[r * v_stride + c]);
}
#define CACHE_WRITE(NAME, T)                                                                                           \
    extern "C" __global__ void NAME(const float *k, int k_stride, const float *v, int v_stride, int batch, int tokens, \
                                    int kv_heads, int head_dim, int capacity, const u32 *kv_start, T *keys,            \
                                    T *values) {                                                                       \
        cache_write(k, k_stride, v, v_stride, batch, tokens, kv_heads, head_dim, capacity, kv_start, keys, values);    \
    }
CACHE_WRITE(cache_write_f32, float)
CACHE_WRITE(cache_write_f16, f16)
CACHE_WRITE(cache_write_bf16, bf16)
