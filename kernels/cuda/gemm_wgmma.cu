// gemm_mma.cu once more for Hopper's own tensor core instructions, which read both operands from shared memory:
// y [m, n] = x [m, k] w [n, k]^T + bias, 16-bit operands, f32 sums.
//
// Tiles of 128 x 128, two warpgroups of 64 rows each. Steps of 64 along k arrive by cp.async in the swizzle that the
// instruction expects: 16-byte piece p of row r lies at p ^ r % 8. Two blocks share a multiprocessor, so that one
// multiplies while the other waits. k is a multiple of 8, m and n are anything.

#define TILE 128
#define TILE_K 64
#define STAGES 3
#define THREADS 256

__device__ __forceinline__ u32 shared_address(const void *pointer) { return (u32)__cvta_generic_to_shared(pointer); }

// d += a b^T, or d = a b^T, of 64 x 128 x 16; `a` and `b` describe where the operands lie.
__device__ __forceinline__ void multiply(float *d, u64 a, u64 b, int accumulates, f16) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "
                 "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, "
                 "%38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, "
                 "%56, %57, %58, %59, %60, %61, %62, %63"
                 "}, %64, %65, p, 1, 1, 0, 0;\n}"
                 :
                 "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
                 "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
                 "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
                 "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
                 "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]),
                 "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),
                 "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]),
                 "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
                 "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]),
                 "+f"(d[63])
                 : "l"(a), "l"(b), "r"(accumulates));
}
__device__ __forceinline__ void multiply(float *d, u64 a, u64 b, int accumulates, bf16) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "
                 "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, "
                 "%38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, "
                 "%56, %57, %58, %59, %60, %61, %62, %63"
                 "}, %64, %65, p, 1, 1, 0, 0;\n}"
                 :
                 "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
                 "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
                 "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
                 "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
                 "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]),
                 "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),
                 "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]),
                 "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
                 "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]),
                 "+f"(d[63])
                 : "l"(a), "l"(b), "r"(accumulates));
}

// Rows of 128 bytes, swizzled, eight of them 1024 bytes further.
__device__ __forceinline__ u64 describe(const u16 *tile) {
    return (u64)((shared_address(tile) & 0x3ffff) >> 4) | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}

// A tile into shared memory, zeros where there is nothing to copy.
__device__ __forceinline__ void load_tile(u16 *tile, const u16 *matrix, int first, int rows, int k, int base) {
#pragma unroll
    for (int i = 0; i < TILE * 8 / THREADS; i++) {
        int index = threadIdx.x + i * THREADS, row = index / 8, piece = index % 8;
        bool exists = first + row < rows && base + piece * 8 < k;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                         shared_address(tile + row * TILE_K + ((piece ^ row) & 7) * 8)),
                     "l"(matrix + (exists ? (u64)(first + row) * k + base + piece * 8 : 0)), "r"(exists ? 16 : 0));
    }
}

template <typename T>
__device__ void gemm(const u16 *x, int m, int k, const u16 *w, int n, const float *bias, int kind,
                     const float *residual, int residual_stride, float *y, u16 *y16) {
    extern __shared__ __align__(1024) u16 tiles[];
    const int STAGE = 2 * TILE * TILE_K, PITCH = TILE + 4;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = threadIdx.x / 128;
    // Tiles that run at the same time share operands: eight tile rows at a time, column by column.
    const int tiles_m = (m + TILE - 1) / TILE, tiles_n = (n + TILE - 1) / TILE;
    const int band = blockIdx.x / (8 * tiles_n), in_band = blockIdx.x % (8 * tiles_n);
    const int band_rows = min(8, tiles_m - band * 8);
    const int row = (band * 8 + in_band % band_rows) * TILE, col = in_band / band_rows * TILE;
    let_next_start();
    wait_for_previous();
    const int steps = (k + TILE_K - 1) / TILE_K;
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps) {
            load_tile(tiles + s * STAGE, x, row, m, k, s * TILE_K);
            load_tile(tiles + s * STAGE + TILE * TILE_K, w, col, n, k, s * TILE_K);
        }
        asm volatile("cp.async.commit_group;");
    }
    float d[64];
#pragma unroll
    for (int i = 0; i < 64; i++)
        d[i] = 0;
    for (int step = 0; step < steps; step++) {
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2));
        // What threads copied is about to be read by the tensor cores' own path to shared memory.
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads();
        const u16 *stage = tiles + step % STAGES * STAGE;
        u64 a = describe(stage + group * 64 * TILE_K), b = describe(stage + TILE * TILE_K);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int i = 0; i < TILE_K / 16; i++)
            multiply(d, a + 2 * i, b + 2 * i, 1, T());
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        int coming = step + STAGES - 1;
        if (coming < steps) {
            u16 *to = tiles + coming % STAGES * STAGE;
            load_tile(to, x, row, m, k, coming * TILE_K);
            load_tile(to + TILE * TILE_K, w, col, n, k, coming * TILE_K);
        }
        asm volatile("cp.async.commit_group;");
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    }
    asm volatile("cp.async.wait_group 0;");
    __syncthreads();
    // Each warp has 16 rows; they go through shared memory so that the rest need not be unrolled over registers.
    float *sums = (float *)tiles + warp * 16 * PITCH;
    const bool is_even = n % 2 == 0;
#pragma unroll
    for (int j = 0; j < TILE / 8; j++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            *(float2 *)(sums + (lane / 4 + h * 8) * PITCH + j * 8 + lane % 4 * 2) =
                make_float2(d[4 * j + 2 * h], d[4 * j + 2 * h + 1]);
    __syncwarp();
#pragma unroll 1
    for (int e = lane; e < 16 * TILE / 2; e += 32) {
        int in_row = e / (TILE / 2), in_col = e % (TILE / 2) * 2;
        int r = row + warp * 16 + in_row, at = col + in_col;
        if (r >= m || at >= n)
            continue;
        bool both = at + 1 < n;
        float2 v = *(const float2 *)(sums + in_row * PITCH + in_col);
        if (bias) {
            v.x += bias[at];
            v.y += both ? bias[at + 1] : 0.0f;
        }
        if (kind) {
            v.x = activation(kind, v.x);
            v.y = activation(kind, v.y);
        }
        if (residual) {
            const float *from = residual + (u64)r * residual_stride + at;
            v.x += from[0];
            v.y += both ? from[1] : 0.0f;
        }
        u64 to = (u64)r * n + at;
        if (y && is_even) {
            *(float2 *)(y + to) = v;
        } else if (y) {
            y[to] = v.x;
            if (both)
                y[to + 1] = v.y;
        }
        if (y16 && is_even) {
            *(u32 *)(y16 + to) = pair_from_f32<T>(v.x, v.y);
        } else if (y16) {
            y16[to] = from_f32<T>(v.x).bits;
            if (both)
                y16[to + 1] = from_f32<T>(v.y).bits;
        }
    }
}

#define GEMM(NAME, T)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                           \
        NAME(const u16 *x, int m, int k, const u16 *w, int n, const float *bias, int kind, const float *residual,      \
             int residual_stride, float *y, u16 *y16) {                                                                \
        gemm<T>(x, m, k, w, n, bias, kind, residual, residual_stride, y, y16);                                         \
    }
GEMM(gemm_wgmma_f16, f16)
GEMM(gemm_wgmma_bf16, bf16)
