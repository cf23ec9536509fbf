// LayerNorm and RMSNorm, one block per row. A thread keeps its first elements in registers; rows longer than that are
// read again from the first-level cache: the variance is that of centred values, which cancels nothing.

#define KEPT 2

extern "C" __global__ void normalise(const void *x, int x_type, int stride, int k, int is_layer, const float *weight,
                                     const float *bias, float eps, void *y, int y_type) {
    __shared__ float scratch[32];
    let_next_start();
    wait_for_previous();
    const u64 row = (u64)blockIdx.x * stride;
    const bool is_aligned = are_rows_aligned(x, stride), is_packed = are_rows_aligned(y, k);
    const int step = blockDim.x * 8;
    float kept[KEPT][8], other[8];
    float sum = 0;
#pragma unroll
    for (int j = 0; j < KEPT; j++) {
        int i = threadIdx.x * 8 + j * step;
        load_eight(kept[j], x, x_type, row + i, k - i, is_aligned);
#pragma unroll
        for (int e = 0; e < 8; e++)
            sum += kept[j][e];
    }
    float mean = 0;
    if (is_layer) {
        for (int i = threadIdx.x * 8 + KEPT * step; i < k; i += step) {
            load_eight(other, x, x_type, row + i, k - i, is_aligned);
#pragma unroll
            for (int e = 0; e < 8; e++)
                sum += other[e];
        }
        mean = block_sum(sum, scratch) / k;
    }
    float squares = 0;
    auto add_squares = [&](const float *v, int i) {
#pragma unroll
        for (int e = 0; e < 8; e++)
            squares += i + e < k ? (v[e] - mean) * (v[e] - mean) : 0.0f;
    };
#pragma unroll
    for (int j = 0; j < KEPT; j++)
        add_squares(kept[j], threadIdx.x * 8 + j * step);
    for (int i = threadIdx.x * 8 + KEPT * step; i < k; i += step) {
        load_eight(other, x, x_type, row + i, k - i, is_aligned);
        add_squares(other, i);
    }
    const float inverse = 1.0f / sqrtf(block_sum(squares, scratch) / k + eps);
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
        store_eight(v, y, y_type, (u64)blockIdx.x * k + i, k - i, is_packed);
    };
#pragma unroll
    for (int j = 0; j < KEPT; j++)
        write(kept[j], threadIdx.x * 8 + j * step);
    for (int i = threadIdx.x * 8 + KEPT * step; i < k; i += step) {
        load_eight(other, x, x_type, row + i, k - i, is_aligned);
        write(other, i);
    }
}
