// y [n] = norm(x) [k] w [n, k]^T + bias for one row of x and weights of eight bits or fewer: decoding.
//
// A warp owns two output rows, or one of either matrix of a gate, and reads them in 16-byte pieces, 512 bytes of a row at
// once and the next steps requested already, across the end of the rows too: no warp ever waits for another.
//
// Tensor cores multiply, though there is only one row of x. To mma.sync, the eight groups of four threads hold eight rows of
// a matrix; here they hold eight stretches of the same row, and the eight columns of the other operand are the stretches
// of x that belong to them. The diagonal of the result is what is wanted, and the second eight rows are the second row of
// weights. So codes become 16-bit floats as for products of many rows, and sums are as exact.

#if __CUDA_ARCH__ < 800
#define DEPTH 2
#elif defined(ELEMENT_nvfp4) || defined(ELEMENT_e5m2)
#define DEPTH 3
#else
#define DEPTH 4
#endif
// Blocks that share a multiprocessor; the same number as on the host.
#if defined(ELEMENT_s8) || defined(ELEMENT_e4m3) || defined(ELEMENT_e5m2)
#define RESIDENTS 3
#define AT_ONCE 2
#else
#define AT_ONCE 4
#define RESIDENTS 2
#endif

// Two rows that a warp multiplies: where they begin, what scales their blocks, and their numbers in their matrix.
struct Rows {
    const u8 *data[2], *block_scale[2];
    int row[2];
};

template <typename C, bool IS_GATE>
__device__ __forceinline__ Rows rows_of(const Weights &w0, const Weights &w1, const Weights &w2, u64 pitch, int unit) {
    Rows rows;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int row = IS_GATE ? unit : min(2 * unit + h, w0.n + w1.n + w2.n - 1), index = IS_GATE ? h : 0;
        if (!IS_GATE && row >= w0.n) {
            row -= w0.n;
            index = 1;
            if (row >= w1.n) {
                row -= w1.n;
                index = 2;
            }
        }
        rows.data[h] = (index == 0 ? w0.data : index == 1 ? w1.data : w2.data) + row * pitch;
        rows.block_scale[h] = index == 0 ? w0.block_scale : index == 1 ? w1.block_scale : w2.block_scale;
        rows.row[h] = row;
    }
    return rows;
}

template <typename C, bool IS_GATE>
__device__ void gemv(const Row &x, const Shape &shape, const Weights &w0, const Weights &w1, const Weights &w2, int kind,
                     const void *residual, int residual_type, int y_type) {
    extern __shared__ __align__(128) u16 xs[];
    __shared__ float scratch[32];
    typedef typename C::Operand T;
    const int PIECES = C::elements / 8;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int n = IS_GATE ? w0.n : w0.n + w1.n + w2.n, units = IS_GATE ? n : (n + 1) / 2;
    const int pieces = (int)(shape.pitch / 16), steps = (pieces + 31) / 32;
    let_next_start();

    // What is requested next, and what is multiplied next.
    int wanted = warp * gridDim.x + blockIdx.x, wanted_step = 0, unit = wanted, step = 0;
    const int stride = gridDim.x * WARPS;
    Rows from = rows_of<C, IS_GATE>(w0, w1, w2, shape.pitch, min(wanted, units - 1));
    uint4 raw[DEPTH][2];
    u32 raw_scale[C::has_blocks ? DEPTH : 1][2];
    auto request = [&](int d) {
        const int piece = wanted_step * 32 + lane;
        const bool exists = wanted < units && piece < pieces;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            raw[d][h] = exists ? load_stream(from.data[h] + piece * 16) : make_uint4(0, 0, 0, 0);
            if (C::has_blocks)
                raw_scale[d][h] =
                    exists ? load_scale(from.block_scale[h], from.row[h], shape, piece / 4, piece % 4) : 0;
        }
        if (++wanted_step == steps) {
            wanted_step = 0;
            wanted += stride;
            from = rows_of<C, IS_GATE>(w0, w1, w2, shape.pitch, min(wanted, units - 1));
        }
    };
#pragma unroll
    for (int d = 0; d < DEPTH; d++)
        request(d);
#if defined(ELEMENT_nf4)
    for (int i = threadIdx.x; i < 256; i += THREADS)
        nf4_pairs[i] = pair_from_f32<f16>(NF4_VALUES[i & 15], NF4_VALUES[i >> 4]);
