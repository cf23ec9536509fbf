// y [n] = norm(x) [k] w [n, k]^T + bias for one row of x and 4-bit weights that lie on a grid of integers: decoding.
//
// Making floats of codes costs more than the way from memory, so they stay integers: a nibble becomes a byte, and tensor
// cores multiply bytes. A block of 32 elements of x has a scale of its own and 16 bits an element (an error of at most
// 2^-16 of the block's largest magnitude), which meet the codes as two bytes.
//
// The blocks' scales multiply sums, so no two blocks may share one. Four threads hold a row's four blocks of 64 bytes,
// and of the eight columns of the other operand two belong to each of them, the upper and the lower bytes of that block
// of x, zero wherever another block is. So a thread gets the sums of the very block that it has loaded.
//
// A block of threads takes 16 rows at a time, or 8 of either matrix of a gate; its warps take turns along k. Weights are
// requested some steps ahead, across the end of the rows too.

#define DEPTH 3
// Rows of a tile.
#define ROWS 16
// Blocks of threads that share a multiprocessor; the same number as on the host.
#define RESIDENTS 2

// What makes bytes of eight codes: code + OFFSET in units of UNIT. `low` and `high` hold elements LOW and HIGH.
#if defined(ELEMENT_s4)
#define OFFSET 8
#define UNIT 1.0f
__device__ const int LOW[4] = {0, 4, 1, 5}, HIGH[4] = {2, 6, 3, 7};
__device__ __forceinline__ void bytes_of(u32 word, u32 &low, u32 &high) {
    low = word & 0x0f0f0f0fu;
    high = word >> 4 & 0x0f0f0f0fu;
}
#else
// Twice the values of E2M1: 0 1 2 3 4 6 8 12 and their negatives.
#define OFFSET 12
#define UNIT 0.5f
__device__ const int LOW[4] = {0, 2, 4, 6}, HIGH[4] = {1, 3, 5, 7};
// A selector of 8 or more replicates a byte's sign, which is none: each table gives zero for the other's codes.
__device__ __forceinline__ u32 four_bytes_of(u32 word, u32 negated) {
    return select_bytes(0x0f0e0d0cu, 0x18141210u, word) | select_bytes(0x090a0b0cu, 0x00040608u, negated);
}
__device__ __forceinline__ void bytes_of(u32 word, u32 &low, u32 &high) {
    const u32 negated = word ^ 0x88888888u;
    low = four_bytes_of(word, negated);
    high = four_bytes_of(word >> 16, negated >> 16);
}
#endif
// Blocks of weights in one of x, and bytes of a block's scale.
#if defined(ELEMENT_nvfp4)
#define BLOCKS 2
#else
#define BLOCKS 1
#endif
#if defined(ELEMENT_s4)
#define SCALE_BYTES 2
#else
#define SCALE_BYTES 1
#endif

// What multiplies a block's sums.
__device__ __forceinline__ float scale_of_block(u32 raw, int block) {
#if defined(ELEMENT_s4)
    return to_f32(f16{(u16)raw});
#elif defined(ELEMENT_mxfp4)
    return raw < 127 ? __uint_as_float((127 - raw) << 23) : 0.0f;
#else
    // E4M3's bits make a half 2^-8 times as large.
    return to_f32(f16{(u16)((block ? raw >> 1 : raw << 7) & 0x3f80)}) * 256.0f;
#endif
}

__device__ __forceinline__ void multiply(int (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int half = 0; half < 2; half++)
            asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.u8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};"
                         : "+r"(c[2 * h]), "+r"(c[2 * h + 1])
                         : "r"(a[2 * half + h]), "r"(half ? b1 : b0));
#endif
}

// Four numbers as bytes.
__device__ __forceinline__ u32 pack_bytes(const int *v, const int *order) {
    return (v[order[0]] & 255) | (v[order[1]] & 255) << 8 | (v[order[2]] & 255) << 16 | (u32)v[order[3]] << 24;
}

// A block of x: its scale, and what the offset of the codes adds to the sums of both its halves.
struct __align__(16) XBlock {
    float scale;
    int offset[2];
};

// Eight neighbours of x, which four threads of a block each hold, as bytes into shared memory.
__device__ __forceinline__ void put_bytes(u8 *bytes, XBlock *blocks, int i, const float *v) {
    const u32 together = 0xfu << (threadIdx.x % 32 & ~3);
    float largest = 0, sum = 0;
#pragma unroll
    for (int e = 0; e < 8; e++) {
        largest = fmaxf(largest, fabsf(v[e]));
        sum += v[e] - v[e];
    }
#pragma unroll
    for (int mask = 1; mask < 4; mask <<= 1) {
        largest = fmaxf(largest, __shfl_xor_sync(together, largest, mask));
        sum += __shfl_xor_sync(together, sum, mask);
    }
    // The largest that both bytes hold, and no infinite inverse.
    const float scale = fmaxf(largest, 1e-30f) / 32512.0f, inverse = 1.0f / scale;
    int upper[8], lower[8], total = 0;
#pragma unroll
    for (int e = 0; e < 8; e++) {
        const int rounded = __float2int_rn(v[e] * inverse);
        total += rounded;
        upper[e] = rounded + 128 >> 8;
        lower[e] = rounded - upper[e] * 256;
    }
    total += __shfl_xor_sync(together, total, 1);
    const int other = __shfl_xor_sync(together, total, 2);
    const int word = i / 8 % 4, block = i / 32, at = i / 128 * 256 + word / 2 * 128 + block % 4 * 32 + word % 2 * 8;
    *(uint2 *)(bytes + at) = make_uint2(pack_bytes(upper, LOW), pack_bytes(upper, HIGH));
    *(uint2 *)(bytes + at + 16) = make_uint2(pack_bytes(lower, LOW), pack_bytes(lower, HIGH));
    // What is not finite makes its block, and all results, NaN.
    if (word == 0)
        blocks[block] = {(scale + sum) * UNIT, {OFFSET * total, OFFSET * other}};
}

