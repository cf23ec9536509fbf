// y [m, n] = x [m, k] w [n, k]^T + bias on tensor cores with mma.sync: 16-bit operands, f32 sums.
//
// Tiles of 32 along k arrive in shared memory by cp.async, several in flight; rows of 64 bytes are swizzled in 16-byte
// pieces so that ldmatrix meets no bank twice. k is a multiple of 8, m and n are anything.

#define TILE_K 32

__device__ __forceinline__ u32 shared_address(const void *pointer) { return (u32)__cvta_generic_to_shared(pointer); }

// 16 bytes into shared memory, zeros where there is nothing to copy.
__device__ __forceinline__ void copy16(u16 *to, const u16 *from, bool exists) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(exists ? 16 : 0));
#else
    *(uint4 *)to = exists ? *(const uint4 *)from : make_uint4(0, 0, 0, 0);
#endif
}
__device__ __forceinline__ void commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;");
#endif
}
template <int PENDING> __device__ __forceinline__ void wait_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING));
#endif
}

__device__ __forceinline__ void load_matrices(u32 *r, u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void multiply(float *c, const u32 *a, const u32 *b, f16) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
#pragma unroll
    for (int i = 0; i < 2; i++)
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[2 * i]), "r"(a[2 * i + 1]), "r"(b[i]));
#endif
}
#if __CUDA_ARCH__ >= 800
__device__ __forceinline__ void multiply(float *c, const u32 *a, const u32 *b, bf16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

// Offset of a 16-byte piece of a row.
__device__ __forceinline__ int place(int row, int piece) { return row * TILE_K + ((piece ^ (row >> 1)) & 3) * 8; }

template <int ROWS, int THREADS>
__device__ __forceinline__ void load_tile(u16 *tile, const u16 *matrix, int stride, int first, int rows, int k,
                                          int base) {
#pragma unroll
    for (int i = 0; i < ROWS * 4 / THREADS; i++) {
        int index = threadIdx.x + i * THREADS, row = index / 4, piece = index % 4;
        bool exists = first + row < rows && base + piece * 8 < k;
        copy16(tile + place(row, piece), matrix + (exists ? (u64)(first + row) * stride + base + piece * 8 : 0), exists);
    }
}

template <typename T, int TILE_M, int TILE_N, int WARPS_M, int WARPS_N, int STAGES>
__device__ void gemm(const u16 *x, int stride, int m, int k, const u16 *w, int n, const float *bias, const float *row_scale,
                     const float *column_scale, int kind, const void *residual, int residual_type, int residual_stride,
                     void *y, int y_type) {
    extern __shared__ __align__(128) u16 tiles[];
    const int THREADS = WARPS_M * WARPS_N * 32, STAGE = (TILE_M + TILE_N) * TILE_K;
    const int ROWS = TILE_M / WARPS_M / 16, COLS = TILE_N / WARPS_N / 8;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int warp_row = warp / WARPS_N * (TILE_M / WARPS_M), warp_col = warp % WARPS_N * (TILE_N / WARPS_N);
    // Tiles that run at the same time share operands: eight tile rows at a time, column by column.
    const int tiles_m = (m + TILE_M - 1) / TILE_M, tiles_n = (n + TILE_N - 1) / TILE_N;
    const int band = blockIdx.x / (8 * tiles_n), in_band = blockIdx.x % (8 * tiles_n);
    const int band_rows = min(8, tiles_m - band * 8);
    const int row = (band * 8 + in_band % band_rows) * TILE_M, col = in_band / band_rows * TILE_N;
    let_next_start();
    wait_for_previous();
    const int steps = (k + TILE_K - 1) / TILE_K;
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps) {
            load_tile<TILE_M, THREADS>(tiles + s * STAGE, x, stride, row, m, k, s * TILE_K);
            load_tile<TILE_N, THREADS>(tiles + s * STAGE + TILE_M * TILE_K, w, k, col, n, k, s * TILE_K);
        }
        commit();
    }
    float c[ROWS][COLS][4] = {};
    for (int step = 0; step < steps; step++) {
        wait_copies<STAGES - 2>();
        __syncthreads();
        int coming = step + STAGES - 1;
        if (coming < steps) {
            u16 *stage = tiles + coming % STAGES * STAGE;
            load_tile<TILE_M, THREADS>(stage, x, stride, row, m, k, coming * TILE_K);
            load_tile<TILE_N, THREADS>(stage + TILE_M * TILE_K, w, k, col, n, k, coming * TILE_K);
        }
        commit();
        const u16 *xs = tiles + step % STAGES * STAGE, *ws = xs + TILE_M * TILE_K;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            u32 a[ROWS][4], b[COLS / 2][4];
#pragma unroll
            for (int i = 0; i < ROWS; i++)
                load_matrices(a[i], shared_address(xs + place(warp_row + i * 16 + lane % 16, half * 2 + lane / 16)));
#pragma unroll
            for (int j = 0; j < COLS / 2; j++)
                load_matrices(b[j], shared_address(ws + place(warp_col + j * 16 + lane % 8 + lane / 16 * 8,
                                                              half * 2 + lane / 8 % 2)));
#pragma unroll
            for (int i = 0; i < ROWS; i++)
#pragma unroll
                for (int j = 0; j < COLS; j++)
                    multiply(c[i][j], a[i], b[j / 2] + j % 2 * 2, T());
        }
    }
    // The epilogue reads the sums back from shared memory, two at a time: unrolled over the registers that hold them, its
    // activations would not fit the instruction cache. Each warp has its own 16 rows.
    const int PITCH = TILE_N / WARPS_N + 4, WIDTH = TILE_N / WARPS_N;
    wait_copies<0>();
    __syncthreads();
    float *sums = (float *)tiles + warp * 16 * PITCH;
    const bool is_aligned = are_rows_aligned(y, n), is_residual_aligned = are_rows_aligned(residual, residual_stride);
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
#pragma unroll
        for (int j = 0; j < COLS; j++)
