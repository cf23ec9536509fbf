// Copies, sums and means of rows: embedding, selection, pooling, element-wise functions, argmax. All bound by memory.

// y [rows, k] = table[ids]. One block per row. An index behind the table reads its last row: the host checks indices,
// this only keeps the device's memory safe.
template <typename W>
__device__ void embed(const W *table, const u32 *ids, int n, int k, float *y) {
    let_next_start();
    wait_for_previous();
    u64 row = min(ids[blockIdx.x], (u32)(n - 1));
    for (int i = threadIdx.x; i < k; i += blockDim.x)
        y[(u64)blockIdx.x * k + i] = to_f32(table[row * k + i]);
}
extern "C" __global__ void embed_f32(const float *table, const u32 *ids, int n, int k, float *y) {
    embed(table, ids, n, k, y);
}
extern "C" __global__ void embed_f16(const f16 *table, const u32 *ids, int n, int k, float *y) {
    embed(table, ids, n, k, y);
}
extern "C" __global__ void embed_bf16(const bf16 *table, const u32 *ids, int n, int k, float *y) {
    embed(table, ids, n, k, y);
}

// y [count, k] = x[indices].
extern "C" __global__ void select_rows(const float *x, int stride, const u32 *indices, int rows, int k, float *y) {
    let_next_start();
    wait_for_previous();
    u64 row = min(indices[blockIdx.x], (u32)(rows - 1));
    for (int i = threadIdx.x; i < k; i += blockDim.x)
        y[(u64)blockIdx.x * k + i] = x[row * stride + i];
}

// y [batch, k]: the mean over the visible tokens of each sequence; one thread per element, tokens in order.
extern "C" __global__ void mean_pool(const float *x, int stride, int tokens, int k, const u8 *mask, float *y) {
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
        sum += x[((u64)b * tokens + t) * stride + i];
        visible++;
    }
    y[(u64)b * k + i] = sum / max(visible, 1);
}

// y [rows, cols] = f(x).
extern "C" __global__ void activate(const float *x, int stride, int rows, int cols, int kind, float *y) {
    let_next_start();
    wait_for_previous();
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (u64)rows * cols)
        return;
    u64 r = i / cols;
    y[i] = activation(kind, x[r * stride + (i - r * cols)]);
}

// y [rows, cols] = f(gate) * up.
extern "C" __global__ void gate(const float *gate, int gate_stride, const float *up, int up_stride, int rows, int cols,
                                int kind, float *y) {
    let_next_start();
    wait_for_previous();
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (u64)rows * cols)
        return;
    u64 r = i / cols, c = i - r * cols;
    y[i] = activation(kind, gate[r * gate_stride + c]) * up[r * up_stride + c];
}

// y [rows, cols] = a + b.
extern "C" __global__ void add(const float *a, int a_stride, const float *b, int b_stride, int rows, int cols,
                               float *y) {
    let_next_start();
    wait_for_previous();
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (u64)rows * cols)
        return;
    u64 r = i / cols, c = i - r * cols;
    y[i] = a[r * a_stride + c] + b[r * b_stride + c];
}

// Rounds x [rows, k] to 16 bits, packed. k is even, one thread per pair.
template <typename T> __device__ void round_rows(const float *x, int stride, int rows, int k, u32 *y) {
    let_next_start();
    wait_for_previous();
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    int pairs = k / 2;
    if (i >= (u64)rows * pairs)
        return;
    u64 r = i / pairs, c = (i - r * pairs) * 2;
    const float *at = x + r * stride + c;
    y[i] = pair_from_f32<T>(at[0], at[1]);
}
extern "C" __global__ void round_rows_f16(const float *x, int stride, int rows, int k, u32 *y) {
    round_rows<f16>(x, stride, rows, k, y);
}
extern "C" __global__ void round_rows_bf16(const float *x, int stride, int rows, int k, u32 *y) {
    round_rows<bf16>(x, stride, rows, k, y);
}

// index [rows]: the largest element of each row of x [rows, n]; the first one wins ties, NaN never wins.
extern "C" __global__ void argmax(const float *x, int stride, int n, u32 *index) {
    __shared__ float best[32];
    __shared__ u32 at[32];
    let_next_start();
    wait_for_previous();
    const float *row = x + (u64)blockIdx.x * stride;
    float value = __int_as_float(0xff800000);
    u32 where = 0xffffffffu;
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        if (row[i] > value || (where == 0xffffffffu && row[i] == row[i])) {
            value = row[i];
            where = i;
        }
    for (int mask = 16; mask > 0; mask >>= 1) {
        float other = __shfl_xor_sync(0xffffffffu, value, mask);
        u32 other_at = __shfl_xor_sync(0xffffffffu, where, mask);
        if (other > value || (other == value && other_at < where)) {
            value = other;
            where = other_at;
        }
    }
    if (threadIdx.x % 32 == 0) {
        best[threadIdx.x / 32] = value;
        at[threadIdx.x / 32] = where;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 1; w < (int)blockDim.x / 32; w++)
            if (best[w] > value || (best[w] == value && at[w] < where)) {
                value = best[w];
                where = at[w];
            }
        index[blockIdx.x] = where == 0xffffffffu ? 0 : where;
    }
}
