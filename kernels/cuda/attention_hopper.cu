// Attention over many queries for Hopper: wgmma multiplies 16-bit operands, softmax and sums are f32 (Dao et al. 2022).
//
// A block takes 128 queries of one head, a warpgroup 64 of them; keys come in tiles of 64. Queries, keys and values lie in
// shared memory as wgmma reads them: 64 dimensions beside each other in rows of 128 bytes, swizzled, and the next 64 behind
// all rows. The weights stay in registers: they are the second product's left operand as they lie. The next tile's keys and
// values are on their way meanwhile, and one product's end is waited for behind the next one's beginning.

#define QUERIES 128
#define TILE 64
#define THREADS 256
#define ROW_BYTES 128
#define PANEL_DIMS 64
// From eight rows to the next ones.
#define ROWS_BYTES (8 * ROW_BYTES)

// d += a b: 64 rows of `a` in registers, b [16, columns] with columns beside each other where `b` describes.
#define MULTIPLY_WEIGHTS(T, TYPE, N, COUNT, A, B)                                                                      \
    __device__ __forceinline__ void multiply_weights(float(&d)[COUNT], const u32 *a, u64 b, T) {                       \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" N "k16.f32." TYPE "." TYPE " {" REGISTERS_##COUNT "}, {" A "}, " B  \
                     ", 1, 1, 1, 1;"                                                                                   \
                     : OPERANDS_##COUNT("+f", d)                                                                       \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                            \
    }
#if defined(ELEMENT_f16)
#define WEIGHTS(N, COUNT, A, B) MULTIPLY_WEIGHTS(f16, "f16", N, COUNT, A, B)
#else
#define WEIGHTS(N, COUNT, A, B) MULTIPLY_WEIGHTS(bf16, "bf16", N, COUNT, A, B)
#endif
WEIGHTS("64", 32, "%32, %33, %34, %35", "%36")
WEIGHTS("128", 64, "%64, %65, %66, %67", "%68")

// Where values lie, as the second product reads them: `panel` bytes from 64 columns to the next ones.
__device__ __forceinline__ u64 describe_columns(u32 tile, int panel) {
    return (u64)((tile & 0x3ffff) >> 4) | (u64)(panel >> 4) << 16 | (u64)(ROWS_BYTES >> 4) << 32 | (u64)1 << 62;
}

// Rows `first ..` of a head into shared memory, zeros where there are none.
template <typename T, int DIM, int ROWS>
__device__ __forceinline__ void load_rows(u32 to, const T *from, u64 stride, int first, int end, int head_dim) {
    const int CHUNKS = DIM / 8;
#pragma unroll
    for (int j = 0; j < ROWS * CHUNKS / THREADS; j++) {
        const int i = threadIdx.x + j * THREADS, row = i / CHUNKS, d = i % CHUNKS * 8;
        const bool exists = first + row < end && d < head_dim;
        const u32 at = to + d / PANEL_DIMS * (ROWS * ROW_BYTES) + row * ROW_BYTES + (d % PANEL_DIMS / 8 ^ row % 8) * 16;
        copy16(at, exists ? from + (u64)(first + row) * stride + d : from, exists);
    }
}

template <typename T, int DIM>
__device__ void attention(const T *q, int q_stride, const T *k, const T *v, u64 k_stride, u64 v_stride, int tokens,
                          int heads, int head_dim, int start, const Sight &sight, T *y) {
    extern __shared__ __align__(1024) u8 shared[];
    const int PANELS = DIM / PANEL_DIMS, PANEL = TILE * ROW_BYTES, TILE_BYTES = PANELS * PANEL;
    const int QUERY_PANEL = QUERIES * ROW_BYTES;
    const u32 qs = shared_address(shared), ks = qs + PANELS * QUERY_PANEL, vs = ks + 2 * TILE_BYTES;
    const int b = blockIdx.z, h = blockIdx.y, group = threadIdx.x / 128, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    // Long rows of blocks first: with causality the last queries see the most keys.
    const int first = (sight.causal ? gridDim.x - 1 - blockIdx.x : blockIdx.x) * QUERIES;
    const int first_position = start + first;
    const int2 visible = visible_keys(sight, first_position, start + min(first + QUERIES, tokens) - 1, TILE);
    const int begin = visible.x, end = visible.y;
    load_rows<T, DIM, QUERIES>(qs, q + (u64)b * tokens * q_stride + h * head_dim, q_stride, first, tokens, head_dim);
    load_rows<T, DIM, TILE>(ks, k, k_stride, begin, sight.keys, head_dim);
    commit();
    load_rows<T, DIM, TILE>(vs, v, v_stride, begin, sight.keys, head_dim);
    commit();
    float result[DIM / 2] = {};
    Softmax softmax;
    softmax.start();
    int buffer = 0;
    for (int base = begin; base < end; base += TILE, buffer ^= 1) {
        // This tile's keys are here, and nobody reads the last one's any more.
        wait_copies<1>();
        show_to_engines();
        __syncthreads();
        if (base + TILE < end)
            load_rows<T, DIM, TILE>(ks + (buffer ^ 1) * TILE_BYTES, k, k_stride, base + TILE, sight.keys, head_dim);
        commit();
        float score[TILE / 2];
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int i = 0; i < DIM / 16; i++) {
            const int panel = i * 16 / PANEL_DIMS, offset = i * 16 % PANEL_DIMS * 2;
            multiply(score, describe(qs + panel * QUERY_PANEL + group * (64 * ROW_BYTES) + offset),
                     describe(ks + buffer * TILE_BYTES + panel * PANEL + offset), i, T());
        }
        asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
        softmax.update(score, result, sight, base, first_position + warp * 16);
        u32 weights[TILE / 16][4];
#pragma unroll
        for (int i = 0; i < TILE / 4; i++)
            weights[i / 4][i % 4] = pair_from_f32<T>(score[2 * i], score[2 * i + 1]);
        // The same for values.
        wait_copies<1>();
        show_to_engines();
        __syncthreads();
        if (base + TILE < end)
            load_rows<T, DIM, TILE>(vs + (buffer ^ 1) * TILE_BYTES, v, v_stride, base + TILE, sight.keys, head_dim);
        commit();
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int i = 0; i < TILE / 16; i++)
            multiply_weights(result, weights[i],
                             describe_columns(vs + buffer * TILE_BYTES + i * (16 * ROW_BYTES), PANEL), T());
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    wait_copies<0>();
    // Results leave through where the queries lay, as whole rows.
    __syncthreads();
    const float inverse[2] = {softmax.inverse(0), softmax.inverse(1)};
    const u32 own = qs + warp * (16 * ROW_BYTES);
#pragma unroll
    for (int j = 0; j < DIM / 8; j += 2) {
        const int chunk = j + lane / 16, row = lane % 16;
        u32 pairs[4];
#pragma unroll
        for (int e = 0; e < 4; e++)
            pairs[e] = pair_from_f32<T>(result[4 * j + 2 * e] * inverse[e % 2], result[4 * j + 2 * e + 1] * inverse[e % 2]);
        asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                         own + chunk / 8 * QUERY_PANEL + row * ROW_BYTES + (chunk % 8 ^ row % 8) * 16),
                     "r"(pairs[0]), "r"(pairs[1]), "r"(pairs[2]), "r"(pairs[3])
                     : "memory");
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 16 * DIM / 8 / 32; i++) {
        const int at = i * 32 + lane, row = at / (DIM / 8), d = at % (DIM / 8) * 8, query = first + warp * 16 + row;
        const u8 *from = shared + warp * (16 * ROW_BYTES) + d / PANEL_DIMS * QUERY_PANEL + row * ROW_BYTES +
                         (d % PANEL_DIMS / 8 ^ row % 8) * 16;
        if (query < tokens && d < head_dim)
            *(uint4 *)(y + (((u64)b * tokens + query) * heads + h) * head_dim + d) = *(const uint4 *)from;
    }
}

