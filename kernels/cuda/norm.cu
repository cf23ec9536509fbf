// LayerNorm and RMSNorm, a block per row. A thread keeps its first elements in registers, all of them on their way from memory
// at once; rows longer than that are read again from the first-level cache: the variance is that of centred values, which
// cancels nothing.

// Times eight elements that a thread keeps; the same number as on the host.
#define KEPT 4

// What a row is normalised to, and what of it is left.
struct Norm {
    int k, is_layer;
    const float *weight, *bias;
    float eps;
    void *y;
    int y_type;
};

// Where the row's codes go: `pitch` of them, those beyond its end zero.
struct Codes {
    int rounding;
    float given;
    u8 *row;
    int pitch;
    float *scale;
};

// A row's elements that no thread keeps, up to `to`, as `use(first, elements)`; those from k on are zero.
template <bool IS_WIDE, typename USE>
__device__ __forceinline__ void each_other(const void *row, int x_type, bool is_whole, int k, int to, USE use) {
    for (int first = KEPT * blockDim.x * 8; first + (int)threadIdx.x * 8 < to; first += blockDim.x * 8) {
        Eights<IS_WIDE, 1> some;
        some.load(row, x_type, first, k, is_whole);
        float v[8];
        some.get(0, x_type, v);
        use(first + threadIdx.x * 8, v);
    }
}

// Whatever is not there as whole 16-byte pieces of 16-bit elements is IS_WIDE. LEAVES_CODES: of what y holds, or would hold,
// which is why numbers are rounded to its type first; without a y nobody else reads them.
template <bool IS_WIDE, bool LEAVES_CODES>
__device__ __forceinline__ void normalise_as(const void *row, int x_type, bool is_whole, const Norm &norm,
                                             const Codes &codes) {
    __shared__ float scratch[32];
    const int own = threadIdx.x * 8, step = blockDim.x * 8, k = norm.k;
    const bool is_packed = are_rows_aligned(norm.y, k);
    Eights<IS_WIDE, KEPT> raw;
    raw.load(row, x_type, 0, k, is_whole);
    float kept[KEPT][8];
#pragma unroll
    for (int j = 0; j < KEPT; j++)
        raw.get(j, x_type, kept[j]);
    float mean = 0;
    if (norm.is_layer) {
        float sum = 0;
        auto add = [&](int, const float *v) {
#pragma unroll
            for (int e = 0; e < 8; e++)
                sum += v[e];
        };
#pragma unroll
        for (int j = 0; j < KEPT; j++)
            add(own + j * step, kept[j]);
        each_other<IS_WIDE>(row, x_type, is_whole, k, k, add);
        mean = block_sum(sum, scratch) / k;
    }
    float squares = 0;
    auto add_squares = [&](int i, const float *v) {
#pragma unroll
        for (int e = 0; e < 8; e++)
            squares += i + e < k ? (v[e] - mean) * (v[e] - mean) : 0.0f;
    };
#pragma unroll
    for (int j = 0; j < KEPT; j++)
        add_squares(own + j * step, kept[j]);
    each_other<IS_WIDE>(row, x_type, is_whole, k, k, add_squares);
    const float inverse = 1.0f / sqrtf(block_sum(squares, scratch) / k + norm.eps);
    auto normalise = [&](int i, float *v) {
        float gain[8], shift[8] = {};
        load_eight(gain, norm.weight, IS_F32, i, k - i, true);
        if (norm.bias)
            load_eight(shift, norm.bias, IS_F32, i, k - i, true);
#pragma unroll
        for (int e = 0; e < 8; e++)
            v[e] = (v[e] - mean) * inverse * gain[e] + shift[e];
    };
    auto write = [&](int i, const float *v) {
        store_eight(v, norm.y, norm.y_type, (u64)blockIdx.x * k + i, k - i, is_packed);
    };
    if (!LEAVES_CODES) {
        auto normalise_and_write = [&](int i, float *v) {
            if (i >= k)
                return;
            normalise(i, v);
            write(i, v);
        };
#pragma unroll
        for (int j = 0; j < KEPT; j++)
            normalise_and_write(own + j * step, kept[j]);
        each_other<IS_WIDE>(row, x_type, is_whole, k, k, normalise_and_write);
        return;
    }
    // As y's type has them, and zero beyond the row's end.
    auto make = [&](int i, float *v) {
        if (i >= k)
            return;
        normalise(i, v);
#pragma unroll
        for (int e = 0; e < 8; e += 2) {
            float2 pair = make_float2(v[e], v[e + 1]);
            if (norm.y_type != IS_F32)
                pair = unpack_pair(pack_pair(norm.y_type, v[e], v[e + 1]), norm.y_type);
            v[e] = i + e < k ? pair.x : 0.0f;
            v[e + 1] = i + e + 1 < k ? pair.y : 0.0f;
        }
    };
#pragma unroll
    for (int j = 0; j < KEPT; j++)
        make(own + j * step, kept[j]);
    float largest = 0;
    if (codes.given <= 0) {
        auto compare = [&](const float *v) {
#pragma unroll
            for (int e = 0; e < 8; e++)
                largest = fmaxf(largest, fabsf(v[e]));
        };
#pragma unroll
        for (int j = 0; j < KEPT; j++)
            compare(kept[j]);
        each_other<IS_WIDE>(row, x_type, is_whole, k, k, [&](int i, float *v) {
            make(i, v);
            compare(v);
        });
        largest = block_max(largest, scratch);
    }
    const float scale = scale_of_row(largest, codes.rounding, codes.given), inverse_scale = 1.0f / scale;
    if (threadIdx.x == 0)
        *codes.scale = scale;
    auto leave = [&](int i, float *v) {
        if (norm.y && i < k)
            write(i, v);
        if (i >= codes.pitch)
            return;
#pragma unroll
        for (int e = 0; e < 8; e++)
            v[e] = round_input(v[e], inverse_scale, codes.rounding);
        store_codes(v, codes.rounding, codes.row + i);
    };
#pragma unroll
    for (int j = 0; j < KEPT; j++)
        leave(own + j * step, kept[j]);
    each_other<IS_WIDE>(row, x_type, is_whole, k, codes.pitch, [&](int i, float *v) {
        make(i, v);
        leave(i, v);
    });
}

