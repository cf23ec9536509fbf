// y [m, n] = f(x [m, k] w [n, k]^T + bias) + residual for few rows of x: bound by the way of the weights from memory.
//
// Weights go straight from memory into the registers that mma.sync takes them from, in 16-byte pieces and never through
// shared memory. A product does not care in which order its terms are added, so a thread's 16 neighbouring bytes stand
// for whatever positions along k the instruction has for it, as long as x is read in the same order. Whatever the
// format, its codes become 16-bit floats on the way; what is left of their scales multiplies the sums.
//
// The eight warps of a block share some rows of w and a stretch of k, and cut that stretch into steps of 64 bytes. x
// lies in shared memory. Blocks that share rows leave their sums
// behind; the last one adds them up, in order, so results are the same from run to run.

__device__ __forceinline__ u32 shared_address(const void *pointer) { return (u32)__cvta_generic_to_shared(pointer); }

__device__ __forceinline__ void copy16(void *to, const void *from, bool exists) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(exists ? 16 : 0));
#else
    *(uint4 *)to = exists ? *(const uint4 *)from : make_uint4(0, 0, 0, 0);
#endif
}

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

// The sum over the warps of element `i` of [token][row].
template <int TOKENS, int PITCH> __device__ __forceinline__ float sum_of_warps(const float *all, int i, int rows) {
    float sum = 0;
#pragma unroll
    for (int v = 0; v < WARPS; v++)
        sum += all[(v * TOKENS + i / rows) * PITCH + i % rows];
    return sum;
}

// Rows of x in 16 bits; `scale` multiplies their sums.
struct Input {
    const u16 *data;
    int stride, m, k;
    const float *scale;
};

template <typename C, int TOKENS, int GROUPS, int DEPTH, bool IS_GATE>
__device__ void stream(const Weights *w, const Input &x, const Shape &shape, int splits, int kind, const void *residual,
                       int residual_type, int residual_stride, int y_type, float *partials, u32 *counters) {
    extern __shared__ __align__(128) u16 xs[];
    __shared__ bool is_last;
    typedef typename C::Operand T;
    const int PIECES = C::elements / 8, STEP = 4 * C::elements, TILES = TOKENS / 8;
    const int ROWS = 16 * GROUPS, OUT = IS_GATE ? ROWS / 2 : ROWS;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    let_next_start();
    const int n[3] = {w[0].n, IS_GATE ? 0 : w[1].n, IS_GATE ? 0 : w[2].n};
    const int tiles = (n[0] + OUT - 1) / OUT + (n[1] + OUT - 1) / OUT + (n[2] + OUT - 1) / OUT;
    const int split = blockIdx.y, all_steps = (x.k + STEP - 1) / STEP;
    const int from = (int)((long long)all_steps * split / splits);
    const int to = (int)((long long)all_steps * (split + 1) / splits);
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
    const int pieces = span / 8;
    for (int i = threadIdx.x; i < tokens * pieces; i += THREADS) {
        int token = i / pieces, piece = i % pieces, at = from * STEP + piece * 8;
        const u16 *source = x.data + (u64)(first_token + token) * x.stride + at;
        copy16(xs + token * pitch + place<PIECES, 4>(piece), at < x.k ? source : x.data, at < x.k);
    }
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;\ncp.async.wait_group 0;" ::: "memory");
#endif
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
        const u64 region = ((u64)blockIdx.z * tiles + tile) * splits;
        if (splits > 1) {
            for (int i = threadIdx.x; i < tokens * ROWS; i += THREADS)
                partials[(region + split) * (TOKENS * ROWS) + i] = sum_of_warps<TOKENS, SUM_PITCH>(all, i, ROWS);
            __threadfence();
            __syncthreads();
            if (threadIdx.x == 0) {
                u32 *counter = counters + blockIdx.z * tiles + tile;
                is_last = atomicAdd(counter, 1) == (u32)splits - 1;
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
            if (splits == 1)
                return sum_of_warps<TOKENS, SUM_PITCH>(all, i, ROWS);
            float sum = 0;
            for (int s = 0; s < splits; s++)
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
            float of_token = (x.scale ? x.scale[first_token + token] : 1.0f) * C::factor;
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
        NAME(const u16 *data, int stride, int m, int k, const float *x_scale, u64 pitch, int blocks, int block_steps,  \
             int splits,                                                                                               \
             const u8 *w0, const u8 *block0, const float *scale0, const float *bias0, void *y0, int n0, const u8 *w1,  \
             const u8 *block1, const float *scale1, const float *bias1, void *y1, int n1, const u8 *w2,                \
             const u8 *block2, const float *scale2, const float *bias2, void *y2, int n2, int kind,                    \
             const void *residual, int residual_type, int residual_stride, int y_type, float *partials,                \
             u32 *counters) {                                                                                          \
        Weights w[3] = {{w0, block0, scale0, bias0, y0, n0},                                                           \
                        {w1, block1, scale1, bias1, y1, n1},                                                           \
                        {w2, block2, scale2, bias2, y2, n2}};                                                          \
        Input x = {data, stride, m, k, x_scale};                                                                       \
        Shape shape = {pitch, blocks, block_steps};                                                                    \
        stream<Codes, TOKENS, GROUPS, DEPTH, IS_GATE>(w, x, shape, splits, kind, residual, residual_type, residual_stride, y_type,    \
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
        Shape shape = {pitch, blocks, block_steps};
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
    STREAM(gemm_stream_##FORMAT##_8_gate, 8, 2, 2, 1, true)                                                                  \
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
