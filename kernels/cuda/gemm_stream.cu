// y [m, n] = f(x [m, k] w [n, k]^T + bias) + residual for few rows of x: bound by the way of the weights from memory.
//
// Weights go straight from memory into the registers that mma.sync takes them from, in 16-byte pieces and never through
// shared memory. A product does not care in which order its terms are added, so a thread's 16 neighbouring bytes stand
// for whatever positions along k the instruction has for it, as long as x is read in the same order. Whatever the
// format, its codes become 16-bit floats on the way; what is left of their scales multiplies the sums.
//
// The eight warps of a block share some rows of w and a stretch of k, and cut that stretch into steps of 64 bytes. x
// lies in shared memory, normalised on its way there if a norm is in front. Blocks that share rows leave their sums
// behind; the last one adds them up, in order, so results are the same from run to run.

#define WARPS 8
#define THREADS (WARPS * 32)

__device__ __forceinline__ u32 shared_address(const void *pointer) { return (u32)__cvta_generic_to_shared(pointer); }

__device__ __forceinline__ void copy16(void *to, const void *from, bool exists) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(exists ? 16 : 0));
#else
    *(uint4 *)to = exists ? *(const uint4 *)from : make_uint4(0, 0, 0, 0);
#endif
}

__device__ __forceinline__ void multiply(float *c, const u32 *a, u32 b0, u32 b1, f16) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}
#if __CUDA_ARCH__ >= 800
__device__ __forceinline__ void multiply(float *c, const u32 *a, u32 b0, u32 b1, bf16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif

// Weights as they lie in memory.
struct Weights {
    const u8 *data;
    // Multiplies each block; nullptr for formats without blocks.
    const u8 *block_scale;
    // Multiplies each row's sum.
    const float *row_scale;
    const float *bias;
    void *y;
    int n;
};

// y [1, k] or more rows of it, and the norm in front.
struct Input {
    const void *data;
    int type, stride, m, k;
    int norm_kind;
    const float *gain, *shift;
    float eps;
    // A single row is normalised and rounded here; of more rows, rounded before, `scale` has the scales.
    int is_row, rounding;
    float given_scale;
    const float *scale;
};

// The shape of the work; `pitch` counts bytes of a row of w, `blocks` scales of a row.
struct Shape {
    u64 pitch;
    int blocks, block_steps;
    int splits;
};

// The row and the matrix of a block's first row.
__device__ __forceinline__ int find(const int *n, int rows, int &tile) {
    int first = (n[0] + rows - 1) / rows, second = (n[1] + rows - 1) / rows;
    if (tile < first)
        return 0;
    tile -= first;
    if (tile < second)
        return 1;
    tile -= second;
    return 2;
}

// Where the 16-byte piece `piece` (8 elements) of a row of x lies: pieces that the four threads of a row read at once
// lie side by side.
template <int PIECES> __device__ __forceinline__ int place(int piece) {
    int step = piece / (4 * PIECES), in_step = piece % (4 * PIECES);
    return (step * 4 * PIECES + in_step % PIECES * 4 + in_step / PIECES) * 8;
}

// Pieces of x that a thread keeps between the passes of a norm.
#define KEPT 2

// One row of x, normalised and rounded; elements beyond k are zero. Returns what multiplies the sums.
template <typename C> __device__ float stage_row(const Input &x, int from, int to, u16 *xs, float *scratch) {
    typedef typename C::Operand T;
    const int PIECES = C::elements / 8;
    float mean = 0, inverse = 1, v[8];
    if (x.norm_kind) {
        float kept[KEPT][8];
#pragma unroll
        for (int j = 0; j < KEPT; j++) {
            const int i = (threadIdx.x + j * THREADS) * 8;
            load_eight(kept[j], x.data, x.type, i < x.k ? i : 0, max(x.k - i, 0), true);
        }
        auto squares = [&](float about) {
            float sum = 0;
#pragma unroll
            for (int j = 0; j < KEPT; j++)
#pragma unroll
                for (int e = 0; e < 8; e++) {
                    float centred = (threadIdx.x + j * THREADS) * 8 + e < x.k ? kept[j][e] - about : 0.0f;
                    sum += centred * centred;
                }
            for (int i = (threadIdx.x + KEPT * THREADS) * 8; i < x.k; i += THREADS * 8) {
                load_eight(v, x.data, x.type, i, x.k - i, true);
#pragma unroll
                for (int e = 0; e < 8; e++)
                    sum += i + e < x.k ? (v[e] - about) * (v[e] - about) : 0.0f;
            }
            return sum;
        };
        float variance;
        if (x.norm_kind == 1) {
            float sum = 0, count = 0;
#pragma unroll
            for (int j = 0; j < KEPT; j++) {
#pragma unroll
                for (int e = 0; e < 8; e++)
                    sum += kept[j][e];
                count += max(min(x.k - (int)(threadIdx.x + j * THREADS) * 8, 8), 0);
            }
            for (int i = (threadIdx.x + KEPT * THREADS) * 8; i < x.k; i += THREADS * 8) {
                load_eight(v, x.data, x.type, i, x.k - i, true);
#pragma unroll
                for (int e = 0; e < 8; e++)
                    sum += v[e];
                count += min(x.k - i, 8);
            }
            float2 moments = block_moments(sum, count, squares, scratch);
            mean = moments.x, variance = moments.y;
        } else {
            variance = block_sum(squares(0), scratch) / x.k;
        }
        inverse = 1.0f / sqrtf(variance + x.eps);
    }
    auto load = [&](int i) {
        load_eight(v, x.data, x.type, i, x.k - i, true);
        if (x.norm_kind) {
            float gain[8], shift[8] = {};
            load_eight(gain, x.gain, IS_F32, i, x.k - i, true);
            if (x.shift)
                load_eight(shift, x.shift, IS_F32, i, x.k - i, true);
#pragma unroll
            for (int e = 0; e < 8; e++)
                v[e] = (v[e] - mean) * inverse * gain[e] + shift[e];
        }
    };
    float scale = 1;
    if (x.rounding) {
        float largest = 0;
        for (int i = threadIdx.x * 8; x.given_scale <= 0 && i < x.k; i += THREADS * 8) {
            load(i);
#pragma unroll
            for (int e = 0; e < 8; e++)
                largest = fmaxf(largest, fabsf(v[e]));
        }
        scale = scale_of_row(block_max(largest, scratch), x.rounding, x.given_scale);
    }
    for (int i = from + threadIdx.x * 8; i < to; i += THREADS * 8) {
        load(i);
        if (x.rounding)
#pragma unroll
            for (int e = 0; e < 8; e++)
                v[e] = round_input(v[e], 1.0f / scale, x.rounding);
        *(uint4 *)(xs + place<PIECES>((i - from) / 8)) =
            make_uint4(pair_from_f32<T>(v[0], v[1]), pair_from_f32<T>(v[2], v[3]), pair_from_f32<T>(v[4], v[5]),
                       pair_from_f32<T>(v[6], v[7]));
    }
    return scale;
}

__device__ __forceinline__ u32 select_bytes(u32 a, u32 b, u32 which) {
    u32 r;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(which));
    return r;
}
__device__ __forceinline__ u32 half_sub(u32 a, u32 b) {
    u32 r;
    asm("sub.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}
__device__ __forceinline__ u32 half_mul(u32 a, u32 b) {
    u32 r;
    asm("mul.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}
__device__ __forceinline__ u32 half_fma(u32 a, u32 b, u32 c) {
    u32 r;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
    return r;
}
__device__ __forceinline__ u32 twice(u32 half) { return half | half << 16; }

// What each format is: elements in 16 bytes, what mma multiplies, and how eight neighbours (two for each of four words)
// come out of the 16 bytes `w`. `factor`: what codes become is so many times too small. `piece` counts groups of eight; `scale` is what `scale_of` made of the block's scale.
#if defined(ELEMENT_f16) || defined(ELEMENT_bf16)
#if defined(ELEMENT_f16)
typedef f16 Operand16;
#else
typedef bf16 Operand16;
#endif
struct Codes {
    typedef Operand16 Operand;
    static const int elements = 8;
    static constexpr float factor = 1;
    static const bool has_blocks = false;
    static __device__ __forceinline__ void decode(u32 *out, const uint4 &w, int, uint2) {
        out[0] = w.x, out[1] = w.y, out[2] = w.z, out[3] = w.w;
    }
};
#elif defined(ELEMENT_s8) || defined(ELEMENT_e4m3) || defined(ELEMENT_e5m2)
struct Codes {
    typedef f16 Operand;
    static const int elements = 16;
#if defined(ELEMENT_e4m3)
    static constexpr float factor = 256;
#else
    static constexpr float factor = 1;
#endif
    static const bool has_blocks = false;
    static __device__ __forceinline__ u32 pair(u32 word, int high) {
#if defined(ELEMENT_s8)
        // 1024 + 128 + q, exact in a half.
        return half_sub(select_bytes(word ^ 0x80808080u, 0x64646464u, high ? 0x4342 : 0x4140), 0x64806480u);
#elif defined(ELEMENT_e4m3)
        // The exponent's bias is smaller by 8: `factor` makes up for it.
        u32 v = select_bytes(word, 0, high ? 0x3424 : 0x1404);
        return (v & 0x80008000u) | ((v >> 1) & 0x3f803f80u);
#else
        return select_bytes(word, 0, high ? 0x3424 : 0x1404);
#endif
    }
    static __device__ __forceinline__ void decode(u32 *out, const uint4 &w, int piece, uint2) {
        u32 first = piece ? w.z : w.x, second = piece ? w.w : w.y;
        out[0] = pair(first, 0), out[1] = pair(first, 1), out[2] = pair(second, 0), out[3] = pair(second, 1);
    }
};
#else
#if defined(ELEMENT_nf4)
__device__ const float NF4_VALUES[16] = {-1.0f,
                                         -0.6961928009986877f,
                                         -0.5250730514526367f,
                                         -0.39491748809814453f,
                                         -0.28444138169288635f,
                                         -0.18477343022823334f,
                                         -0.09105003625154495f,
                                         0.0f,
                                         0.07958029955625534f,
                                         0.16093020141124725f,
                                         0.24611230194568634f,
                                         0.33791524171829224f,
                                         0.44070982933044434f,
                                         0.5626170039176941f,
                                         0.7229568362236023f,
                                         1.0f};
// Both elements of a byte.
__shared__ u32 nf4_pairs[256];
#endif
// Nibbles lie in a word as 0 2 4 6 1 3 5 7, from the lowest: shifted right by 4 p, its two halves begin with 2 p and
// 2 p + 1.
struct Codes {
    typedef f16 Operand;
    static const int elements = 32;
#if defined(ELEMENT_nvfp4)
    static constexpr float factor = 256;
#else
    static constexpr float factor = 1;
#endif
    static const bool has_blocks = true;
    // The scales of the 32 elements of a piece of memory, as pairs of equal halves: of the first and the last 16.
    static __device__ __forceinline__ uint2 scale_of(u32 raw) {
#if defined(ELEMENT_s4) || defined(ELEMENT_nf4)
        return make_uint2(twice(raw), twice(raw));
#elif defined(ELEMENT_mxfp4)
        // 2^(14 - raw); what a half cannot hold is beyond what the row's sum can.
        u32 bits = raw < 29 ? (29 - raw) << 10 : raw < 39 ? 1u << (38 - raw) : 0;
        return make_uint2(twice(bits), twice(bits));
#else
        // E4M3's bits make a half 2^-8 times as large. Of the 2^14 that the codes lack all but 2^-8 goes in here: the
        // largest product is then 6 * 448 * 2^-8.
        u32 low = raw << 7 & 0x3f80, high = raw >> 1 & 0x3f80;
        return make_uint2(half_mul(twice(low), 0x74007400u), half_mul(twice(high), 0x74007400u));
#endif
    }
    static __device__ __forceinline__ u32 pair(u32 word, int p, u32 scale) {
#if defined(ELEMENT_s4)
        // Codes are 8 too large.
        u32 v = ((p & 2 ? word >> 8 : word) & (p & 1 ? 0x00f000f0u : 0x000f000fu)) | 0x64006400u;
        v = p & 1 ? half_fma(v, 0x2c002c00u, 0xd480d480u) : half_sub(v, 0x64086408u);
        return half_mul(v, scale);
#else
        u32 sign = p == 0 ? word << 12 : p == 1 ? word << 8 : p == 2 ? word << 4 : word;
        u32 rest = p == 0 ? word << 9 : p == 1 ? word << 5 : p == 2 ? word << 1 : word >> 3;
        return half_mul((sign & 0x80008000u) | (rest & 0x0e000e00u), scale);
#endif
    }
    static __device__ __forceinline__ void decode(u32 *out, const uint4 &w, int piece, uint2 scales) {
        u32 word = piece == 0 ? w.x : piece == 1 ? w.y : piece == 2 ? w.z : w.w, scale = piece < 2 ? scales.x : scales.y;
#pragma unroll
        for (int p = 0; p < 4; p++)
#if defined(ELEMENT_nf4)
            out[p] = half_mul(nf4_pairs[word >> 8 * p & 255], scale);
#else
            out[p] = pair(word, p, scale);
#endif
    }
};
#endif

// Bytes of a block's scale, and the scale of a thread's 32 elements.
__device__ __forceinline__ u32 load_scale(const u8 *scales, u64 row, const Shape &shape, int step, int t) {
#if defined(ELEMENT_s4) || defined(ELEMENT_nf4)
    int block = (step * 4 + t) / shape.block_steps;
    return ((const u16 *)scales)[row * shape.blocks + block];
#elif defined(ELEMENT_mxfp4)
    return scales[row * shape.blocks + step * 4 + t];
#elif defined(ELEMENT_nvfp4)
    return ((const u16 *)scales)[(row * shape.blocks) / 2 + step * 4 + t];
#else
    return 0;
#endif
}

// The sum over the warps of element `i` of [token][row].
template <int TOKENS, int PITCH> __device__ __forceinline__ float sum_of_warps(const float *all, int i, int rows) {
    float sum = 0;
#pragma unroll
    for (int v = 0; v < WARPS; v++)
        sum += all[(v * TOKENS + i / rows) * PITCH + i % rows];
    return sum;
}

template <typename C, int TOKENS, int GROUPS, int DEPTH, bool IS_GATE>
__device__ void stream(const Weights *w, const Input &x, const Shape &shape, int kind, const void *residual,
                       int residual_type, int residual_stride, int y_type, float *partials, u32 *counters) {
    extern __shared__ __align__(128) u16 xs[];
    __shared__ float scratch[96];
    __shared__ bool is_last;
    typedef typename C::Operand T;
    const int PIECES = C::elements / 8, STEP = 4 * C::elements, TILES = TOKENS / 8;
    const int ROWS = 16 * GROUPS, OUT = IS_GATE ? ROWS / 2 : ROWS;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    let_next_start();
    const int n[3] = {w[0].n, IS_GATE ? 0 : w[1].n, IS_GATE ? 0 : w[2].n};
    const int tiles = (n[0] + OUT - 1) / OUT + (n[1] + OUT - 1) / OUT + (n[2] + OUT - 1) / OUT;
    const int split = blockIdx.y, all_steps = (x.k + STEP - 1) / STEP;
    const int from = (int)((long long)all_steps * split / shape.splits);
    const int to = (int)((long long)all_steps * (split + 1) / shape.splits);
    const int first_token = blockIdx.z * TOKENS, tokens = min(TOKENS, x.m - first_token);

    uint4 raw[DEPTH][GROUPS][2];
    u32 raw_scale[C::has_blocks ? DEPTH : 1][GROUPS][2];
    auto request = [&](int d, int step, int tile) {
        const int matrix = find(n, OUT, tile), first_row = tile * OUT;
#pragma unroll
        for (int r = 0; r < GROUPS; r++) {
            const int index = IS_GATE ? r / (GROUPS / 2) : matrix;
            const u8 *data = index == 0 ? w[0].data : index == 1 ? w[1].data : w[2].data;
            const u8 *scales = index == 0 ? w[0].block_scale : index == 1 ? w[1].block_scale : w[2].block_scale;
            const int last = (matrix == 0 ? n[0] : matrix == 1 ? n[1] : n[2]) - 1;
#pragma unroll
            for (int h = 0; h < 2; h++) {
                u64 row = min(first_row + (IS_GATE ? r % (GROUPS / 2) : r) * 16 + h * 8 + g, last);
                raw[d][r][h] = load_stream(data + row * shape.pitch + (u64)step * 64 + t * 16);
                if (C::has_blocks)
                    raw_scale[d][r][h] = load_scale(scales, row, shape, step, t);
            }
        }
    };
#pragma unroll
    for (int d = 0; d < DEPTH; d++)
        if (from + warp + d * WARPS < to)
            request(d, from + warp + d * WARPS, blockIdx.x);
#if defined(ELEMENT_nf4)
    for (int i = threadIdx.x; i < 256; i += THREADS)
        nf4_pairs[i] = pair_from_f32<f16>(NF4_VALUES[i & 15], NF4_VALUES[i >> 4]);
#endif
    wait_for_previous();
    // Rows lie half of all banks further, so that two rows' reads do not meet.
    const int span = (to - from) * STEP, pitch = span + (span % 64 == 0 ? 32 : 0);
    // The warps' sums, [warp][token][row], behind x.
    const int SUM_PITCH = ROWS + 4;
    float *all = (float *)(xs + tokens * pitch);
    float own_scale = 1;
    // A single row never comes to the kernels for more.
    if (TOKENS == 8 && x.is_row) {
        own_scale = stage_row<C>(x, from * STEP, to * STEP, xs, scratch);
    } else {
        const int pieces = span / 8;
        for (int i = threadIdx.x; i < tokens * pieces; i += THREADS) {
            int token = i / pieces, piece = i % pieces, at = from * STEP + piece * 8;
            const u16 *source = (const u16 *)x.data + (u64)(first_token + token) * x.stride + at;
            copy16(xs + token * pitch + place<PIECES>(piece), at < x.k ? source : (const u16 *)x.data, at < x.k);
        }
#if __CUDA_ARCH__ >= 800
        asm volatile("cp.async.commit_group;\ncp.async.wait_group 0;" ::: "memory");
#endif
    }
    __syncthreads();

    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        float sums[GROUPS][TILES][4] = {};
        for (int base = from + warp; base - warp < to; base += WARPS * DEPTH) {
#pragma unroll
            for (int d = 0; d < DEPTH; d++) {
                const int step = base + d * WARPS;
                if (step < to) {
                    uint2 scales[C::has_blocks ? GROUPS : 1][2];
                    if constexpr (C::has_blocks)
#pragma unroll
                        for (int r = 0; r < GROUPS; r++)
#pragma unroll
                            for (int h = 0; h < 2; h++)
                                scales[r][h] = C::scale_of(raw_scale[d][r][h]);
#pragma unroll
                    for (int piece = 0; piece < PIECES; piece++) {
                        uint4 b[TILES];
#pragma unroll
                        for (int j = 0; j < TILES; j++) {
                            const u16 *at =
                                xs + (j * 8 + g) * pitch + ((step - from) * 4 * PIECES + piece * 4 + t) * 8;
                            b[j] = j * 8 + g < tokens ? *(const uint4 *)at : make_uint4(0, 0, 0, 0);
                        }
#pragma unroll
                        for (int r = 0; r < GROUPS; r++) {
                            u32 upper[4], lower[4];
                            C::decode(upper, raw[d][r][0], piece, C::has_blocks ? scales[r][0] : make_uint2(0, 0));
                            C::decode(lower, raw[d][r][1], piece, C::has_blocks ? scales[r][1] : make_uint2(0, 0));
                            u32 a[2][4] = {{upper[0], lower[0], upper[1], lower[1]},
                                           {upper[2], lower[2], upper[3], lower[3]}};
#pragma unroll
                            for (int j = 0; j < TILES; j++) {
                                multiply(sums[r][j], a[0], b[j].x, b[j].y, T());
                                multiply(sums[r][j], a[1], b[j].z, b[j].w, T());
                            }
                        }
                    }
                }
                // Further along the row, or the next tile: its weights are on their way while sums are added up.
                if (base - warp + WARPS * DEPTH < to) {
                    if (step + WARPS * DEPTH < to)
                        request(d, step + WARPS * DEPTH, tile);
                } else if (tile + gridDim.x < tiles && from + warp + d * WARPS < to) {
                    request(d, from + warp + d * WARPS, tile + gridDim.x);
                }
            }
        }
        int in_matrix = tile;
        const int matrix = find(n, OUT, in_matrix), first_row = in_matrix * OUT;
        // Whoever is still adding up the tile before.
        __syncthreads();
#pragma unroll
        for (int r = 0; r < GROUPS; r++)
#pragma unroll
            for (int j = 0; j < TILES; j++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    all[(warp * TOKENS + j * 8 + t * 2 + e % 2) * SUM_PITCH + r * 16 + g + e / 2 * 8] = sums[r][j][e];
        __syncthreads();
        const u64 region = ((u64)blockIdx.z * tiles + tile) * shape.splits;
        if (shape.splits > 1) {
            for (int i = threadIdx.x; i < tokens * ROWS; i += THREADS)
                partials[(region + split) * (TOKENS * ROWS) + i] = sum_of_warps<TOKENS, SUM_PITCH>(all, i, ROWS);
            __threadfence();
            __syncthreads();
            if (threadIdx.x == 0) {
                u32 *counter = counters + blockIdx.z * tiles + tile;
                is_last = atomicAdd(counter, 1) == (u32)shape.splits - 1;
                if (is_last)
                    *counter = 0;
            }
            __syncthreads();
            if (!is_last)
                continue;
            __threadfence();
        }
        // One element of the result per thread; with a gate, from two sums.
        auto total = [&](int token, int row) {
            const int i = token * ROWS + row;
            if (shape.splits == 1)
                return sum_of_warps<TOKENS, SUM_PITCH>(all, i, ROWS);
            float sum = 0;
            for (int s = 0; s < shape.splits; s++)
                sum += __ldcg(partials + (region + s) * (TOKENS * ROWS) + i);
            return sum;
        };
        const float *row_scale = matrix == 0 ? w[0].row_scale : matrix == 1 ? w[1].row_scale : w[2].row_scale;
        const float *bias = matrix == 0 ? w[0].bias : matrix == 1 ? w[1].bias : w[2].bias;
        void *y = matrix == 0 ? w[0].y : matrix == 1 ? w[1].y : w[2].y;
        const int rows = matrix == 0 ? n[0] : matrix == 1 ? n[1] : n[2];
        for (int i = threadIdx.x; i < tokens * OUT; i += THREADS) {
            int token = i / OUT, in_tile = i % OUT, row = first_row + in_tile;
            if (row >= rows)
                continue;
            float of_token = (x.scale ? x.scale[first_token + token] : own_scale) * C::factor;
            float value = total(token, in_tile) * of_token;
            if (row_scale)
                value *= row_scale[row];
            if (bias)
                value += bias[row];
            value = activation(kind, value);
            if (IS_GATE) {
                float up = total(token, OUT + in_tile) * of_token;
                if (w[1].row_scale)
                    up *= w[1].row_scale[row];
                value *= w[1].bias ? up + w[1].bias[row] : up;
            }
            if (residual)
                value += load_one(residual, residual_type, (u64)(first_token + token) * residual_stride + row);
            store_one(y, y_type, (u64)(first_token + token) * rows + row, value);
        }
    }
}

// GROUPS: of 16 rows, that a warp multiplies at once. DEPTH: steps that it has in flight, each two pieces a thread and
// group. BLOCKS on a multiprocessor.
#define STREAM(NAME, TOKENS, GROUPS, DEPTH, BLOCKS, IS_GATE)                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)                                                           \
        NAME(const void *data, int type, int stride, int m, int k, int norm_kind, const float *gain,                   \
             const float *shift, float eps, int is_row, int rounding, float given_scale, const float *x_scale,         \
             u64 pitch, int blocks, int block_steps, int splits,                                                       \
             const u8 *w0, const u8 *block0, const float *scale0, const float *bias0, void *y0, int n0, const u8 *w1,  \
             const u8 *block1, const float *scale1, const float *bias1, void *y1, int n1, const u8 *w2,                \
             const u8 *block2, const float *scale2, const float *bias2, void *y2, int n2, int kind,                    \
             const void *residual, int residual_type, int residual_stride, int y_type, float *partials,                \
             u32 *counters) {                                                                                          \
        Weights w[3] = {{w0, block0, scale0, bias0, y0, n0},                                                           \
                        {w1, block1, scale1, bias1, y1, n1},                                                           \
                        {w2, block2, scale2, bias2, y2, n2}};                                                          \
        Input x = {data, type, stride, m, k, norm_kind, gain, shift, eps, is_row, rounding, given_scale, x_scale};     \
        Shape shape = {pitch, blocks, block_steps, splits};                                                            \
        stream<Codes, TOKENS, GROUPS, DEPTH, IS_GATE>(w, x, shape, kind, residual, residual_type, residual_stride, y_type,    \
                                               partials, counters);                                                    \
    }
// The same weights in halves y [n, stride], scaled: for products of many rows. A thread widens 16 bytes.
template <typename C>
__device__ void widen(const u8 *data, const u8 *block_scale, const float *row_scale, u64 pitch, int blocks,
                      int block_steps, int n, int k, u16 *y, int stride) {
    let_next_start();
#if defined(ELEMENT_nf4)
    for (int i = threadIdx.x; i < 256; i += blockDim.x)
        nf4_pairs[i] = pair_from_f32<f16>(NF4_VALUES[i & 15], NF4_VALUES[i >> 4]);
#endif
    wait_for_previous();
    __syncthreads();
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x, row = i / (pitch / 16);
    if (row >= (u64)n)
        return;
    const int piece_of_row = (int)(i - row * (pitch / 16));
    const uint4 raw = *(const uint4 *)(data + row * pitch + piece_of_row * 16);
    uint2 scales = make_uint2(0, 0);
    if constexpr (C::has_blocks) {
        Shape shape = {pitch, blocks, block_steps, 1};
        // A warp's pieces are neighbours, of one row or of two: the same four to a step as in a product.
        scales = C::scale_of(load_scale(block_scale, row, shape, piece_of_row / 4, piece_of_row % 4));
    }
    const float factor = (row_scale ? row_scale[row] : 1.0f) * C::factor;
#pragma unroll
    for (int piece = 0; piece < C::elements / 8; piece++) {
        const int at = piece_of_row * C::elements + piece * 8;
        if (at >= stride)
            return;
        u32 words[4];
        C::decode(words, raw, piece, scales);
        float v[8];
#pragma unroll
        for (int e = 0; e < 8; e++) {
            float2 pair = pair_to_f32<typename C::Operand>(words[e / 2]);
            v[e] = at + e < k ? (e % 2 ? pair.y : pair.x) * factor : 0.0f;
        }
        store_eight(v, y, IS_F16, row * stride + at, 8, true);
    }
}
#define WIDEN(FORMAT)                                                                                                  \
    extern "C" __global__ void widen_##FORMAT(const u8 *data, const u8 *block_scale, const float *row_scale,           \
                                              u64 pitch, int blocks, int block_steps, int n, int k, u16 *y,            \
                                              int stride) {                                                            \
        widen<Codes>(data, block_scale, row_scale, pitch, blocks, block_steps, n, k, y, stride);                       \
    }
#define STREAMS(FORMAT)                                                                                                \
    STREAM(gemm_stream_##FORMAT##_8, 8, 1, 4, 2, false)                                                                      \
    STREAM(gemm_stream_##FORMAT##_8_gate, 8, 2, 2, 2, true)                                                                  \
    STREAM(gemm_stream_##FORMAT##_16, 16, 2, 2, 2, false)                                                                    \
    STREAM(gemm_stream_##FORMAT##_16_gate, 16, 2, 2, 2, true)                                                                \
    STREAM(gemm_stream_##FORMAT##_32, 32, 4, 2, 1, false)                                                                    \
    STREAM(gemm_stream_##FORMAT##_32_gate, 32, 4, 2, 1, true)                                                                \
    STREAM(gemm_stream_##FORMAT##_64, 64, 2, 2, 1, false)                                                                    \
    STREAM(gemm_stream_##FORMAT##_64_gate, 64, 2, 2, 1, true)
#if defined(ELEMENT_f16)
STREAMS(f16)
#elif defined(ELEMENT_bf16)
#if __CUDA_ARCH__ >= 800
STREAMS(bf16)
#endif
#elif defined(ELEMENT_s8)
STREAMS(s8)
WIDEN(s8)
#elif defined(ELEMENT_e4m3)
STREAMS(e4m3)
WIDEN(e4m3)
#elif defined(ELEMENT_e5m2)
STREAMS(e5m2)
WIDEN(e5m2)
#elif defined(ELEMENT_s4)
STREAMS(s4)
WIDEN(s4)
#elif defined(ELEMENT_nf4)
STREAMS(nf4)
WIDEN(nf4)
#elif defined(ELEMENT_mxfp4)
STREAMS(mxfp4)
WIDEN(mxfp4)
#elif defined(ELEMENT_nvfp4)
STREAMS(nvfp4)
WIDEN(nvfp4)
#endif