// Where the two rows that a thread loads begin, counted from its own piece, and their blocks' scales.
struct Rows {
    const u8 *data[2], *scales[2];
};
template <bool IS_GATE>
__device__ __forceinline__ Rows rows_of(const Weights &w0, const Weights &w1, const Weights &w2, const Shape &shape,
                                        int tile, int n) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    Rows rows;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int row = IS_GATE ? min(tile * (ROWS / 2) + g, n - 1) : min(tile * ROWS + h * 8 + g, n - 1), index = IS_GATE ? h : 0;
        if (!IS_GATE && row >= w0.n) {
            row -= w0.n;
            index = 1;
            if (row >= w1.n) {
                row -= w1.n;
                index = 2;
            }
        }
        rows.data[h] = (index == 0 ? w0.data : index == 1 ? w1.data : w2.data) + row * shape.pitch + t * 16;
        rows.scales[h] = (index == 0 ? w0.block_scale : index == 1 ? w1.block_scale : w2.block_scale) +
                         (u64)row * shape.blocks * SCALE_BYTES;
    }
    return rows;
}

// What belongs to a row of results.
struct Finish {
    int row;
    void *y;
    float row_scale, bias, residual, up_scale, up_bias;
};
template <bool IS_GATE>
__device__ __forceinline__ Finish finish_of(const Weights &w0, const Weights &w1, const Weights &w2, int whole,
                                            const void *residual, int residual_type) {
    const int index = IS_GATE || whole < w0.n ? 0 : whole < w0.n + w1.n ? 1 : 2;
    const int row = whole - (index == 0 ? 0 : index == 1 ? w0.n : w0.n + w1.n);
    const float *scales = index == 0 ? w0.row_scale : index == 1 ? w1.row_scale : w2.row_scale;
    const float *biases = index == 0 ? w0.bias : index == 1 ? w1.bias : w2.bias;
    return {row,
            index == 0 ? w0.y : index == 1 ? w1.y : w2.y,
            scales[row],
            biases ? biases[row] : 0.0f,
            residual ? load_one(residual, residual_type, whole) : 0.0f,
            IS_GATE ? w1.row_scale[row] : 0.0f,
            IS_GATE && w1.bias ? w1.bias[row] : 0.0f};
}

template <bool IS_GATE>
__device__ void gemv(const Row &x, const Shape &shape, const Weights &w0, const Weights &w1, const Weights &w2, int kind,
                     const void *residual, int residual_type, int y_type) {
    extern __shared__ __align__(128) u8 bytes[];
    __shared__ float scratch[96], parts[2][WARPS][ROWS];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int n = IS_GATE ? w0.n : w0.n + w1.n + w2.n, height = IS_GATE ? ROWS / 2 : ROWS, tiles = (n + height - 1) / height;
    const int steps = (int)(shape.pitch / 64), own_steps = (steps - warp + WARPS - 1) / WARPS;
    XBlock *blocks = (XBlock *)(bytes + steps * 256);
    let_next_start();

    uint4 raw[DEPTH][2];
    u32 raw_scale[DEPTH][2];
    auto request = [&](int d, const Rows &from, int own_step) {
        const int step = own_step * WARPS + warp;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            raw[d][h] = load_stream(from.data[h] + step * 64);
            raw_scale[d][h] = load_scale(from.scales[h], 0, shape, step, t);
        }
    };
    Rows rows = rows_of<IS_GATE>(w0, w1, w2, shape, blockIdx.x, n);
