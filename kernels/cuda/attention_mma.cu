// Attention over many queries on tensor cores: 16-bit operands, f32 scores, softmax and sums (Dao et al. 2022).
//
// A block takes 128 queries of one head, a warp 16 of them; keys come in tiles of 64. The weights stay in registers: they
// are the second product's left operand as they lie. The next keys are on their way while this tile's values are
// multiplied, and the other way round.

#if __CUDA_ARCH__ >= 800

#define QUERIES 128
#define TILE 64
#define THREADS 256

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

// Rows `first ..` of a head into shared memory, zeros where there are none. `is_aligned`: rows consist of whole 16-byte
// pieces.
template <typename T, int DIM, int ROWS>
__device__ __forceinline__ void load_rows(u16 *to, const T *from, u64 stride, int first, int end, int head_dim,
                                          bool is_aligned) {
    const int PITCH = DIM + 8;
#pragma unroll
    for (int j = 0; j < ROWS * (DIM / 8) / THREADS; j++) {
        int i = threadIdx.x + j * THREADS, row = i / (DIM / 8), d = i % (DIM / 8) * 8;
        int valid = first + row < end ? head_dim - d : 0;
        const T *at = from + (u64)(first + row) * stride + d;
        if (is_aligned) {
            copy16(shared_address(to + row * PITCH + d), valid > 0 ? at : from, valid > 0);
        } else {
#pragma unroll
            for (int e = 0; e < 8; e++)
                to[row * PITCH + d + e] = e < valid ? at[e].bits : 0;
        }
    }
}

template <typename T, int DIM>
__device__ void attention(const T *q, int q_stride, const T *k, const T *v, u64 k_stride, u64 v_stride, int tokens,
                          int heads, int head_dim, int start, const Sight &sight, bool is_aligned, T *y) {
    extern __shared__ __align__(128) u16 shared[];
    const int PITCH = DIM + 8;
    u16 *qs = shared, *ks = qs + QUERIES * PITCH, *vs = ks + TILE * PITCH;
    const int b = blockIdx.z, h = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    // Long rows of blocks first: with causality the last queries see the most keys.
    const int first = (sight.causal ? gridDim.x - 1 - blockIdx.x : blockIdx.x) * QUERIES;
    const int first_position = start + first;
    const int2 visible = visible_keys(sight, first_position, start + min(first + QUERIES, tokens) - 1, TILE);
    const int begin = visible.x, end = visible.y, keys = sight.keys;
    load_rows<T, DIM, QUERIES>(qs, q + (u64)b * tokens * q_stride + h * head_dim, q_stride, first, tokens, head_dim,
                               is_aligned);
    load_rows<T, DIM, TILE>(ks, k, k_stride, begin, keys, head_dim, is_aligned);
    commit();
    load_rows<T, DIM, TILE>(vs, v, v_stride, begin, keys, head_dim, is_aligned);
    commit();
    float result[DIM / 2] = {};
    Softmax softmax;
    softmax.start();
    for (int base = begin; base < end; base += TILE) {
        wait_copies<1>();
        __syncthreads();
        float score[TILE / 2] = {};
#pragma unroll
        for (int i = 0; i < DIM / 16; i++) {
            u32 queries[4];
            load_matrices(queries, qs + (warp * 16 + lane % 16) * PITCH + i * 16 + lane / 16 * 8);
#pragma unroll
            for (int j = 0; j < TILE / 16; j++) {
                u32 operand[4];
                load_matrices(operand, ks + (j * 16 + lane % 8 + lane / 16 * 8) * PITCH + i * 16 + lane / 8 % 2 * 8);
                multiply(score + 8 * j, queries, operand, T());
                multiply(score + 8 * j + 4, queries, operand + 2, T());
            }
        }
        __syncthreads();
        if (base + TILE < end)
            load_rows<T, DIM, TILE>(ks, k, k_stride, base + TILE, keys, head_dim, is_aligned);
        commit();
        softmax.update(score, result, sight, base, first_position + warp * 16);
        wait_copies<1>();
        __syncthreads();
#pragma unroll
        for (int i = 0; i < TILE / 16; i++) {
            u32 weights[4];
#pragma unroll
            for (int e = 0; e < 4; e++)
                weights[e] = pair_from_f32<T>(score[8 * i + 2 * e], score[8 * i + 2 * e + 1]);
#pragma unroll
            for (int j = 0; j < DIM / 16; j++) {
                u32 operand[4];
                load_transposed(operand, vs + (i * 16 + lane % 16) * PITCH + j * 16 + lane / 16 * 8);
                multiply(result + 8 * j, weights, operand, T());
                multiply(result + 8 * j + 4, weights, operand + 2, T());
            }
        }
        __syncthreads();
        if (base + TILE < end)
            load_rows<T, DIM, TILE>(vs, v, v_stride, base + TILE, keys, head_dim, is_aligned);
        commit();
    }
    wait_copies<0>();
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float inverse = softmax.inverse(r);
        int query = first + warp * 16 + lane / 4 + r * 8;
        if (query >= tokens)
            continue;
        T *row = y + ((u64)b * tokens + query) * heads * head_dim + h * head_dim;
#pragma unroll
        for (int j = 0; j < DIM / 8; j++) {
            int d = j * 8 + lane % 4 * 2;
            u32 pair = pair_from_f32<T>(result[4 * j + 2 * r] * inverse, result[4 * j + 2 * r + 1] * inverse);
            if (is_aligned && d < head_dim) {
                *(u32 *)(row + d) = pair;
            } else {
                if (d < head_dim)
                    row[d].bits = (u16)pair;
                if (d + 1 < head_dim)
                    row[d + 1].bits = (u16)(pair >> 16);
            }
        }
    }
}

// Strides in elements. is_aligned: every one of them, and head_dim, is a multiple of 8.
#define ATTENTION(NAME, T, DIM)                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                           \
        NAME(const T *q, int q_stride, const T *k, const T *v, int k_batch_stride, int k_head_stride,                  \
             int k_token_stride, int v_batch_stride, int v_head_stride, int v_token_stride, int tokens, int heads,     \
             int kv_heads, int head_dim, const u32 *kv_start, int capacity, float scale, int causal, int window,       \
             const float *slopes, const u8 *mask, int mask_stride, T *y, int is_aligned) {                             \
        let_next_start();                                                                                              \
        wait_for_previous();                                                                                           \
        u64 b = blockIdx.z, kv_head = blockIdx.y / (heads / kv_heads);                                                 \
        int start = kv_start[b];                                                                                       \
        Sight sight = {min(start + tokens, capacity), causal, window, scale * LOG2_E,                                  \
                       slopes ? slopes[blockIdx.y] * LOG2_E : 0.0f,                                                    \
                       mask ? mask + b * mask_stride : nullptr, mask_stride};                                          \
        attention<T, DIM>(q, q_stride, k + b * (u32)k_batch_stride + kv_head * (u32)k_head_stride,                     \
                          v + b * (u32)v_batch_stride + kv_head * (u32)v_head_stride, k_token_stride, v_token_stride,  \
                          tokens, heads, head_dim, start, sight, is_aligned, y);                                       \
    }
#if defined(ELEMENT_f16)
ATTENTION(attention_mma_f16_64, f16, 64)
ATTENTION(attention_mma_f16_128, f16, 128)
#elif defined(ELEMENT_bf16)
ATTENTION(attention_mma_bf16_64, bf16, 64)
ATTENTION(attention_mma_bf16_128, bf16, 128)
#endif

#endif
