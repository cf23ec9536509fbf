// Attention of one new token per sequence over its cache, with rotary embedding and the cache write on the way.
//
// The cache is cut into chunks of 32 keys. Blocks take chunks in turns and leave each chunk's maximum, sum and weighted
// values behind; the last block of a head group to finish merges them, chunk by chunk in order, so the result depends
// neither on the number of blocks nor on which of them was last. Query heads that share keys are computed together.

#define THREADS 256
#define CHUNK 32
// Keys and values that a thread has in flight.
#define MOST_KEYS 2
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

// An element of a row, rotated: `cosine` and `sine` belong to its dimension, and are 1 and 0 beyond the rotated ones.
template <typename T>
__device__ __forceinline__ float rotated(const T *row, int d, int rotary, float cosine, float sine) {
    const int half = rotary / 2;
    const float x = to_f32(row[d]), other = d < rotary ? to_f32(row[d < half ? d + half : d - half]) : 0.0f;
    return x * cosine + (d < half ? -other : other) * sine;
}

// What merging the chunks of a head leaves in shared memory: chunks that are weighted at once, and sums of four dimensions.
#define SEGMENT 128

// LANES threads share a key, eight dimensions each.
template <typename T, int GROUP, int LANES>
__device__ void decode(const T *q, int q_stride, const T *k_new, int k_stride, const T *v_new, int v_stride,
                       T *keys, T *values, int heads, int kv_heads, int head_dim, int capacity, const u32 *kv_start,
                       float scale, int window, const float *slopes, const float *cosines, const float *sines,
                       int table_rows, int rotary, const u32 *positions, int writes_cache, float *partials,
                       int max_chunks, u32 *counters, T *y) {
    extern __shared__ __align__(16) float shared[];
    const int PADDED = LANES * 8, WARPS = THREADS / 32, KEY_GROUPS = THREADS / LANES, KEYS = CHUNK / KEY_GROUPS;
    const int BATCH = KEYS < MOST_KEYS ? KEYS : MOST_KEYS;
    // A chunk's results: sums of all dimensions, the maximum, the sum of the weights.
    const int PITCH = PADDED + 4;
    float *qs = shared;                   // [GROUP][PADDED]
    float *scores = qs + GROUP * PADDED;  // [GROUP][CHUNK]
    float *sums = scores + GROUP * CHUNK; // [WARPS][GROUP][PADDED]
    T *new_key = (T *)(sums + WARPS * GROUP * PADDED), *new_value = new_key + PADDED;
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
    const int warp = threadIdx.x / 32, warp_lane = threadIdx.x % 32;
    const int lane = threadIdx.x % LANES, key_group = threadIdx.x / LANES;
    const int dim = lane * 8, valid = head_dim - dim;
    const bool is_whole = head_dim % 8 == 0 && valid >= 8;

    const u64 head_at = ((u64)b * kv_heads + kv_head) * capacity * head_dim;
    // The keys or values of a chunk that the thread takes, `base` being the first.
    Eight<T> some_keys[BATCH], some_values[BATCH];
    auto load = [&](Eight<T>(&to)[BATCH], const T *from, const T *newest, int chunk, int base) {
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            int key = chunk * CHUNK + base + i * KEY_GROUPS;
            bool visible = key >= first_key && key < length;
            bool is_new = writes_cache && key == position;
            u64 at = head_at + (u64)min(key, length - 1) * head_dim + dim;
            to[i].load(is_new ? newest + dim : from + at, is_whole, visible ? valid : 0);
        }
    };
    // All but the newest token: that is not there yet.
    int chunk = first_chunk + blockIdx.y;
    const bool is_early = (chunk + 1) * CHUNK <= position;
    if (is_early) {
        load(some_keys, keys, new_key, chunk, key_group);
        load(some_values, values, new_value, chunk, key_group);
    }
    // A thread takes one dimension of several rows: the queries, the new key and the new value.
    const int d = threadIdx.x % PADDED, ROWS_AT_ONCE = THREADS / PADDED;
    float cosine = 1, sine = 0;
    if (d < rotary) {
        const u64 at = table_row + (d < rotary / 2 ? d : d - rotary / 2);
        cosine = cosines[at];
        sine = sines[at];
    }
    wait_for_previous();
    const T *q_row = q + (u64)b * q_stride + first_head * head_dim;
    const T *k_row = k_new + (u64)b * k_stride + kv_head * head_dim;
    const T *v_row = v_new + (u64)b * v_stride + kv_head * head_dim;
    float taken[(GROUP + 2 + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE];
#pragma unroll
    for (int i = 0; i < (GROUP + 2 + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE; i++) {
        const int r = threadIdx.x / PADDED + i * ROWS_AT_ONCE;
        const bool is_query = r < GROUP, exists = d < head_dim && (is_query ? r < heads_here : writes_cache && r < GROUP + 2);
        taken[i] = 0;
        if (exists && r == GROUP + 1)
            taken[i] = to_f32(v_row[d]);
        else if (exists)
            taken[i] = rotated(is_query ? q_row + r * head_dim : k_row, d, rotary, cosine, sine);
    }
#pragma unroll
    for (int i = 0; i < (GROUP + 2 + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE; i++) {
        const int r = threadIdx.x / PADDED + i * ROWS_AT_ONCE;
        if (r < GROUP) {
            qs[r * PADDED + d] = taken[i];
        } else if (writes_cache && r < GROUP + 2) {
            // Whoever has the last chunk would read what another block writes: the new key is taken from here instead.
            const T rounded = from_f32<T>(taken[i]);
            (r == GROUP ? new_key : new_value)[d] = rounded;
            if (blockIdx.y == 0 && part == 0 && d < head_dim)
                (r == GROUP ? keys : values)[head_at + (u64)position * head_dim + d] = rounded;
        }
    }
    const float minus_infinity = __int_as_float(0xff800000);
    float *own_partials = partials + ((u64)b * heads + first_head) * max_chunks * PITCH;
    for (bool is_loaded = is_early; chunk < chunks; chunk += active, is_loaded = false) {
        __syncthreads();
#pragma unroll
        for (int base = key_group; base < CHUNK; base += BATCH * KEY_GROUPS) {
            // The first values are requested with the first keys: most heads need no others.
            if (base != key_group || !is_loaded) {
                load(some_keys, keys, new_key, chunk, base);
                if (base == key_group)
                    load(some_values, values, new_value, chunk, base);
            }
#pragma unroll
            for (int i = 0; i < BATCH; i++) {
                int j = base + i * KEY_GROUPS, key = chunk * CHUNK + j;
                bool visible = key >= first_key && key < length;
                float kf[8], p[GROUP];
                some_keys[i].unpack(kf);
#pragma unroll
                for (int g = 0; g < GROUP; g++) {
                    const float *qv = qs + g * PADDED + dim;
                    float4 a = *(const float4 *)qv, c = *(const float4 *)(qv + 4);
                    p[g] = (kf[0] * a.x + kf[1] * a.y + kf[2] * a.z + kf[3] * a.w) +
                           (kf[4] * c.x + kf[5] * c.y + kf[6] * c.z + kf[7] * c.w);
                }
#pragma unroll
                for (int m = LANES / 2; m > 0; m >>= 1)
#pragma unroll
                    for (int g = 0; g < GROUP; g++)
                        p[g] += __shfl_xor_sync(0xffffffffu, p[g], m);
                // Every head's score by a thread of its own.
#pragma unroll
                for (int g = 0; g < GROUP; g++)
                    if (lane == g)
                        scores[g * CHUNK + j] =
                            visible ? p[g] * scale + (slopes && g < heads_here ? slopes[first_head + g] * key : 0.0f)
                                    : minus_infinity;
            }
        }
        __syncthreads();
        for (int g = warp; g < heads_here; g += WARPS) {
            float score = scores[g * CHUNK + warp_lane];
            float best = warp_max(score);
            float weight = score == minus_infinity ? 0.0f : expf(score - best);
            float sum = warp_sum(weight);
            scores[g * CHUNK + warp_lane] = weight;
            if (warp_lane == 0)
                *(float2 *)(own_partials + ((u64)g * max_chunks + chunk) * PITCH + PADDED) = make_float2(best, sum);
        }
        __syncthreads();
        float result[GROUP][8] = {};
#pragma unroll
        for (int base = key_group; base < CHUNK; base += BATCH * KEY_GROUPS) {
            if (base != key_group)
                load(some_values, values, new_value, chunk, base);
#pragma unroll
            for (int i = 0; i < BATCH; i++) {
                float vf[8];
                some_values[i].unpack(vf);
#pragma unroll
                for (int g = 0; g < GROUP; g++) {
                    float weight = g < heads_here ? scores[g * CHUNK + base + i * KEY_GROUPS] : 0.0f;
#pragma unroll
                    for (int e = 0; e < 8; e++)
                        result[g][e] += weight * vf[e];
                }
            }
        }
#pragma unroll
        for (int g = 0; g < GROUP; g++) {
#pragma unroll
            for (int m = LANES; m < 32; m <<= 1)
#pragma unroll
                for (int e = 0; e < 8; e++)
                    result[g][e] += __shfl_xor_sync(0xffffffffu, result[g][e], m);
            if (warp_lane < LANES) {
                float4 *to = (float4 *)(sums + (warp * GROUP + g) * PADDED + dim);
                to[0] = make_float4(result[g][0], result[g][1], result[g][2], result[g][3]);
                to[1] = make_float4(result[g][4], result[g][5], result[g][6], result[g][7]);
            }
        }
        __syncthreads();
#pragma unroll
        for (int i = threadIdx.x; i < GROUP * PADDED; i += THREADS) {
            if (i / PADDED >= heads_here)
                continue;
            float x = 0;
#pragma unroll
            for (int w = 0; w < WARPS; w++)
                x += sums[w * GROUP * PADDED + i];
            own_partials[((u64)(i / PADDED) * max_chunks + chunk) * PITCH + i % PADDED] = x;
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
    // A warp adds up what the weights of a head's chunks are counted in; then everybody adds up four dimensions over some
    // of the chunks.
    const int count = chunks - first_chunk;
    const int QUADS = GROUP * PADDED / 4, PARTS = THREADS / QUADS > 1 ? THREADS / QUADS : 1;
    float *weights = shared;                                   // [GROUP][SEGMENT]
    float4 *quads = (float4 *)(shared + GROUP * SEGMENT);       // [PARTS][QUADS]
    const float *all = own_partials + (u64)first_chunk * PITCH;
    float best = minus_infinity, total = 0, own_highest = minus_infinity;
    if (warp < heads_here) {
        const float *at = all + (u64)warp * max_chunks * PITCH + PADDED;
#pragma unroll 4
        for (int c = warp_lane; c < count; c += 32) {
            const float2 of_chunk = __ldcg((const float2 *)(at + (u64)c * PITCH));
            own_highest = of_chunk.x;
            const float highest = fmaxf(best, of_chunk.x);
            if (highest != minus_infinity)
                total = total * expf(best - highest) + of_chunk.y * expf(of_chunk.x - highest);
            best = highest;
        }
        const float highest = warp_max(best);
        total = warp_sum(best == minus_infinity ? 0.0f : total * expf(best - highest));
        best = highest;
    }
    float4 x[(QUADS + THREADS - 1) / THREADS] = {};
    for (int first = 0; first < count; first += SEGMENT) {
        __syncthreads();
        if (warp < heads_here)
            for (int c = first + warp_lane; c < min(count, first + SEGMENT); c += 32) {
                // Of few chunks a thread has seen only its own.
                const float highest =
                    count <= 32 ? own_highest : __ldcg(all + ((u64)warp * max_chunks + c) * PITCH + PADDED);
                weights[warp * SEGMENT + c - first] = highest == minus_infinity ? 0.0f : expf(highest - best) / total;
            }
        __syncthreads();
#pragma unroll
        for (int item = 0; item < (QUADS + THREADS - 1) / THREADS; item++) {
            const int quad = (item * THREADS + threadIdx.x) % QUADS, g = quad / (PADDED / 4);
            const float *at = all + (u64)g * max_chunks * PITCH + quad % (PADDED / 4) * 4;
            const int end = g < heads_here ? min(count, first + SEGMENT) : 0;
#pragma unroll 8
            for (int c = first + threadIdx.x / QUADS % PARTS; c < end; c += PARTS) {
                const float4 of_chunk = __ldcg((const float4 *)(at + (u64)c * PITCH));
                const float weight = weights[g * SEGMENT + c - first];
                x[item].x += weight * of_chunk.x, x[item].y += weight * of_chunk.y;
                x[item].z += weight * of_chunk.z, x[item].w += weight * of_chunk.w;
            }
        }
    }
    if (PARTS > 1) {
        quads[threadIdx.x] = x[0];
        __syncthreads();
        if (threadIdx.x >= QUADS)
            return;
#pragma unroll 4
        for (int other = 1; other < PARTS; other++) {
            const float4 more = quads[other * QUADS + threadIdx.x];
            x[0].x += more.x, x[0].y += more.y, x[0].z += more.z, x[0].w += more.w;
        }
    }
#pragma unroll
    for (int item = 0; item < (QUADS + THREADS - 1) / THREADS; item++) {
        const int quad = item * THREADS + threadIdx.x, g = quad / (PADDED / 4), first = quad % (PADDED / 4) * 4;
        const float four[4] = {x[item].x, x[item].y, x[item].z, x[item].w};
#pragma unroll
        for (int e = 0; e < 4; e++)
            if (quad < QUADS && g < heads_here && first + e < head_dim)
                y[(u64)b * heads * head_dim + (first_head + g) * head_dim + first + e] = from_f32<T>(four[e]);
    }
}

#define DECODE(NAME, T, GROUP, LANES)                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                                                  \
        NAME(const T *q, int q_stride, const T *k_new, int k_stride, const T *v_new, int v_stride,                     \
             T *keys, T *values, int heads, int kv_heads, int head_dim, int capacity, const u32 *kv_start,             \
             float scale, int window, const float *slopes, const float *cosines, const float *sines, int table_rows,   \
             int rotary, const u32 *positions, int writes_cache, float *partials, int max_chunks, u32 *counters,       \
             T *y) {                                                                                                   \
        decode<T, GROUP, LANES>(q, q_stride, k_new, k_stride, v_new, v_stride, keys, values, heads, kv_heads,          \
                                head_dim, capacity, kv_start, scale, window, slopes, cosines, sines, table_rows,       \
                                rotary, positions, writes_cache, partials, max_chunks, counters, y);                   \
    }
// By the query heads that share keys, and the threads that share a key. More of both would not fit into registers.
#define DECODE_LANES(NAME, T, GROUP)                                                                                   \
    DECODE(NAME##_##GROUP##_8, T, GROUP, 8)                                                                            \
    DECODE(NAME##_##GROUP##_16, T, GROUP, 16)
#define DECODES(NAME, T)                                                                                               \
    DECODE_LANES(NAME, T, 1)                                                                                           \
    DECODE_LANES(NAME, T, 4)                                                                                           \
    DECODE(NAME##_1_32, T, 1, 32)                                                                                      \
    DECODE(NAME##_4_32, T, 4, 32)
#if defined(ELEMENT_f32)
DECODES(attention_decode_f32, float)
#elif defined(ELEMENT_f16)
DECODES(attention_decode_f16, f16)
DECODE_LANES(attention_decode_f16, f16, 8)
#elif defined(ELEMENT_bf16)
DECODES(attention_decode_bf16, bf16)
DECODE_LANES(attention_decode_bf16, bf16, 8)
#endif