#endif
    expect_row(x);
    wait_for_previous();
    const float scale = C::factor * stage_row<AT_ONCE>(x, steps * 32 * C::elements, scratch, [&](int i, const float *v) {
        *(uint4 *)(xs + place<PIECES, 32>(i / 8)) =
            make_uint4(pair_from_f32<T>(v[0], v[1]), pair_from_f32<T>(v[2], v[3]), pair_from_f32<T>(v[4], v[5]),
                       pair_from_f32<T>(v[6], v[7]));
    });
    __syncthreads();

    // Several chains: a product waits for the one before it in its chain.
    float sums[4][4] = {};
    while (unit < units) {
#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
            if (unit >= units)
                break;
            uint2 scales[2] = {};
            if constexpr (C::has_blocks) {
                scales[0] = C::scale_of(raw_scale[d][0]);
                scales[1] = C::scale_of(raw_scale[d][1]);
            }
#pragma unroll
            for (int piece = 0; piece < PIECES; piece++) {
                const uint4 b = *(const uint4 *)(xs + ((step * PIECES + piece) * 32 + lane) * 8);
                u32 upper[4], lower[4];
                C::decode(upper, raw[d][0], piece, scales[0]);
                C::decode(lower, raw[d][1], piece, scales[1]);
                u32 first[4] = {upper[0], lower[0], upper[1], lower[1]}, second[4] = {upper[2], lower[2], upper[3], lower[3]};
                multiply(sums[piece % 2 * 2], first, b.x, b.y, T());
                multiply(sums[piece % 2 * 2 + 1], second, b.z, b.w, T());
            }
            request(d);
            if (++step < steps)
                continue;
            // The diagonal: of columns 2t and 2t + 1 the group's own.
            const bool is_mine = g / 2 == t;
            float mine[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                mine[i] = is_mine ? (sums[0][i] + sums[1][i]) + (sums[2][i] + sums[3][i]) : 0.0f;
                sums[0][i] = sums[1][i] = sums[2][i] = sums[3][i] = 0;
            }
            float upper = warp_sum(g % 2 ? mine[1] : mine[0]) * scale;
            float lower = warp_sum(g % 2 ? mine[3] : mine[2]) * scale;
            int row = IS_GATE ? unit : 2 * unit + lane;
            if (IS_GATE ? lane == 0 : lane < 2 && row < n) {
                const int index = IS_GATE || row < w0.n ? 0 : row < w0.n + w1.n ? 1 : 2, whole = row;
                row -= index == 0 ? 0 : index == 1 ? w0.n : w0.n + w1.n;
                const float *row_scale = index == 0 ? w0.row_scale : index == 1 ? w1.row_scale : w2.row_scale;
                const float *bias = index == 0 ? w0.bias : index == 1 ? w1.bias : w2.bias;
                void *y = index == 0 ? w0.y : index == 1 ? w1.y : w2.y;
                float value = lane ? lower : upper;
                if (row_scale)
                    value *= row_scale[row];
                if (bias)
                    value += bias[row];
                value = activation(kind, value);
                if (IS_GATE)
                    value *= lower * (w1.row_scale ? w1.row_scale[row] : 1.0f) + (w1.bias ? w1.bias[row] : 0.0f);
                if (residual)
                    value += load_one(residual, residual_type, whole);
                store_one(y, y_type, row, value);
            }
            step = 0;
            unit += stride;
        }
    }
}

#define GEMV(NAME, IS_GATE)                                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS, RESIDENTS)                                                           \
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
        gemv<Codes, IS_GATE>(x, shape, w0, w1, w2, kind, residual, residual_type, y_type);                             \
    }
#define GEMVS(FORMAT)                                                                                                  \
    GEMV(gemv_codes_##FORMAT, false)                                                                                   \
    GEMV(gemv_codes_##FORMAT##_gate, true)
#if defined(ELEMENT_s8)
GEMVS(s8)
#elif defined(ELEMENT_e4m3)
GEMVS(e4m3)
#elif defined(ELEMENT_e5m2)
GEMVS(e5m2)
#elif defined(ELEMENT_s4)
GEMVS(s4)
#elif defined(ELEMENT_nf4)
GEMVS(nf4)
#elif defined(ELEMENT_mxfp4)
GEMVS(mxfp4)
#elif defined(ELEMENT_nvfp4)
GEMVS(nvfp4)
#endif
