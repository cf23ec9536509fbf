// y [n] = norm(x) [k] w [n, k]^T + bias for one row of x, near memory bandwidth: decoding.
//
// A warp owns an output row and reads it in 16-byte pieces, four in flight per lane and the next four requested before
// these are used, across the end of the row too. x is normalised on the way into shared memory, so that no kernel has
// to run for it. The first weights are requested before waiting for whoever computes x. (Bringing more of them into the
// second-level cache that early makes single products faster and whole models slower.)

#define WARPS 16
#define BATCH 4

// What a warp multiplies with: up to three matrices one below the other (query, key, value).
template <typename W> struct Segments {
    const W *w[3];
    const float *bias[3];
    void *y[3];
    int end[3];
};

// Elements in 16 bytes.
template <typename W> struct Lanes {
    static const int count = 16 / sizeof(W);
};

__device__ __forceinline__ float dot(uint4 w, const float *x, int piece, int, float) {
    float4 a = *(const float4 *)(x + piece * 4);
    return __uint_as_float(w.x) * a.x + __uint_as_float(w.y) * a.y + __uint_as_float(w.z) * a.z +
           __uint_as_float(w.w) * a.w;
}
template <typename W> __device__ __forceinline__ float dot(uint4 w, const float *x, int piece, int k, W) {
    float4 a = *(const float4 *)(x + piece * 4), b = *(const float4 *)(x + (k + 7) / 8 * 4 + piece * 4);
    float2 w0 = pair_to_f32<W>(w.x), w1 = pair_to_f32<W>(w.y), w2 = pair_to_f32<W>(w.z), w3 = pair_to_f32<W>(w.w);
    return (w0.x * a.x + w0.y * a.y) + (w1.x * a.z + w1.y * a.w) + ((w2.x * b.x + w2.y * b.y) + (w3.x * b.z + w3.y * b.w));
}

// The row of a warp's unit.
template <typename W>
__device__ __forceinline__ const W *row_of(const Segments<W> &s, int unit, u64 k, int is_gate, int half) {
    if (is_gate)
        return (half ? s.w[1] : s.w[0]) + unit * k;
    int begin = unit < s.end[0] ? 0 : unit < s.end[1] ? s.end[0] : s.end[1];
    const W *w = unit < s.end[0] ? s.w[0] : unit < s.end[1] ? s.w[1] : s.w[2];
    return w + (unit - begin) * k;
}

// The bias of a warp's unit, or of the other half of a gate.
template <typename W> __device__ __forceinline__ float bias_of(const Segments<W> &s, int unit, int is_gate, int half) {
    if (is_gate) {
        const float *bias = half ? s.bias[1] : s.bias[0];
        return bias ? bias[unit] : 0.0f;
    }
    int begin = unit < s.end[0] ? 0 : unit < s.end[1] ? s.end[0] : s.end[1];
    const float *bias = unit < s.end[0] ? s.bias[0] : unit < s.end[1] ? s.bias[1] : s.bias[2];
    return bias && !half ? bias[unit - begin] : 0.0f;
}