#pragma unroll
    for (int d = 0; d < DEPTH; d++)
        if (d < own_steps)
            request(d, rows, d);
    if (x.norm_kind && threadIdx.x * 32 < x.k) {
        prefetch_line(x.gain + threadIdx.x * 32);
        if (x.shift)
            prefetch_line(x.shift + threadIdx.x * 32);
    }
    wait_for_previous();
    const float scale = stage_row(x, steps * 128, scratch, [&](int i, const float *v) { put_bytes(bytes, blocks, i, v); });
    __syncthreads();

    const bool is_mine = g / 2 == t;
    int buffer = 0;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        // Requested before the products, in time for what comes behind them.
        const int whole = tile * height + threadIdx.x;
        const bool is_row = threadIdx.x < height && whole < n;
        Finish finish = {};
        if (is_row)
            finish = finish_of<IS_GATE>(w0, w1, w2, whole, residual, residual_type);
        float sums[2] = {};
        const bool has_next = tile + gridDim.x < tiles;
        const Rows next = rows_of<IS_GATE>(w0, w1, w2, shape, tile + gridDim.x, n);
        for (int base = 0; base < own_steps; base += DEPTH) {
#pragma unroll
            for (int d = 0; d < DEPTH; d++) {
                if (base + d >= own_steps)
                    break;
                const int step = (base + d) * WARPS + warp;
                const XBlock block = blocks[step * 4 + t];
                uint4 b[2] = {};
                if (is_mine) {
                    b[0] = *(const uint4 *)(bytes + step * 256 + g * 16);
                    b[1] = *(const uint4 *)(bytes + step * 256 + 128 + g * 16);
                }
                const u32 words[2][4] = {{raw[d][0].x, raw[d][0].y, raw[d][0].z, raw[d][0].w},
                                         {raw[d][1].x, raw[d][1].y, raw[d][1].z, raw[d][1].w}};
                const u32 scales[2] = {raw_scale[d][0], raw_scale[d][1]};
                const bool is_here = base + DEPTH + d < own_steps;
                if (is_here || has_next)
                    request(d, is_here ? rows : next, is_here ? base + DEPTH + d : d);
                int c[BLOCKS][4];
#pragma unroll
                for (int i = 0; i < BLOCKS; i++) {
                    c[i][0] = c[i][2] = 0;
                    c[i][1] = c[i][3] = BLOCKS == 1 ? -(block.offset[0] + block.offset[1]) : -block.offset[i];
                }
#pragma unroll
                for (int word = 0; word < 4; word++) {
                    u32 a[4];
                    bytes_of(words[0][word], a[0], a[2]);
                    bytes_of(words[1][word], a[1], a[3]);
                    const uint4 &both = b[word / 2];
                    multiply(c[BLOCKS == 1 ? 0 : word / 2], a, word % 2 ? both.z : both.x, word % 2 ? both.w : both.y);
                }
#pragma unroll
                for (int i = 0; i < BLOCKS; i++)
#pragma unroll
                    for (int h = 0; h < 2; h++)
                        sums[h] += (float)(c[i][2 * h] * 256 + c[i][2 * h + 1]) * (block.scale * scale_of_block(scales[h], i));
            }
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            sums[h] += __shfl_xor_sync(0xffffffffu, sums[h], 1);
            sums[h] += __shfl_xor_sync(0xffffffffu, sums[h], 2);
            if (t == 0)
                parts[buffer][warp][h * 8 + g] = sums[h];
        }
        __syncthreads();
        if (is_row) {
            float value = 0, up = 0;
#pragma unroll
            for (int i = 0; i < WARPS; i++) {
                value += parts[buffer][i][threadIdx.x];
                if (IS_GATE)
                    up += parts[buffer][i][threadIdx.x + ROWS / 2];
            }
            value = activation(kind, value * scale * finish.row_scale + finish.bias);
            if (IS_GATE)
                value *= up * scale * finish.up_scale + finish.up_bias;
            store_one(finish.y, y_type, finish.row, value + finish.residual);
        }
        buffer ^= 1;
        rows = next;
    }
}

#define GEMV(NAME, IS_GATE)                                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS, RESIDENTS)                                                   \
        NAME(const void *data, int type, int k, int norm_kind, const float *gain, const float *shift, float eps,       \
             int rounding, float given_scale, u64 pitch, int blocks, int block_steps,                                  \
             const u8 *data0, const u8 *block0, const float *scale0, const float *bias0, void *y0, int n0,             \
             const u8 *data1, const u8 *block1, const float *scale1, const float *bias1, void *y1, int n1,             \
             const u8 *data2, const u8 *block2, const float *scale2, const float *bias2, void *y2, int n2, int kind,   \
             const void *residual, int residual_type, int y_type) {                                                    \
        Row x = {data, type, k, norm_kind, gain, shift, eps, rounding, given_scale};                                   \
        Shape shape = {pitch, blocks, block_steps};                                                                    \
        Weights w0 = {data0, block0, scale0, bias0, y0, n0}, w1 = {data1, block1, scale1, bias1, y1, n1},              \
                w2 = {data2, block2, scale2, bias2, y2, n2};                                                           \
        gemv<IS_GATE>(x, shape, w0, w1, w2, kind, residual, residual_type, y_type);                                    \
    }
#define GEMVS(FORMAT)                                                                                                  \
    GEMV(gemv_nibbles_##FORMAT, false)                                                                                 \
    GEMV(gemv_nibbles_##FORMAT##_gate, true)
#if defined(ELEMENT_s4)
GEMVS(s4)
#elif defined(ELEMENT_mxfp4)
GEMVS(mxfp4)
#elif defined(ELEMENT_nvfp4)
GEMVS(nvfp4)
#endif