#pragma unroll
            for (int h = 0; h < 2; h++)
                *(float2 *)(sums + (lane / 4 + h * 8) * PITCH + j * 8 + lane % 4 * 2) =
                    make_float2(c[i][j][2 * h], c[i][j][2 * h + 1]);
        __syncwarp();
#pragma unroll 1
        for (int e = lane; e < 16 * WIDTH / 8; e += 32) {
            int in_row = e / (WIDTH / 8), in_col = e % (WIDTH / 8) * 8;
            int r = row + warp_row + i * 16 + in_row, at = col + warp_col + in_col, count = min(n - at, 8);
            if (r >= m || count <= 0)
                continue;
            float v[8];
#pragma unroll
            for (int p = 0; p < 8; p++)
                v[p] = sums[in_row * PITCH + in_col + p];
            float of_row = row_scale ? row_scale[r] : 1.0f;
#pragma unroll
            for (int p = 0; p < 8; p++) {
                v[p] *= of_row;
                if (column_scale)
                    v[p] *= p < count ? column_scale[at + p] : 0.0f;
                if (bias)
                    v[p] += p < count ? bias[at + p] : 0.0f;
            }
            activate_eight(kind, v);
            if (residual)
                add_eight(v, residual, residual_type, (u64)r * residual_stride + at, count,
                          is_residual_aligned);
            store_eight(v, y, y_type, (u64)r * n + at, count, is_aligned);
        }
        __syncwarp();
    }
}

#define GEMM(NAME, T, TILE_M, TILE_N, WARPS_M, WARPS_N, STAGES)                                                        \
    extern "C" __global__ void __launch_bounds__(WARPS_M *WARPS_N * 32, 1)                                             \
        NAME(const u16 *x, int stride, int m, int k, const u16 *w, int n, const float *bias, const float *row_scale,   \
             const float *column_scale, int kind, const void *residual, int residual_type, int residual_stride,        \
             void *y, int y_type) {                                                                                    \
        gemm<T, TILE_M, TILE_N, WARPS_M, WARPS_N, STAGES>(x, stride, m, k, w, n, bias, row_scale, column_scale, kind,          \
                                                          residual, residual_type, residual_stride, y, y_type);        \
    }
#define GEMMS(NAME, T)                                                                                                 \
    GEMM(NAME##_128, T, 128, 128, 2, 4, 3)                                                                             \
    GEMM(NAME##_64, T, 64, 64, 2, 2, 3)                                                                                \
    GEMM(NAME##_32, T, 32, 64, 1, 4, 4)                                                                                \
    GEMM(NAME##_16, T, 16, 32, 1, 2, 8)
GEMMS(gemm_mma_f16, f16)
#if __CUDA_ARCH__ >= 800
GEMMS(gemm_mma_bf16, bf16)
#endif
