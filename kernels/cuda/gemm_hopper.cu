// y [m, n] = f(x [m, k] w [n, k]^T scaled + bias) + residual for Hopper: operands arrive by TMA, wgmma multiplies them.
//
// A block lives as long as the kernel and takes tiles in turns. One warp of it only requests operands, four or more
// steps ahead and across the end of a tile; two warpgroups multiply 64 rows each and never wait for anything but
// operands. A step is 128 bytes along k, whatever the element: so f16, bf16, int8 and fp8 share everything here but the
// instruction. Blocks in pairs hold neighbouring rows and share the weights: each fetches half of them for both.
//
// x and w may have any number of rows and columns: TMA fills with zeros what does not exist.

#define TILE_M 128
#define STEP_BYTES 128
#define THREADS 384
#define CHUNK 32
#define PITCH (CHUNK + 8)
// Rows of tiles that are walked through column by column, so that tiles which run at once share operands.
#define BAND 16

struct __align__(64) TensorMap {
    u64 words[16];
};
// Where TMA finds x and up to three matrices.
struct Maps {
    TensorMap x, w[3];
};
struct s8 {};
struct e4m3 {};

#define REGISTERS_64 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define REGISTERS_128 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, " \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define FOUR(C, D, I) C(D[I]), C(D[I + 1]), C(D[I + 2]), C(D[I + 3])
#define SIXTEEN(C, D, I) FOUR(C, D, I), FOUR(C, D, I + 4), FOUR(C, D, I + 8), FOUR(C, D, I + 12)
#define OPERANDS_64(C, D) SIXTEEN(C, D, 0), SIXTEEN(C, D, 16), SIXTEEN(C, D, 32), SIXTEEN(C, D, 48)
#define OPERANDS_128(C, D)                                                                                             \
    OPERANDS_64(C, D), SIXTEEN(C, D, 64), SIXTEEN(C, D, 80), SIXTEEN(C, D, 96), SIXTEEN(C, D, 112)

// d = a b^T or d += a b^T; `a` and `b` describe where the operands lie.
#define MULTIPLY(T, SUM, C, N, COUNT, TYPES, A, B, P, TAIL)                                                            \
    __device__ __forceinline__ void multiply(SUM(&d)[COUNT], u64 a, u64 b, int accumulates, T) {                       \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " P ", 0;\n"                                                    \
                     "wgmma.mma_async.sync.aligned.m64n" N TYPES " {" REGISTERS_##COUNT "}, " A ", " B ", p" TAIL      \
                     ";\n}"                                                                                            \
                     : OPERANDS_##COUNT(C, d)                                                                          \
                     : "l"(a), "l"(b), "r"(accumulates));                                                              \
    }
#define MULTIPLY_BOTH(T, SUM, C, TYPES, TAIL)                                                                          \
    MULTIPLY(T, SUM, C, "128", 64, TYPES, "%64", "%65", "%66", TAIL)                                                   \
    MULTIPLY(T, SUM, C, "256", 128, TYPES, "%128", "%129", "%130", TAIL)
#if defined(ELEMENT_f16)
MULTIPLY_BOTH(f16, float, "+f", "k16.f32.f16.f16", ", 1, 1, 0, 0")
#elif defined(ELEMENT_bf16)
MULTIPLY_BOTH(bf16, float, "+f", "k16.f32.bf16.bf16", ", 1, 1, 0, 0")
#elif defined(ELEMENT_s8)
MULTIPLY_BOTH(s8, int, "+r", "k32.s32.s8.s8", "")
#elif defined(ELEMENT_e4m3)
MULTIPLY_BOTH(e4m3, float, "+f", "k32.f32.e4m3.e4m3", ", 1, 1")
#endif

template <typename T> struct Element {
    typedef float Sum;
    static const int bytes = 2;
    static const bool has_scales = false;
};
template <> struct Element<s8> {
    typedef int Sum;
    static const int bytes = 1;
    static const bool has_scales = true;
};
template <> struct Element<e4m3> {
    typedef float Sum;
    static const int bytes = 1;
    static const bool has_scales = true;
};

__device__ __forceinline__ u32 shared_address(const void *pointer) { return (u32)__cvta_generic_to_shared(pointer); }