template <bool LEAVES_CODES>
__device__ __forceinline__ void normalise_row(const void *x, int x_type, int stride, const Norm &norm, const Codes &codes) {
    let_next_start();
    // What no kernel writes is brought near before waiting for x.
    for (int i = threadIdx.x * 8; i < norm.k; i += blockDim.x * 8) {
        touch(norm.weight + i);
        if (norm.bias)
            touch(norm.bias + i);
    }
    wait_for_previous();
    const void *row = (const u8 *)x + (u64)blockIdx.x * stride * (x_type == IS_F32 ? 4 : 2);
    const bool is_whole = norm.k % 8 == 0 && are_rows_aligned(x, stride);
    if (x_type == IS_F32 || !is_whole)
        normalise_as<true, LEAVES_CODES>(row, x_type, is_whole && x_type == IS_F32, norm, codes);
    else
        normalise_as<false, LEAVES_CODES>(row, x_type, true, norm, codes);
}

extern "C" __global__ void normalise(const void *x, int x_type, int stride, int k, int is_layer, const float *weight,
                                     const float *bias, float eps, void *y, int y_type) {
    normalise_row<false>(x, x_type, stride, Norm{k, is_layer, weight, bias, eps, y, y_type}, Codes{});
}

// The same bits as `normalise` and then `quantise_rows` leave. y may be null: nobody reads it.
extern "C" __global__ void normalise_and_round(const void *x, int x_type, int stride, int k, int is_layer,
                                               const float *weight, const float *bias, float eps, void *y, int y_type,
                                               int rounding, float given, u8 *codes, int pitch, float *scales) {
    const Codes to = {rounding, given, codes + (u64)blockIdx.x * pitch, pitch, scales + blockIdx.x};
    normalise_row<true>(x, x_type, stride, Norm{k, is_layer, weight, bias, eps, y, y_type}, to);
}
