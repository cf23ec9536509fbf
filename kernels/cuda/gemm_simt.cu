// y [m, n] = x [m, k] w [n, k]^T + bias, in f32 arithmetic whatever the weights: for f32 models, and for shapes that
// the tensor cores' loads do not fit. Tiles of 64 x 64 x 16, 16 results a thread.

#define TILE_M 64
#define TILE_N 64
#define TILE_K 16
#define PITCH (TILE_M + 4)

template <typename W>
__device__ void gemm(const void *x, int x_type, int stride, int m, int k, const W *w, int n, const float *bias, int kind,
                     const void *residual, int residual_type, int residual_stride, void *y, int y_type) {
    __shared__ __align__(16) float xs[TILE_K][PITCH];
    __shared__ __align__(16) float ws[TILE_K][PITCH];
    let_next_start();
    wait_for_previous();
    const int row = blockIdx.y * TILE_M, col = blockIdx.x * TILE_N;
    const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
    float sums[4][4] = {};
    for (int base = 0; base < k; base += TILE_K) {
        // 16 threads read 16 neighbours along k of one row.
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int r = ty + 16 * i, c = base + tx;
            xs[tx][r] = row + r < m && c < k ? load_one(x, x_type, (u64)(row + r) * stride + c) : 0.0f;
            ws[tx][r] = col + r < n && c < k ? to_f32(w[(u64)(col + r) * k + c]) : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int p = 0; p < TILE_K; p++) {
            float4 a = *(const float4 *)&xs[p][ty * 4], b = *(const float4 *)&ws[p][tx * 4];
            float as[4] = {a.x, a.y, a.z, a.w}, bs[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    sums[i][j] += as[i] * bs[j];
        }
        __syncthreads();
    }
    // Two rows at a time, so that activations are expanded twice only.
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        float v[8];
#pragma unroll
        for (int j = 0; j < 8; j++) {
            int c = col + tx * 4 + j % 4;
            v[j] = sums[i + j / 4][j % 4] + (bias && c < n ? bias[c] : 0.0f);
        }
        activate_eight(kind, v);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            int r = row + ty * 4 + i + j / 4, c = col + tx * 4 + j % 4;
            if (r < m && c < n) {
                if (residual)
                    v[j] += load_one(residual, residual_type, (u64)r * residual_stride + c);
                store_one(y, y_type, (u64)r * n + c, v[j]);
            }
        }
    }
}
#define GEMM(NAME, W)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        NAME(const void *x, int x_type, int stride, int m, int k, const W *w, int n, const float *bias, int kind,      \
             const void *residual, int residual_type, int residual_stride, void *y, int y_type) {                      \
        gemm(x, x_type, stride, m, k, w, n, bias, kind, residual, residual_type, residual_stride, y, y_type);          \
    }
GEMM(gemm_simt_f32, float)
GEMM(gemm_simt_f16, f16)
GEMM(gemm_simt_bf16, bf16)
