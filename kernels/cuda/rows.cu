// Copies, sums and means of rows: embedding, selection, pooling, element-wise functions. All bound by memory.

// y [rows, k] = table[ids]. One block per row. An index behind the table reads its last row: the host checks indices,
// this only keeps the device's memory safe.
extern "C" __global__ void embed(const void *table, int table_type, const u32 *ids, int n, int k, void *y, int y_type) {
    let_next_start();
    wait_for_previous();
    u64 from = (u64)min(ids[blockIdx.x], (u32)(n - 1)) * k, to = (u64)blockIdx.x * k;
    const bool is_aligned = are_rows_aligned(table, k) && are_rows_aligned(y, k);
    for (int i = threadIdx.x * 8; i < k; i += blockDim.x * 8) {
        float v[8];
        load_eight(v, table, table_type, from + i, k - i, is_aligned);
        store_eight(v, y, y_type, to + i, k - i, is_aligned);
    }
}

// y [count, k] = x[indices].
extern "C" __global__ void select_rows(const void *x, int type, int stride, const u32 *indices, int rows, int k,
                                       void *y, int y_type) {
    let_next_start();
    wait_for_previous();
    u64 row = min(indices[blockIdx.x], (u32)(rows - 1));
    for (int i = threadIdx.x; i < k; i += blockDim.x)
        store_one(y, y_type, (u64)blockIdx.x * k + i, load_one(x, type, row * stride + i));
}

// y [batch, k]: the mean over the visible tokens of each sequence; one thread per element, tokens in order.
extern "C" __global__ void mean_pool(const void *x, int type, int stride, int tokens, int k, const u8 *mask, void *y,
                                     int y_type) {
    let_next_start();
    wait_for_previous();
    int b = blockIdx.y, i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= k)
        return;
    float sum = 0;
    int visible = 0;
    for (int t = 0; t < tokens; t++) {
        if (mask && !mask[(u64)b * tokens + t])
            continue;
        sum += load_one(x, type, ((u64)b * tokens + t) * stride + i);
        visible++;
    }
    store_one(y, y_type, (u64)b * k + i, sum / max(visible, 1));
}

// Eight elements of a row per thread: where they lie, and how many there are.
struct Eighth {
    u64 row;
    int col, count;
};
__device__ __forceinline__ bool find_eighth(Eighth &at, int rows, int cols) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    int pieces = (cols + 7) / 8;
    at.row = i / pieces;
    at.col = (int)(i - at.row * pieces) * 8;
    at.count = min(cols - at.col, 8);
    return at.row < (u64)rows;
}

// y [rows, cols] = f(x); without a function it copies and rounds.
extern "C" __global__ void activate(const void *x, int type, int stride, int rows, int cols, int kind, void *y,
                                    int y_type, int y_stride) {
    let_next_start();
    wait_for_previous();
    Eighth at;
    if (!find_eighth(at, rows, cols))
        return;
    float v[8];
    load_eight(v, x, type, at.row * stride + at.col, at.count, are_rows_aligned(x, stride));
    activate_eight(kind, v);
    // Padding between rows that are not whole eighths becomes zero.
    store_eight(v, y, y_type, at.row * y_stride + at.col, min(8, y_stride - at.col), are_rows_aligned(y, y_stride));
}

// y [rows, cols] = f(gate) * up.
extern "C" __global__ void gate(const void *gate, int gate_type, int gate_stride, const void *up, int up_type,
                                int up_stride, int rows, int cols, int kind, void *y, int y_type) {
    let_next_start();
    wait_for_previous();
    Eighth at;
    if (!find_eighth(at, rows, cols))
        return;
    float v[8], factor[8];
    load_eight(v, gate, gate_type, at.row * gate_stride + at.col, at.count, are_rows_aligned(gate, gate_stride));
    load_eight(factor, up, up_type, at.row * up_stride + at.col, at.count, are_rows_aligned(up, up_stride));
    activate_eight(kind, v);
#pragma unroll
    for (int i = 0; i < 8; i++)
        v[i] *= factor[i];
    store_eight(v, y, y_type, at.row * cols + at.col, at.count, are_rows_aligned(y, cols));
}

// y [rows, cols] = a + b.
extern "C" __global__ void add(const void *a, int a_type, int a_stride, const void *b, int b_type, int b_stride,
                               int rows, int cols, void *y, int y_type) {
    let_next_start();
    wait_for_previous();
    Eighth at;
    if (!find_eighth(at, rows, cols))
        return;
    float v[8];
    load_eight(v, a, a_type, at.row * a_stride + at.col, at.count, are_rows_aligned(a, a_stride));
    add_eight(v, b, b_type, at.row * b_stride + at.col, at.count, are_rows_aligned(b, b_stride));
    store_eight(v, y, y_type, at.row * cols + at.col, at.count, are_rows_aligned(y, cols));
}

// out [blocks]: a sum that nobody needs, so that all of x is read: what memory can deliver.
extern "C" __global__ void __launch_bounds__(256) read_all(const float4 *x, int pieces, float *out) {
    __shared__ float scratch[32];
    float sum = 0;
    const int step = gridDim.x * blockDim.x;
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    for (; i + 3 * step < pieces; i += 4 * step) {
        uint4 v[4];
#pragma unroll
        for (int j = 0; j < 4; j++)
            v[j] = load_stream(x + i + j * step);
#pragma unroll
        for (int j = 0; j < 4; j++)
            sum += __uint_as_float(v[j].x) + __uint_as_float(v[j].y) + __uint_as_float(v[j].z) + __uint_as_float(v[j].w);
    }
    for (; i < pieces; i += step)
        sum += x[i].x;
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0)
        out[blockIdx.x] = sum;
}