__device__ __forceinline__ void start_barrier(u32 barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}
__device__ __forceinline__ void wait_barrier(u32 barrier, int parity) {
    u32 done;
    do {
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                     : "=r"(done)
                     : "r"(barrier), "r"(parity)
                     : "memory");
    } while (!done);
}
__device__ __forceinline__ void expect_bytes(u32 barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// Arrives at the barrier that lies at the same place in another block of the cluster.
__device__ __forceinline__ void arrive(u32 barrier, int block) {
    asm volatile("{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [there];\n}" ::"r"(barrier),
                 "r"(block)
                 : "memory");
}
__device__ __forceinline__ void fetch(u32 to, const TensorMap *map, int element, int row, u32 barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], "
                 "[%4];" ::"r"(to),
                 "l"(map), "r"(element), "r"(row), "r"(barrier)
                 : "memory");
}
// The same into both blocks of a pair.
__device__ __forceinline__ void fetch_for_both(u32 to, const TensorMap *map, int element, int row, u32 barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
                 "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
                 "l"(map), "r"(element), "r"(row), "r"(barrier), "h"((u16)3)
                 : "memory");
}
__device__ __forceinline__ void meet_cluster() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Rows of 128 bytes, swizzled, eight of them 1024 bytes further.
__device__ __forceinline__ u64 describe(u32 tile) {
    return (u64)((tile & 0x3ffff) >> 4) | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}

// What a launch computes: up to three matrices beside each other (query, key, value), or two that a gate joins.
struct Task {
    int m, steps;
    int n[3];
    const float *bias[3];
    const float *column_scale[3];
    void *y[3];
    const float *row_scale;
    int y_type, kind;
    const void *residual;
    int residual_stride, residual_type;
};

// Where a tile lies: its first row, its matrix, its first column there.
struct Place {
    int row, matrix, col;
};
template <int COLS, int BLOCKS> __device__ __forceinline__ Place place(const Task &task, int tile, int rank) {
    const int rows = (task.m + TILE_M * BLOCKS - 1) / (TILE_M * BLOCKS), band_size = BAND / BLOCKS;
    const int first = (task.n[0] + COLS - 1) / COLS, second = (task.n[1] + COLS - 1) / COLS;
    const int all = first + second + (task.n[2] + COLS - 1) / COLS;
    int band = tile / (band_size * all), in_band = tile % (band_size * all);
    int band_rows = min(band_size, rows - band * band_size), at = in_band / band_rows;
    int matrix = at < first ? 0 : at < first + second ? 1 : 2;
    at -= matrix == 0 ? 0 : matrix == 1 ? first : first + second;
    return {((band * band_size + in_band % band_rows) * BLOCKS + rank) * TILE_M, matrix, at * COLS};
}
template <int COLS, int BLOCKS> __device__ __forceinline__ int tiles_of(const Task &task) {
    return (task.m + TILE_M * BLOCKS - 1) / (TILE_M * BLOCKS) *
           ((task.n[0] + COLS - 1) / COLS + (task.n[1] + COLS - 1) / COLS + (task.n[2] + COLS - 1) / COLS);
}

// 32 columns of a warp's 16 rows into shared memory.
template <int COUNT, typename SUM> __device__ __forceinline__ void stage(SUM *to, const SUM (&d)[COUNT], int chunk) {
    struct __align__(8) Pair {
        SUM low, high;
    };
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int c = 0; c < COUNT / 16; c++)
        if (c == chunk)
#pragma unroll
            for (int j = 0; j < 4; j++)
#pragma unroll
                for (int h = 0; h < 2; h++)
                    *(Pair *)(to + (lane / 4 + h * 8) * PITCH + j * 8 + lane % 4 * 2) =
                        Pair{d[16 * c + 4 * j + 2 * h], d[16 * c + 4 * j + 2 * h + 1]};
    __syncwarp();
}

