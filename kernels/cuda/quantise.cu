// Rows of activations rounded to eight bits, each with its own scale or all with one: one block per row.

// to: 0 codes of eight bits, 1 their values in halves. y has `y_stride` elements a row; those beyond k become zero.
extern "C" __global__ void quantise_rows(const void *x, int type, int stride, int k, int rounding, float given, int to,
                                         void *y, int y_stride, float *scales) {
    __shared__ float scratch[32];
    let_next_start();
    wait_for_previous();
    const u64 row = (u64)blockIdx.x * stride;
    const bool is_aligned = are_rows_aligned(x, stride);
    float v[8], largest = 0;
    if (given <= 0) {
        for (int i = threadIdx.x * 8; i < k; i += blockDim.x * 8) {
            load_eight(v, x, type, row + i, k - i, is_aligned);
#pragma unroll
            for (int e = 0; e < 8; e++)
                largest = fmaxf(largest, fabsf(v[e]));
        }
        largest = block_max(largest, scratch);
    }
    const float scale = scale_of_row(largest, rounding, given), inverse = 1.0f / scale;
    if (threadIdx.x == 0)
        scales[blockIdx.x] = scale;
    for (int i = threadIdx.x * 8; i < y_stride; i += blockDim.x * 8) {
        load_eight(v, x, type, row + i, k - i, is_aligned);
#pragma unroll
        for (int e = 0; e < 8; e++)
            v[e] = round_input(v[e], inverse, rounding);
        const u64 at = (u64)blockIdx.x * y_stride + i;
        if (to == 1) {
            store_eight(v, y, IS_F16, at, 8, true);
            continue;
        }
        store_codes(v, rounding, (u8 *)y + at);
    }
}