// Strides in elements: every one of them, and head_dim, is a multiple of 8.
#define ATTENTION(NAME, T, DIM)                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS, DIM == 64 ? 2 : 1)                                           \
        NAME(const T *q, int q_stride, const T *k, const T *v, int k_batch_stride, int k_head_stride,                  \
             int k_token_stride, int v_batch_stride, int v_head_stride, int v_token_stride, int tokens, int heads,     \
             int kv_heads, int head_dim, const u32 *kv_start, int capacity, float scale, int causal, int window,       \
             const float *slopes, const u8 *mask, int mask_stride, T *y) {                                             \
        let_next_start();                                                                                              \
        wait_for_previous();                                                                                           \
        u64 b = blockIdx.z, kv_head = blockIdx.y / (heads / kv_heads);                                                 \
        int start = kv_start[b];                                                                                       \
        Sight sight = {min(start + tokens, capacity), causal, window, scale * LOG2_E,                                  \
                       slopes ? slopes[blockIdx.y] * LOG2_E : 0.0f,                                                    \
                       mask ? mask + b * mask_stride : nullptr, mask_stride};                                          \
        attention<T, DIM>(q, q_stride, k + b * (u32)k_batch_stride + kv_head * (u32)k_head_stride,                     \
                          v + b * (u32)v_batch_stride + kv_head * (u32)v_head_stride, k_token_stride, v_token_stride,  \
                          tokens, heads, head_dim, start, sight, y);                                                   \
    }
#if defined(ELEMENT_f16)
ATTENTION(attention_hopper_f16_64, f16, 64)
ATTENTION(attention_hopper_f16_128, f16, 128)
#elif defined(ELEMENT_bf16)
ATTENTION(attention_hopper_bf16_64, bf16, 64)
ATTENTION(attention_hopper_bf16_128, bf16, 128)
#endif
