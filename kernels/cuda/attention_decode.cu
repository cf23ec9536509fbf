// Attention of one new token per sequence over its cache, with rotary embedding and the cache write on the way.
//
// The cache is cut into chunks of 32 keys. Blocks take chunks in turns and leave each chunk's maximum, sum and weighted
// values behind; the last block of a head group to finish merges them, chunk by chunk in order, so the result depends
// neither on the number of blocks nor on which of them was last. Query heads that share keys are computed together.

#define THREADS 256
#define CHUNK 32
// Keys and values that a thread has in flight.
#define BATCH 2
// Chunks whose results a thread has in flight.
#define MERGED 8
// Left alone the compiler aims for four blocks on a multiprocessor, and spills for it but for 16-bit elements on Hopper.
#if __CUDA_ARCH__ == 900 && !defined(ELEMENT_f32)
#define BOUNDS __launch_bounds__(THREADS)
#else
#define BOUNDS __launch_bounds__(THREADS, 2)
#endif

// Eight neighbouring elements, on their way from memory.
template <typename T> struct Eight {
    uint4 raw;
    __device__ __forceinline__ void load(const T *at, bool is_whole, int valid) {
        if (is_whole) {
            raw = *(const uint4 *)at;
            return;
        }
        u32 words[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            words[i] = (2 * i < valid ? at[2 * i].bits : 0) | (u32)(2 * i + 1 < valid ? at[2 * i + 1].bits : 0) << 16;
        raw = make_uint4(words[0], words[1], words[2], words[3]);
    }
    __device__ __forceinline__ void unpack(float *out) const {
        u32 words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float2 pair = pair_to_f32<T>(words[i]);
            out[2 * i] = pair.x;
            out[2 * i + 1] = pair.y;
        }
    }
};
template <> struct Eight<float> {
    float4 low, high;
    __device__ __forceinline__ void load(const float *at, bool is_whole, int valid) {
        if (is_whole) {
            low = *(const float4 *)at;
            high = *(const float4 *)(at + 4);
            return;
        }
        float v[8];
#pragma unroll
        for (int i = 0; i < 8; i++)
            v[i] = i < valid ? at[i] : 0.0f;
        low = make_float4(v[0], v[1], v[2], v[3]);
        high = make_float4(v[4], v[5], v[6], v[7]);
    }
    __device__ __forceinline__ void unpack(float *out) const {
        out[0] = low.x, out[1] = low.y, out[2] = low.z, out[3] = low.w;
        out[4] = high.x, out[5] = high.y, out[6] = high.z, out[7] = high.w;
    }
};

template <typename T>
__device__ __forceinline__ float rotated(const T *row, int d, int rotary, const float *cosines, const float *sines) {
    int half = rotary / 2;
    if (d >= rotary)
        return to_f32(row[d]);
    int at = d < half ? d : d - half;
    float cosine = cosines[at], sine = sines[at];
    return to_f32(row[d]) * cosine + (d < half ? -to_f32(row[d + half]) : to_f32(row[d - half])) * sine;
}

