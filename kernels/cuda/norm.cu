// LayerNorm and RMSNorm, a block per row. A thread keeps its first elements in registers, all of them on their way from memory
// at once; rows longer than that are read again from the first-level cache: the variance is that of centred values, which
// cancels nothing.

// Times eight elements that a thread keeps; the same number as on the host.
#define KEPT 4

// A row's elements that no thread keeps, as `use(first, elements)`.
template <bool IS_WIDE, typename USE>
__device__ __forceinline__ void each_other(const void *row, int x_type, bool is_whole, int k, USE use) {
    for (int first = KEPT * blockDim.x * 8; first + (int)threadIdx.x * 8 < k; first += blockDim.x * 8) {
        Eights<IS_WIDE, 1> some;
        some.load(row, x_type, first, k, is_whole);
        float v[8];
        some.get(0, x_type, v);
        use(first + threadIdx.x * 8, v);
    }
}

// Whatever is not there as whole 16-byte pieces of 16-bit elements is IS_WIDE.
template <bool IS_WIDE>
__device__ __forceinline__ void normalise_as(const void *row, int x_type, bool is_whole, int k, int is_layer,
                                             const float *weight, const float *bias, float eps, void *y, int y_type) {
    __shared__ float scratch[32];
    const int own = threadIdx.x * 8, step = blockDim.x * 8;
    const bool is_packed = are_rows_aligned(y, k);
    Eights<IS_WIDE, KEPT> raw;
    raw.load(row, x_type, 0, k, is_whole);
    float kept[KEPT][8];
#pragma unroll
    for (int j = 0; j < KEPT; j++)
        raw.get(j, x_type, kept[j]);
    float mean = 0;
    if (is_layer) {
        float sum = 0;
        auto add = [&](int, const float *v) {
#pragma unroll
            for (int e = 0; e < 8; e++)
                sum += v[e];
        };
#pragma unroll
        for (int j = 0; j < KEPT; j++)
            add(own + j * step, kept[j]);
        each_other<IS_WIDE>(row, x_type, is_whole, k, add);
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
    each_other<IS_WIDE>(row, x_type, is_whole, k, add_squares);
    const float inverse = 1.0f / sqrtf(block_sum(squares, scratch) / k + eps);
    auto write = [&](int i, float *v) {
        if (i >= k)
            return;
        float gain[8], shift[8] = {};
        load_eight(gain, weight, IS_F32, i, k - i, true);
        if (bias)
            load_eight(shift, bias, IS_F32, i, k - i, true);
#pragma unroll
        for (int e = 0; e < 8; e++)
            v[e] = (v[e] - mean) * inverse * gain[e] + shift[e];
        store_eight(v, y, y_type, (u64)blockIdx.x * k + i, k - i, is_packed);
    };
#pragma unroll
    for (int j = 0; j < KEPT; j++)
        write(own + j * step, kept[j]);
    each_other<IS_WIDE>(row, x_type, is_whole, k, write);
}

extern "C" __global__ void normalise(const void *x, int x_type, int stride, int k, int is_layer, const float *weight,
                                     const float *bias, float eps, void *y, int y_type) {
    let_next_start();
    // What no kernel writes is brought near before waiting for x.
    for (int i = threadIdx.x * 8; i < k; i += blockDim.x * 8) {
        touch(weight + i);
        if (bias)
            touch(bias + i);
    }
    wait_for_previous();
    const void *row = (const u8 *)x + (u64)blockIdx.x * stride * (x_type == IS_F32 ? 4 : 2);
    const bool is_whole = k % 8 == 0 && are_rows_aligned(x, stride);
    if (x_type == IS_F32 || !is_whole)
        normalise_as<true>(row, x_type, is_whole && x_type == IS_F32, k, is_layer, weight, bias, eps, y, y_type);
    else
        normalise_as<false>(row, x_type, true, k, is_layer, weight, bias, eps, y, y_type);
}
