// LayerNorm and RMSNorm, a block or, of short rows, a warp per row. A thread keeps its first elements in registers; rows longer
// than that are read again from the first-level cache: the variance is that of centred values, which cancels nothing.

template <int KEPT, bool IS_SHORT>
__device__ __forceinline__ void normalise_row(const void *x, int x_type, int stride, int rows, int k, int is_layer,
                                              const float *weight, const float *bias, float eps, void *y, int y_type) {
    __shared__ float scratch[32];
    const int index = IS_SHORT ? blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32 : blockIdx.x;
    const int thread = IS_SHORT ? threadIdx.x % 32 : threadIdx.x, step = (IS_SHORT ? 32 : blockDim.x) * 8;
    let_next_start();
    wait_for_previous();
    if (index >= rows)
        return;
    const u64 row = (u64)index * stride;
    const bool is_aligned = are_rows_aligned(x, stride), is_packed = are_rows_aligned(y, k);
    auto total = [&](float part) { return IS_SHORT ? warp_sum(part) : block_sum(part, scratch); };
    float kept[KEPT][8], other[8];
    float sum = 0;
#pragma unroll
    for (int j = 0; j < KEPT; j++) {
        int i = thread * 8 + j * step;
        load_eight(kept[j], x, x_type, row + i, k - i, is_aligned);
#pragma unroll
        for (int e = 0; e < 8; e++)
            sum += kept[j][e];
    }
    float mean = 0;
    if (is_layer) {
        for (int i = thread * 8 + KEPT * step; i < k; i += step) {
            load_eight(other, x, x_type, row + i, k - i, is_aligned);
#pragma unroll
            for (int e = 0; e < 8; e++)
                sum += other[e];
        }
        mean = total(sum) / k;
    }
    float squares = 0;
    auto add_squares = [&](const float *v, int i) {
#pragma unroll
        for (int e = 0; e < 8; e++)
            squares += i + e < k ? (v[e] - mean) * (v[e] - mean) : 0.0f;
    };
#pragma unroll
    for (int j = 0; j < KEPT; j++)
        add_squares(kept[j], thread * 8 + j * step);
    for (int i = thread * 8 + KEPT * step; i < k; i += step) {
        load_eight(other, x, x_type, row + i, k - i, is_aligned);
        add_squares(other, i);
    }
    const float inverse = 1.0f / sqrtf(total(squares) / k + eps);
    auto write = [&](float *v, int i) {
        if (i >= k)
            return;
        float gain[8], shift[8] = {};
        load_eight(gain, weight, IS_F32, i, k - i, true);
        if (bias)
            load_eight(shift, bias, IS_F32, i, k - i, true);
#pragma unroll
        for (int e = 0; e < 8; e++)
            v[e] = (v[e] - mean) * inverse * gain[e] + shift[e];
        store_eight(v, y, y_type, (u64)index * k + i, k - i, is_packed);
    };
#pragma unroll
    for (int j = 0; j < KEPT; j++)
        write(kept[j], thread * 8 + j * step);
    for (int i = thread * 8 + KEPT * step; i < k; i += step) {
        load_eight(other, x, x_type, row + i, k - i, is_aligned);
        write(other, i);
    }
}

#define NORMALISE(NAME, KEPT, IS_SHORT)                                                                                \
    extern "C" __global__ void NAME(const void *x, int x_type, int stride, int rows, int k, int is_layer,              \
                                    const float *weight, const float *bias, float eps, void *y, int y_type) {          \
        normalise_row<KEPT, IS_SHORT>(x, x_type, stride, rows, k, is_layer, weight, bias, eps, y, y_type);             \
    }
NORMALISE(normalise, 2, false)
// Up to 1024 elements.
NORMALISE(normalise_short, 4, true)