template <typename T, int GROUP>
__device__ void decode(const T *q, int q_stride, const T *k_new, int k_stride, const T *v_new, int v_stride,
                       T *keys, T *values, int heads, int kv_heads, int head_dim, int lanes, int capacity,
                       const u32 *kv_start, float scale, int window, const float *slopes, const float *cosines,
                       const float *sines, int table_rows, int rotary, const u32 *positions, int writes_cache,
                       float *partials, int max_chunks, u32 *counters, T *y) {
    extern __shared__ __align__(16) float shared[];
    // A power of two, so that dividing by it is a shift.
    const int padded = lanes * 8, log_padded = __ffs(padded) - 1;
    float *qs = shared;                  // [GROUP][padded]
    float *scores = qs + GROUP * padded; // [GROUP][CHUNK]
    float *sums = scores + GROUP * CHUNK; // [warps][GROUP][padded]
    T *new_key = (T *)(sums + THREADS / 32 * GROUP * padded), *new_value = new_key + padded;
    __shared__ bool is_last;
    let_next_start();
    const int group = heads / kv_heads, parts = (group + GROUP - 1) / GROUP;
    const int b = blockIdx.z, kv_head = blockIdx.x / parts, part = blockIdx.x % parts;
    const int first_head = kv_head * group + part * GROUP, heads_here = min(GROUP, group - part * GROUP);
    // Lengths and positions are no kernel's result, and cached tokens those of earlier steps: all of it is requested before
    // waiting for the new token's projections.
    const u64 table_row = rotary ? (u64)min(positions[b], (u32)(table_rows - 1)) * (rotary / 2) : 0;
    const int position = min((int)kv_start[b], capacity - 1), length = position + 1;
    const int first_key = window > 0 ? max(0, length - window) : 0;
    const int first_chunk = first_key / CHUNK, chunks = (length + CHUNK - 1) / CHUNK;
    // Blocks without work are numbered last, so that they do not keep the others waiting for a multiprocessor.
    const int active = min((int)gridDim.y, chunks - first_chunk);
    if ((int)blockIdx.y >= active)
        return;
    const int lane = threadIdx.x % lanes, key_group = threadIdx.x / lanes, key_groups = THREADS / lanes;
    const int dim = lane * 8, valid = head_dim - dim;
    const bool is_whole = head_dim % 8 == 0 && valid >= 8;

    const u64 head_at = ((u64)b * kv_heads + kv_head) * capacity * head_dim;
    // The keys or values of a chunk that the thread takes, `base` being the first.
    Eight<T> some_keys[BATCH], some_values[BATCH];
    auto load = [&](Eight<T>(&to)[BATCH], const T *from, const T *newest, int chunk, int base) {
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            int j = base + i * key_groups, key = chunk * CHUNK + j;
            bool visible = j < CHUNK && key >= first_key && key < length;
            bool is_new = writes_cache && key == position;
            u64 at = head_at + (u64)min(key, length - 1) * head_dim + dim;
            to[i].load(is_new ? newest + dim : from + at, is_whole, visible ? valid : 0);
        }
    };
    // All but the newest token: that is not there yet.
    int chunk = first_chunk + blockIdx.y;
    const bool is_early = (chunk + 1) * CHUNK <= position;
    if (is_early && key_group < CHUNK) {
        load(some_keys, keys, new_key, chunk, key_group);
        load(some_values, values, new_value, chunk, key_group);
    }
    wait_for_previous();
    const T *q_row = q + (u64)b * q_stride + first_head * head_dim;
    for (int i = threadIdx.x; i < GROUP * padded; i += THREADS) {
        int g = i >> log_padded, d = i & (padded - 1);
        qs[i] = g < heads_here && d < head_dim
                    ? rotated(q_row + g * head_dim, d, rotary, cosines + table_row, sines + table_row)
                    : 0.0f;
    }
    if (writes_cache) {
        // Whoever has the last chunk would read what another block writes: the new key is taken from here instead.
        const T *k_row = k_new + (u64)b * k_stride + kv_head * head_dim;
        const T *v_row = v_new + (u64)b * v_stride + kv_head * head_dim;
        for (int d = threadIdx.x; d < padded; d += THREADS) {
            T key = from_f32<T>(d < head_dim ? rotated(k_row, d, rotary, cosines + table_row, sines + table_row) : 0.0f);
            T value = d < head_dim ? v_row[d] : from_f32<T>(0.0f);
            new_key[d] = key;
            new_value[d] = value;
            if (blockIdx.y == 0 && part == 0 && d < head_dim) {
                keys[head_at + (u64)position * head_dim + d] = key;
                values[head_at + (u64)position * head_dim + d] = value;
            }
        }
    }
    const float minus_infinity = __int_as_float(0xff800000);
    const int warp = threadIdx.x / 32, warp_lane = threadIdx.x % 32;
    for (bool is_loaded = is_early; chunk < chunks; chunk += active, is_loaded = false) {
        __syncthreads();
        for (int base = key_group; base < CHUNK; base += BATCH * key_groups) {
            // The first values are requested with the first keys: most heads need no others.
            if (base != key_group || !is_loaded) {
                load(some_keys, keys, new_key, chunk, base);
                if (base == key_group)
                    load(some_values, values, new_value, chunk, base);
            }
#pragma unroll
            for (int i = 0; i < BATCH; i++) {
                int j = base + i * key_groups, key = chunk * CHUNK + j;
                bool visible = key >= first_key && key < length;
                float kf[8];
                some_keys[i].unpack(kf);
#pragma unroll
                for (int g = 0; g < GROUP; g++) {
                    const float *qv = qs + g * padded + dim;
                    float4 a = *(const float4 *)qv, c = *(const float4 *)(qv + 4);
                    float p = kf[0] * a.x + kf[1] * a.y + kf[2] * a.z + kf[3] * a.w + kf[4] * c.x + kf[5] * c.y +
                              kf[6] * c.z + kf[7] * c.w;
#pragma unroll
                    for (int m = 16; m > 0; m >>= 1)
                        if (m < lanes)
                            p += __shfl_xor_sync(0xffffffffu, p, m);
                    if (lane == 0 && j < CHUNK)
                        scores[g * CHUNK + j] =
                            visible ? p * scale + (slopes && g < heads_here ? slopes[first_head + g] * key : 0.0f)
                                    : minus_infinity;
                }
            }
        }
        __syncthreads();
        for (int g = warp; g < heads_here; g += THREADS / 32) {
            float score = scores[g * CHUNK + warp_lane];
            float best = warp_max(score);
            float weight = score == minus_infinity ? 0.0f : expf(score - best);
            float sum = warp_sum(weight);
            scores[g * CHUNK + warp_lane] = weight;
            if (warp_lane == 0) {
                u64 at = (((u64)b * heads + first_head + g) * max_chunks + chunk) * (head_dim + 2) + head_dim;
                partials[at] = best;
                partials[at + 1] = sum;
            }
        }
        __syncthreads();
        float result[GROUP][8] = {};
        for (int base = key_group; base < CHUNK; base += BATCH * key_groups) {
            if (base != key_group)
                load(some_values, values, new_value, chunk, base);
#pragma unroll
            for (int i = 0; i < BATCH; i++) {
                int j = base + i * key_groups;
                if (j >= CHUNK)
                    continue;
                float vf[8];
                some_values[i].unpack(vf);
#pragma unroll
                for (int g = 0; g < GROUP; g++) {
                    float weight = g < heads_here ? scores[g * CHUNK + j] : 0.0f;
#pragma unroll
                    for (int d = 0; d < 8; d++)
                        result[g][d] += weight * vf[d];
                }
            }
        }
#pragma unroll
        for (int g = 0; g < GROUP; g++)
#pragma unroll
            for (int i = 0; i < 8; i++) {
                float x = result[g][i];
#pragma unroll
                for (int m = 16; m > 0; m >>= 1)
                    if (m >= lanes)
                        x += __shfl_xor_sync(0xffffffffu, x, m);
                if (warp_lane < lanes)
                    sums[(warp * GROUP + g) * padded + dim + i] = x;
            }
        __syncthreads();
        for (int i = threadIdx.x; i < heads_here * padded; i += THREADS) {
            int g = i >> log_padded, d = i & (padded - 1);
            if (d >= head_dim)
                continue;
            float x = 0;
#pragma unroll
            for (int w = 0; w < THREADS / 32; w++)
                x += sums[(w * GROUP + g) * padded + d];
            partials[(((u64)b * heads + first_head + g) * max_chunks + chunk) * (head_dim + 2) + d] = x;
        }
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        u32 *counter = counters + (u64)b * gridDim.x + blockIdx.x;
        is_last = atomicAdd(counter, 1) == (u32)active - 1;
        if (is_last)
            *counter = 0;
    }
    __syncthreads();
    if (!is_last)
        return;
    __threadfence();
    // Each thread adds up its dimensions over the chunks, in order, some at a time that are requested together.
    const int count = chunks - first_chunk, pitch = head_dim + 2;
    const float *all = partials + ((u64)b * heads + first_head) * max_chunks * pitch + (u64)first_chunk * pitch;
    for (int i = threadIdx.x; i < heads_here * padded; i += THREADS) {
        int g = i >> log_padded, d = i & (padded - 1);
        if (d >= head_dim)
            continue;
        const float *at = all + (u64)g * max_chunks * pitch;
        float best = minus_infinity, sum = 0, x = 0;
        for (int first = 0; first < count; first += MERGED) {
            float maxima[MERGED], sums_of[MERGED], values_of[MERGED], highest = best;
#pragma unroll
            for (int c = 0; c < MERGED; c++) {
                const float *chunk_at = at + (u64)min(first + c, count - 1) * pitch;
                maxima[c] = first + c < count ? __ldcg(chunk_at + head_dim) : minus_infinity;
                sums_of[c] = __ldcg(chunk_at + head_dim + 1);
                values_of[c] = __ldcg(chunk_at + d);
            }
#pragma unroll
            for (int c = 0; c < MERGED; c++)
                highest = fmaxf(highest, maxima[c]);
            if (highest == minus_infinity)
                continue;
            const float correction = expf(best - highest);
            sum *= correction;
            x *= correction;
            best = highest;
#pragma unroll
            for (int c = 0; c < MERGED; c++) {
                const float weight = expf(maxima[c] - best);
                sum += weight * sums_of[c];
                x += weight * values_of[c];
            }
        }
        y[(u64)b * heads * head_dim + (first_head + g) * head_dim + d] =
            from_f32<T>(sum > 0 ? x / sum : 0.0f);
    }
}

