// Attention over many queries on tensor cores: 16-bit operands, f32 scores, softmax and sums (Dao et al. 2022).
//
// A block takes 64 queries of one head, a warp 16 of them; keys come in tiles of 64. Queries stay in registers, and so
// do the weights, which are the second product's left operand as they lie.

#if __CUDA_ARCH__ >= 800

#define QUERIES 64
#define TILE 64
#define THREADS 128

__device__ __forceinline__ u32 shared_address(const void *pointer) { return (u32)__cvta_generic_to_shared(pointer); }

__device__ __forceinline__ void load_matrices(u32 *r, const u16 *at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(at))
                 : "memory");
}
__device__ __forceinline__ void load_transposed(u32 *r, const u16 *at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(at))
                 : "memory");
}
__device__ __forceinline__ void multiply(float *c, const u32 *a, const u32 *b, f16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void multiply(float *c, const u32 *a, const u32 *b, bf16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Eight elements of a row as 16-bit words; `valid` of them exist.
template <typename T> __device__ __forceinline__ uint4 eight(const float *at, int valid) {
    u32 words[4];
    if (valid >= 8 && ((u64)at & 15) == 0) {
        float4 a = *(const float4 *)at, b = *(const float4 *)(at + 4);
        words[0] = pair_from_f32<T>(a.x, a.y), words[1] = pair_from_f32<T>(a.z, a.w);
        words[2] = pair_from_f32<T>(b.x, b.y), words[3] = pair_from_f32<T>(b.z, b.w);
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++)
            words[i] = pair_from_f32<T>(2 * i < valid ? at[2 * i] : 0.0f, 2 * i + 1 < valid ? at[2 * i + 1] : 0.0f);
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
}
template <typename T> __device__ __forceinline__ uint4 eight(const T *at, int valid) {
    if (valid >= 8 && ((u64)at & 15) == 0)
        return *(const uint4 *)at;
    u32 words[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        words[i] = (2 * i < valid ? at[2 * i].bits : 0) | (u32)(2 * i + 1 < valid ? at[2 * i + 1].bits : 0) << 16;
    return make_uint4(words[0], words[1], words[2], words[3]);
}

// Rows `first ..` of a head into shared memory, zeros where there are none.
template <typename T, typename S, int DIM, int ROWS>
__device__ __forceinline__ void load_rows(u16 *to, const S *from, u64 stride, int first, int end, int head_dim) {
    const int PITCH = DIM + 8;
#pragma unroll 4
    for (int i = threadIdx.x; i < ROWS * (DIM / 8); i += THREADS) {
        int row = i / (DIM / 8), d = i % (DIM / 8) * 8;
        int valid = first + row < end ? head_dim - d : 0;
        uint4 words = valid > 0 ? eight<T>(from + (u64)(first + row) * stride + d, valid) : make_uint4(0, 0, 0, 0);
        *(uint4 *)(to + row * PITCH + d) = words;
    }
}

template <typename T, typename S, int DIM>
__device__ void attention(const float *q, int q_stride, const S *k, const S *v, u64 k_stride, u64 v_stride, int tokens,
                          int heads, int head_dim, int start, int keys, float scale, int causal, int window,
                          float slope, const u8 *mask, int mask_stride, float *y) {
    extern __shared__ __align__(128) u16 shared[];
    const int PITCH = DIM + 8;
    u16 *ks = shared, *vs = shared + TILE * PITCH;
    const int b = blockIdx.z, h = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    // Long rows of blocks first: with causality the last queries see the most keys.
    const int first = (causal ? gridDim.x - 1 - blockIdx.x : blockIdx.x) * QUERIES;
    load_rows<T, float, DIM, QUERIES>(ks, q + (u64)b * tokens * q_stride + h * head_dim, q_stride, first, tokens,
                                      head_dim);
    __syncthreads();
    u32 queries[DIM / 16][4];
#pragma unroll
    for (int i = 0; i < DIM / 16; i++)
        load_matrices(queries[i], ks + (warp * 16 + lane % 16) * PITCH + i * 16 + lane / 16 * 8);
    const float log2_e = 1.4426950408889634f, minus_infinity = __int_as_float(0xff800000);
    scale *= log2_e;
    slope *= log2_e;
    float result[DIM / 8][4] = {};
    float best[2] = {minus_infinity, minus_infinity}, sum[2] = {0, 0};
    const int last_position = start + min(first + QUERIES, tokens) - 1, first_position = start + first;
    int begin = 0, end = causal ? min(keys, last_position + 1) : keys;
    if (window > 0) {
        begin = max(0, first_position - window + 1);
        end = min(end, last_position + window);
    }
    for (int base = begin / TILE * TILE; base < end; base += TILE) {
        __syncthreads();
        load_rows<T, S, DIM, TILE>(ks, k, k_stride, base, keys, head_dim);
        load_rows<T, S, DIM, TILE>(vs, v, v_stride, base, keys, head_dim);
        __syncthreads();
        float score[TILE / 8][4] = {};
#pragma unroll
        for (int i = 0; i < DIM / 16; i++)
#pragma unroll
            for (int j = 0; j < TILE / 16; j++) {
                u32 operand[4];
                load_matrices(operand, ks + (j * 16 + lane % 8 + lane / 16 * 8) * PITCH + i * 16 + lane / 8 % 2 * 8);
                multiply(score[2 * j], queries[i], operand, T());
                multiply(score[2 * j + 1], queries[i], operand + 2, T());
            }
        // Only tiles on the edge of what is visible are looked at key by key.
        const bool is_inside = base + TILE <= keys && (!causal || base + TILE - 1 <= first_position) && window <= 0 &&
                               mask == nullptr;
        float tile_best[2] = {minus_infinity, minus_infinity};
#pragma unroll
        for (int j = 0; j < TILE / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int key = base + j * 8 + lane % 4 * 2 + e % 2;
                float value = score[j][e] * scale + slope * key;
                if (!is_inside) {
                    int position = first_position + warp * 16 + lane / 4 + e / 2 * 8;
                    bool visible = key < keys && (!causal || key <= position) &&
                                   (window <= 0 || (key > position - window && key < position + window)) &&
                                   (!mask || (key < mask_stride && mask[(u64)b * mask_stride + key]));
                    value = visible ? value : minus_infinity;
                }
                score[j][e] = value;
                tile_best[e / 2] = fmaxf(tile_best[e / 2], value);
            }
        float tile_sum[2] = {0, 0};
#pragma unroll
        for (int r = 0; r < 2; r++) {
            tile_best[r] = fmaxf(tile_best[r], __shfl_xor_sync(0xffffffffu, tile_best[r], 1));
            tile_best[r] = fmaxf(tile_best[r], __shfl_xor_sync(0xffffffffu, tile_best[r], 2));
            float new_best = fmaxf(best[r], tile_best[r]);
            // Nothing visible yet: no infinity is subtracted from itself.
            float shift = new_best == minus_infinity ? 0.0f : new_best;
            float correction = exp2f(best[r] - shift);
            best[r] = new_best;
#pragma unroll
            for (int j = 0; j < TILE / 8; j++)
#pragma unroll
                for (int e = 2 * r; e < 2 * r + 2; e++) {
                    score[j][e] = exp2f(score[j][e] - shift);
                    tile_sum[r] += score[j][e];
                }
            sum[r] = sum[r] * correction + tile_sum[r];
#pragma unroll
            for (int j = 0; j < DIM / 8; j++) {
                result[j][2 * r] *= correction;
                result[j][2 * r + 1] *= correction;
            }
        }
#pragma unroll
        for (int i = 0; i < TILE / 16; i++) {
            u32 weights[4] = {pair_from_f32<T>(score[2 * i][0], score[2 * i][1]),
                              pair_from_f32<T>(score[2 * i][2], score[2 * i][3]),
                              pair_from_f32<T>(score[2 * i + 1][0], score[2 * i + 1][1]),
                              pair_from_f32<T>(score[2 * i + 1][2], score[2 * i + 1][3])};
#pragma unroll
            for (int j = 0; j < DIM / 16; j++) {
                u32 operand[4];
                load_transposed(operand, vs + (i * 16 + lane % 16) * PITCH + j * 16 + lane / 16 * 8);
                multiply(result[2 * j], weights, operand, T());
                multiply(result[2 * j + 1], weights, operand + 2, T());
            }
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
        sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
        int query = first + warp * 16 + lane / 4 + r * 8;
        if (query >= tokens)
            continue;
        float inverse = sum[r] > 0 ? 1.0f / sum[r] : 0.0f;
        float *row = y + ((u64)b * tokens + query) * heads * head_dim + h * head_dim;
#pragma unroll
        for (int j = 0; j < DIM / 8; j++) {
            int d = j * 8 + lane % 4 * 2;
            if (d < head_dim)
                row[d] = result[j][2 * r] * inverse;
            if (d + 1 < head_dim)
                row[d + 1] = result[j][2 * r + 1] * inverse;
        }
    }
}

#define ATTENTION(NAME, T, S, DIM)                                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        NAME(const float *q, int q_stride, const S *k, const S *v, int k_batch_stride, int k_head_stride,              \
             int k_token_stride, int v_batch_stride, int v_head_stride, int v_token_stride, int tokens, int heads,     \
             int kv_heads, int head_dim, const u32 *kv_start, int capacity, float scale, int causal, int window,       \
             const float *slopes, const u8 *mask, int mask_stride, float *y) {                                         \
        let_next_start();                                                                                              \
        wait_for_previous();                                                                                           \
        u64 b = blockIdx.z, kv_head = blockIdx.y / (heads / kv_heads);                                                 \
        int start = kv_start[b];                                                                                       \
        attention<T, S, DIM>(q, q_stride, k + b * (u32)k_batch_stride + kv_head * (u32)k_head_stride,                  \
                             v + b * (u32)v_batch_stride + kv_head * (u32)v_head_stride, k_token_stride,               \
                             v_token_stride, tokens, heads, head_dim, start, min(start + tokens, capacity), scale,     \
                             causal, window, slopes ? slopes[blockIdx.y] : 0.0f, mask, mask_stride, y);                \
    }
#if defined(ELEMENT_f16)
ATTENTION(attention_mma_f16_f32_64, f16, float, 64)
ATTENTION(attention_mma_f16_f32_128, f16, float, 128)
ATTENTION(attention_mma_f16_f16_64, f16, f16, 64)
ATTENTION(attention_mma_f16_f16_128, f16, f16, 128)
#elif defined(ELEMENT_bf16)
ATTENTION(attention_mma_bf16_f32_64, bf16, float, 64)
ATTENTION(attention_mma_bf16_f32_128, bf16, float, 128)
ATTENTION(attention_mma_bf16_bf16_64, bf16, bf16, 64)
ATTENTION(attention_mma_bf16_bf16_128, bf16, bf16, 128)
#endif

#endif