template <typename T, int COUNT, bool IS_GATE>
__device__ __forceinline__ void finish(const Task &task, const Place &place,
                                       typename Element<T>::Sum *staging, const typename Element<T>::Sum (&d)[COUNT], int first_row) {
    const int CHUNKS = COUNT / 16 / (IS_GATE ? 2 : 1), lane = threadIdx.x % 32;
    const int n = task.n[place.matrix];
    const float *bias = task.bias[place.matrix], *scale = task.column_scale[IS_GATE ? 1 : place.matrix];
    const bool is_aligned = are_rows_aligned(task.y[place.matrix], n),
               is_residual_aligned = are_rows_aligned(task.residual, task.residual_stride);
#pragma unroll 1
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        const int col = place.col + chunk * CHUNK + lane % 4 * 8, count = min(n - col, 8);
        float gates[2][8];
        if (IS_GATE) {
            stage(staging, d, chunk);
#pragma unroll
            for (int half = 0; half < 2; half++)
#pragma unroll
                for (int i = 0; i < 8; i++)
                    gates[half][i] = (float)staging[(half * 8 + lane / 4) * PITCH + lane % 4 * 8 + i];
            __syncwarp();
        }
        stage(staging, d, chunk + (IS_GATE ? CHUNKS : 0));
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = first_row + half * 8 + lane / 4;
            float v[8];
#pragma unroll
            for (int i = 0; i < 8; i++)
                v[i] = (float)staging[(half * 8 + lane / 4) * PITCH + lane % 4 * 8 + i];
            if (row >= task.m || count <= 0)
                continue;
            if (Element<T>::has_scales) {
                float of_row = task.row_scale[row];
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    v[i] *= i < count ? of_row * scale[col + i] : 0.0f;
                    if (IS_GATE)
                        gates[half][i] *= i < count ? of_row * task.column_scale[0][col + i] : 0.0f;
                }
            }
            if (IS_GATE) {
                const float *up_bias = task.bias[1];
                if (bias)
#pragma unroll
                    for (int i = 0; i < 8; i++)
                        gates[half][i] += i < count ? bias[col + i] : 0.0f;
                if (up_bias)
#pragma unroll
                    for (int i = 0; i < 8; i++)
                        v[i] += i < count ? up_bias[col + i] : 0.0f;
                activate_eight(task.kind, gates[half]);
#pragma unroll
                for (int i = 0; i < 8; i++)
                    v[i] *= gates[half][i];
            } else {
                if (bias)
#pragma unroll
                    for (int i = 0; i < 8; i++)
                        v[i] += i < count ? bias[col + i] : 0.0f;
                activate_eight(task.kind, v);
                if (task.residual)
                    add_eight(v, task.residual, task.residual_type, (u64)row * task.residual_stride + col, count,
                              is_residual_aligned);
            }
            store_eight(v, task.y[place.matrix], task.y_type, (u64)row * n + col, count, is_aligned);
        }
        __syncwarp();
    }
}