#define DECODE(NAME, T, GROUP)                                                                                         \
    extern "C" __global__ void BOUNDS                                                                                  \
        NAME(const T *q, int q_stride, const T *k_new, int k_stride, const T *v_new, int v_stride,                     \
             T *keys, T *values, int heads, int kv_heads, int head_dim, int lanes, int capacity, const u32 *kv_start,  \
             float scale, int window, const float *slopes, const float *cosines, const float *sines, int table_rows,   \
             int rotary, const u32 *positions, int writes_cache, float *partials, int max_chunks, u32 *counters,       \
             T *y) {                                                                                                   \
        decode<T, GROUP>(q, q_stride, k_new, k_stride, v_new, v_stride, keys, values, heads, kv_heads, head_dim,       \
                         lanes, capacity, kv_start, scale, window, slopes, cosines, sines, table_rows, rotary,         \
                         positions, writes_cache, partials, max_chunks, counters, y);                                  \
    }
#define DECODE_GROUPS(NAME, T)                                                                                         \
    DECODE(NAME##_1, T, 1)                                                                                             \
    DECODE(NAME##_2, T, 2)                                                                                             \
    DECODE(NAME##_4, T, 4)                                                                                             \
    DECODE(NAME##_8, T, 8)
#if defined(ELEMENT_f32)
DECODE_GROUPS(attention_decode_f32, float)
#elif defined(ELEMENT_f16)
DECODE_GROUPS(attention_decode_f16, f16)
#elif defined(ELEMENT_bf16)
DECODE_GROUPS(attention_decode_bf16, bf16)
#endif