template <typename W>
__device__ void gemv(const Row &x, Segments<W> s, int is_gate, int kind, const void *residual, int residual_type, int y_type) {
    extern __shared__ __align__(16) float xs[];
    __shared__ float scratch[32];
    let_next_start();
    const int COUNT = Lanes<W>::count;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int k = x.k, rows = s.end[2], pieces = k / COUNT, step = gridDim.x * WARPS;
    // Where the lanes of a warp, each reading 8 neighbours in 16-byte pieces, hit all banks: the last four of every eight
    // neighbours of x lie behind the first four of all.
    const int half_row = (k + 7) / 8 * 4;
    // Neighbouring warps of different blocks take neighbouring rows: all multiprocessors finish together.
    int unit = warp * gridDim.x + blockIdx.x, half = 0, piece = lane;
    const uint4 zero = make_uint4(0, 0, 0, 0);
    uint4 next[BATCH];
    const W *row = row_of(s, min(unit, rows - 1), k, is_gate, 0);
#pragma unroll
    for (int i = 0; i < BATCH; i++)
        next[i] = unit < rows && piece + 32 * i < pieces ? load_stream(row + (piece + 32 * i) * COUNT) : zero;
    expect_row(x);
    // What is added to a row's sum is requested a row ahead, too.
    float bias = unit < rows ? bias_of(s, unit, is_gate, 0) : 0.0f, up_bias = unit < rows ? bias_of(s, unit, is_gate, 1) : 0.0f;
    wait_for_previous();
    float added = residual && unit < rows ? load_one(residual, residual_type, unit) : 0.0f;
    stage_row<4>(x, half_row * 2, scratch, [&](int i, const float *v) {
        const int low = COUNT == 4 ? i : i / 2, high = COUNT == 4 ? i + 4 : i / 2 + half_row;
        *(float4 *)(xs + low) = make_float4(v[0], v[1], v[2], v[3]);
        *(float4 *)(xs + high) = make_float4(v[4], v[5], v[6], v[7]);
    });
    __syncthreads();
    float sum = 0, gate_sum = 0;
    while (unit < rows) {
        uint4 now[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; i++)
            now[i] = next[i];
        int at = piece;
        // Where the next pieces come from: further along the row, the other half of the gate, or another row.
        piece += 32 * BATCH;
        bool is_last = piece - lane >= pieces;
        int next_unit = unit, next_half = half;
        if (is_last) {
            piece = lane;
            next_half = is_gate && half == 0;
            next_unit = next_half ? unit : unit + step;
            row = row_of(s, min(next_unit, rows - 1), k, is_gate, next_half);
        }
#pragma unroll
        for (int i = 0; i < BATCH; i++)
            next[i] = next_unit < rows && piece + 32 * i < pieces ? load_stream(row + (piece + 32 * i) * COUNT) : zero;
#pragma unroll
        for (int i = 0; i < BATCH; i++)
            if (at + 32 * i < pieces)
                sum += dot(now[i], xs, at + 32 * i, k, W());
        if (is_last) {
            float total = warp_sum(sum);
            sum = 0;
            if (is_gate && half == 0) {
                gate_sum = total;
            } else {
                if (lane == 0 && is_gate) {
                    store_one(s.y[0], y_type, unit, activation(kind, gate_sum + bias) * (total + up_bias));
                } else if (lane == 0) {
                    int begin = unit < s.end[0] ? 0 : unit < s.end[1] ? s.end[0] : s.end[1];
                    void *y = unit < s.end[0] ? s.y[0] : unit < s.end[1] ? s.y[1] : s.y[2];
                    store_one(y, y_type, unit - begin, activation(kind, total + bias) + added);
                }
                if (next_unit < rows) {
                    bias = bias_of(s, next_unit, is_gate, 0);
                    up_bias = bias_of(s, next_unit, is_gate, 1);
                    added = residual ? load_one(residual, residual_type, next_unit) : 0.0f;
                }
            }
        }
        unit = next_unit;
        half = next_half;
    }
}

// n0, n1, n2 count rows of each matrix; absent ones have none. With is_gate there are two of n0 rows each:
// y0 = f(w0 x) * (w1 x).
#define GEMV(NAME, W)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(WARPS * 32, 2)                                                        \
        NAME(const void *x, int type, int k, int norm_kind, const float *gain, const float *shift, float eps,          \
             const W *w0, const float *bias0, void *y0, int n0, const W *w1, const float *bias1, void *y1, int n1,     \
             const W *w2, const float *bias2, void *y2, int n2, int is_gate, int kind, const void *residual,           \
             int residual_type, int y_type) {                                                                          \
        Row row = {x, type, k, norm_kind, gain, shift, eps, NOT_ROUNDED, 0};                                           \
        Segments<W> s = {{w0, w1, w2},                                                                                 \
                         {bias0, bias1, bias2},                                                                        \
                         {y0, y1, y2},                                                                                 \
                         {n0, is_gate ? n0 : n0 + n1, is_gate ? n0 : n0 + n1 + n2}};                                   \
        gemv<W>(row, s, is_gate, kind, residual, residual_type, y_type);                                               \
    }
GEMV(gemv_f32, float)
GEMV(gemv_f16, f16)
GEMV(gemv_bf16, bf16)