template <typename T, int N, int BLOCKS, bool IS_GATE>
__device__ void gemm(const TensorMap *x, const TensorMap *w, const Task &task) {
    extern __shared__ __align__(1024) u8 shared[];
    const int A_BYTES = TILE_M * STEP_BYTES, B_BYTES = N * STEP_BYTES, STAGE = A_BYTES + B_BYTES;
    const int STAGES = 4 * (TILE_M + 256) / (TILE_M + N), COLS = IS_GATE ? N / 2 : N;
    const int STEP = STEP_BYTES / Element<T>::bytes;
    const u32 tiles = shared_address(shared), full = tiles + STAGES * STAGE, empty = full + STAGES * 8;
    const int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    int rank = 0;
    if (BLOCKS == 2)
        asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; s++) {
            start_barrier(full + 8 * s, 1);
            start_barrier(empty + 8 * s, 8 * BLOCKS);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    let_next_start();
    __syncthreads();
    if (BLOCKS == 2)
        meet_cluster();
    const int count = tiles_of<COLS, BLOCKS>(task), step = gridDim.x / BLOCKS;
    int s = 0, parity = 0;
    if (group == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == 0) {
            wait_for_previous();
            for (int tile = blockIdx.x / BLOCKS; tile < count; tile += step) {
                Place at = place<COLS, BLOCKS>(task, tile, rank);
                for (int i = 0; i < task.steps; i++) {
                    wait_barrier(empty + 8 * s, parity ^ 1);
                    u32 a = tiles + s * STAGE, b = a + A_BYTES, barrier = full + 8 * s;
                    expect_bytes(barrier, STAGE);
                    fetch(a, x, i * STEP, at.row, barrier);
                    for (int half = 0; half < 2; half++) {
                        const TensorMap *map = w + (IS_GATE ? half : at.matrix);
                        int row = at.col + (IS_GATE ? 0 : half * (N / 2));
                        u32 to = b + half * (B_BYTES / 2);
                        if (BLOCKS == 1)
                            fetch(to, map, i * STEP, row, barrier);
                        else if (half == rank)
                            fetch_for_both(to, map, i * STEP, row, barrier);
                    }
                    if (++s == STAGES) {
                        s = 0;
                        parity ^= 1;
                    }
                }
            }
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        wait_for_previous();
        typename Element<T>::Sum d[N / 2];
        typename Element<T>::Sum *staging = (typename Element<T>::Sum *)(shared + STAGES * (STAGE + 16)) + (group - 1) * 4 * 16 * PITCH + warp * 16 * PITCH;
        for (int tile = blockIdx.x / BLOCKS; tile < count; tile += step) {
            Place at = place<COLS, BLOCKS>(task, tile, rank);
            int last = 0;
            for (int i = 0; i < task.steps; i++) {
                wait_barrier(full + 8 * s, parity);
                u64 a = describe(tiles + s * STAGE + (group - 1) * (A_BYTES / 2));
                u64 b = describe(tiles + s * STAGE + A_BYTES);
                asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
                for (int part = 0; part < 4; part++)
                    multiply(d, a + 2 * part, b + 2 * part, i + part, T());
                asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
                // The step before is done when only this one is left: its operands may be overwritten.
                asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
                if (i > 0 && lane < BLOCKS)
                    arrive(empty + 8 * last, BLOCKS == 1 ? 0 : lane);
                last = s;
                if (++s == STAGES) {
                    s = 0;
                    parity ^= 1;
                }
            }
            asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
            if (lane < BLOCKS)
                arrive(empty + 8 * last, BLOCKS == 1 ? 0 : lane);
            finish<T, N / 2, IS_GATE>(task, at, staging, d, at.row + (group - 1) * 64 + warp * 16);
        }
    }
    // A block's memory must not go while its neighbour still writes or signals there.
    if (BLOCKS == 2)
        meet_cluster();
}

#define GEMM(NAME, T, N, BLOCKS, IS_GATE, CLUSTER)                                                                     \
    extern "C" __global__ void CLUSTER __launch_bounds__(THREADS, 1)                                                   \
        NAME(const __grid_constant__ Maps maps, int m, int steps, int n0, int n1, int n2,                              \
             const float *bias0, const float *bias1, const float *bias2, const float *scale0,          \
             const float *scale1, const float *scale2, void *y0, void *y1, void *y2, const float *row_scale,           \
             int y_type, int kind, const void *residual, int residual_type, int residual_stride) {                     \
        Task task = {m,         steps,  {n0, n1, n2}, {bias0, bias1, bias2}, {scale0, scale1, scale2}, {y0, y1, y2},   \
                     row_scale, y_type, kind,         residual,              residual_stride,          residual_type}; \
        gemm<T, N, BLOCKS, IS_GATE>(&maps.x, maps.w, task);                                                               \
    }
#define GEMMS(NAME, T)                                                                                                 \
    GEMM(NAME##_256, T, 256, 2, false, __cluster_dims__(2, 1, 1))                                                      \
    GEMM(NAME##_256_gate, T, 256, 2, true, __cluster_dims__(2, 1, 1))                                                  \
    GEMM(NAME##_128, T, 128, 1, false, )                                                                               \
    GEMM(NAME##_128_gate, T, 128, 1, true, )
#if defined(ELEMENT_f16)
GEMMS(gemm_hopper_f16, f16)
#elif defined(ELEMENT_bf16)
GEMMS(gemm_hopper_bf16, bf16)
#elif defined(ELEMENT_s8)
GEMMS(gemm_hopper_s8, s8)
#elif defined(ELEMENT_e4m3)
GEMMS(gemm_hopper_e4m3, e4m3)
#endif
