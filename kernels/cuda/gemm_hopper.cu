// y [m, n] = f(x [m, k] w [n, k]^T scaled + bias) + residual for Hopper: operands arrive by TMA, wgmma multiplies them.
//
// A block lives as long as the kernel and takes tiles in turns. One warp of it only requests operands, four or more
// steps ahead and across the end of a tile; one or two warpgroups multiply 64 rows each and never wait for anything but
// operands. Weights that no kernel writes are requested before the kernels in front are done. A step is 128 bytes along k, whatever the element: so f16, bf16, int8 and fp8 share everything here but the
// instruction. Blocks in pairs hold neighbouring rows and share the weights: each fetches half of them for both.
//
// x and w may have any number of rows and columns: TMA fills with zeros what does not exist.

#define STEP_BYTES 128
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
    // Without a scope: a release to the whole cluster would wait for every store before it, and nothing is handed over.
    asm volatile("{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(barrier),
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
    int residual_type, residual_stride;
    // Blocks that share a tile, each a stretch of k; their sums, and how many of them are done.
    int splits;
    void *partials;
    u32 *counters;
    // Whether nothing in front writes the weights.
    int has_constant_weights;
    // Rows of x that are fetched at once; what lies behind them in shared memory reaches only results that are dropped.
    int box_rows;
};

// Without an address: an index would put the whole task into local memory.
template <typename V> __device__ __forceinline__ V select(V const (&of)[3], int i) {
    return i == 0 ? of[0] : i == 1 ? of[1] : of[2];
}

// Where a tile lies: its first row, its matrix, its first column there.
struct Place {
    int row, matrix, col;
};
template <int ROWS, int COLS, int BLOCKS>
__device__ __forceinline__ Place place(const Task &task, int tile, int rank) {
    const int rows = (task.m + ROWS * BLOCKS - 1) / (ROWS * BLOCKS), band_size = BAND / BLOCKS;
    const int first = (task.n[0] + COLS - 1) / COLS, second = (task.n[1] + COLS - 1) / COLS;
    const int all = first + second + (task.n[2] + COLS - 1) / COLS;
    int band = tile / (band_size * all), in_band = tile % (band_size * all);
    int band_rows = min(band_size, rows - band * band_size), at = in_band / band_rows;
    int matrix = at < first ? 0 : at < first + second ? 1 : 2;
    at -= matrix == 0 ? 0 : matrix == 1 ? first : first + second;
    return {((band * band_size + in_band % band_rows) * BLOCKS + rank) * ROWS, matrix, at * COLS};
}
template <int ROWS, int COLS, int BLOCKS> __device__ __forceinline__ int tiles_of(const Task &task) {
    return (task.m + ROWS * BLOCKS - 1) / (ROWS * BLOCKS) *
           ((task.n[0] + COLS - 1) / COLS + (task.n[1] + COLS - 1) / COLS + (task.n[2] + COLS - 1) / COLS);
}

// Eight neighbours of a row of shared memory. Odd rows read the second half first: a quarter of a warp then hits every bank.
template <typename SUM> __device__ __forceinline__ void take_eight(float *v, const SUM *staging, int row, int col) {
    struct __align__(16) Four {
        SUM v[4];
    };
    const Four *at = (const Four *)(staging + row * PITCH + col);
    const bool is_odd = row & 1;
    Four first = at[is_odd], second = at[!is_odd];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        v[i] = (float)(is_odd ? second.v[i] : first.v[i]);
        v[4 + i] = (float)(is_odd ? first.v[i] : second.v[i]);
    }
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
    const int n = select(task.n, place.matrix);
    void *y = select(task.y, place.matrix);
    const bool is_aligned = are_rows_aligned(y, n),
               is_residual_aligned = are_rows_aligned(task.residual, task.residual_stride);
    // What belongs to columns: of the only matrix, or of the gate and of what it lets through.
    const int MATRICES = IS_GATE ? 2 : 1;
    const float *scale[2] = {select(task.column_scale, IS_GATE ? 0 : place.matrix), task.column_scale[1]};
    const float *bias[2] = {select(task.bias, IS_GATE ? 0 : place.matrix), task.bias[1]};
    float of_row[2] = {1, 1};
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = first_row + half * 8 + lane / 4;
        if (Element<T>::has_scales && row < task.m)
            of_row[half] = task.row_scale[row];
    }
#pragma unroll 1
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        const int col = place.col + chunk * CHUNK + lane % 4 * 8, count = min(n - col, 8);
        // Requested before sums go through shared memory.
        float scales[MATRICES][8], biases[MATRICES][8], residual[2][8] = {};
#pragma unroll
        for (int i = 0; i < MATRICES; i++) {
            if (Element<T>::has_scales)
                load_eight(scales[i], scale[i], IS_F32, col, count, true);
            load_eight(biases[i], bias[i], IS_F32, col, bias[i] ? count : 0, true);
        }
        if (!IS_GATE && task.residual)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int row = first_row + half * 8 + lane / 4;
                load_eight(residual[half], task.residual, task.residual_type, (u64)row * task.residual_stride + col,
                           row < task.m ? count : 0, is_residual_aligned);
            }
        float v[MATRICES][2][8];
#pragma unroll
        for (int i = 0; i < MATRICES; i++) {
            stage(staging, d, chunk + i * CHUNKS);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                take_eight(v[i][half], staging, half * 8 + lane / 4, lane % 4 * 8);
#pragma unroll
                for (int e = 0; e < 8; e++) {
                    if (Element<T>::has_scales)
                        v[i][half][e] *= of_row[half] * scales[i][e];
                    v[i][half][e] += biases[i][e];
                }
            }
            __syncwarp();
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = first_row + half * 8 + lane / 4;
            if (row >= task.m || count <= 0)
                continue;
            activate_eight(task.kind, v[0][half]);
#pragma unroll
            for (int e = 0; e < 8; e++)
                v[0][half][e] = IS_GATE ? v[0][half][e] * v[MATRICES - 1][half][e] : v[0][half][e] + residual[half][e];
            store_eight(v[0][half], y, task.y_type, (u64)row * n + col, count, is_aligned);
        }
    }
}

// Leaves a warp's sums behind. The last warp of those that share a tile gets all sums, added in order, and goes on.
template <int COUNT, typename SUM>
__device__ __forceinline__ bool add_up(const Task &task, int tile, int split, int warp, SUM (&d)[COUNT]) {
    struct __align__(16) Four {
        SUM v[4];
    };
    const int lane = threadIdx.x % 32;
    const u64 stretch = COUNT / 4 * 32;
    Four *all = (Four *)task.partials + ((u64)tile * 8 + warp) * task.splits * stretch + lane;
#pragma unroll
    for (int i = 0; i < COUNT / 4; i++)
        all[split * stretch + i * 32] = Four{{d[4 * i], d[4 * i + 1], d[4 * i + 2], d[4 * i + 3]}};
    __threadfence();
    __syncwarp();
    u32 done = 0;
    if (lane == 0) {
        done = atomicAdd(task.counters + tile * 8 + warp, 1) + 1;
        if (done == task.splits)
            task.counters[tile * 8 + warp] = 0;
    }
    if (__shfl_sync(0xffffffffu, done, 0) != task.splits)
        return false;
    __threadfence();
#pragma unroll
    for (int i = 0; i < COUNT; i++)
        d[i] = 0;
    for (int other = 0; other < task.splits; other++)
#pragma unroll
        for (int i = 0; i < COUNT / 4; i++) {
            int4 raw = __ldcg((const int4 *)(all + other * stretch + i * 32));
            const Four four = *(const Four *)&raw;
#pragma unroll
            for (int e = 0; e < 4; e++)
                d[4 * i + e] += four.v[e];
        }
    return true;
}

template <typename T, int GROUPS, int N, int BLOCKS, bool IS_GATE>
__device__ void gemm(const TensorMap *x, const TensorMap *w, const Task &task) {
    extern __shared__ __align__(1024) u8 shared[];
    const int ROWS = 64 * GROUPS, COLS = IS_GATE ? N / 2 : N;
    const int A_BYTES = ROWS * STEP_BYTES, B_BYTES = N * STEP_BYTES, STAGE = A_BYTES + B_BYTES;
    // Low tiles leave room for another block: the next kernel's, which fills its stages meanwhile.
    const int STAGES = GROUPS == 1 ? 4 : 4 * (128 + 256) / (128 + N);
    const int STEP = STEP_BYTES / Element<T>::bytes;
    const u32 tiles = shared_address(shared), full = tiles + STAGES * STAGE, empty = full + STAGES * 8;
    const int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    int rank = 0;
    if (BLOCKS == 2)
        asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; s++) {
            start_barrier(full + 8 * s, 1);
            start_barrier(empty + 8 * s, 4 * GROUPS * BLOCKS);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    let_next_start();
    __syncthreads();
    if (BLOCKS == 2)
        meet_cluster();
    // Only narrow tiles are ever too few.
    const int splits = BLOCKS == 1 ? task.splits : 1;
    const int count = tiles_of<ROWS, COLS, BLOCKS>(task) * splits, step = gridDim.x / BLOCKS;
    int s = 0, parity = 0;
    if (group == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == 0) {
            auto fetch_weights = [&](const Place &at, int i) {
                const u32 b = tiles + s * STAGE + A_BYTES, barrier = full + 8 * s;
                expect_bytes(barrier, task.box_rows * STEP_BYTES + B_BYTES);
                for (int half = 0; half < 2; half++) {
                    const TensorMap *map = w + (IS_GATE ? half : at.matrix);
                    int row = at.col + (IS_GATE ? 0 : half * (N / 2));
                    u32 to = b + half * (B_BYTES / 2);
                    if (BLOCKS == 1)
                        fetch(to, map, i * STEP, row, barrier);
                    else if (half == rank)
                        fetch_for_both(to, map, i * STEP, row, barrier);
                }
            };
            // Stages that are filled with weights already, and want x.
            int early = 0;
            for (int item = blockIdx.x / BLOCKS; item < count; item += step) {
                const int split = item % splits;
                const int first = task.steps * split / splits, end = task.steps * (split + 1) / splits;
                Place at = place<ROWS, COLS, BLOCKS>(task, item / splits, rank);
                if (item == blockIdx.x / BLOCKS) {
                    if (task.has_constant_weights)
                        for (early = min(STAGES, end - first); s < early; s++)
                            fetch_weights(at, first + s);
                    wait_for_previous();
                    s = 0;
                }
                for (int i = first; i < end; i++) {
                    if (early > 0) {
                        early--;
                    } else {
                        wait_barrier(empty + 8 * s, parity ^ 1);
                        fetch_weights(at, i);
                    }
                    fetch(tiles + s * STAGE, x, i * STEP, at.row, full + 8 * s);
                    if (++s == STAGES) {
                        s = 0;
                        parity ^= 1;
                    }
                }
            }
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(GROUPS == 2 ? 232 : 208));
        wait_for_previous();
        typedef typename Element<T>::Sum Sum;
        Sum d[N / 2];
        Sum *staging = (Sum *)(shared + STAGES * (STAGE + 16)) + (group - 1) * 4 * 16 * PITCH + warp * 16 * PITCH;
        for (int item = blockIdx.x / BLOCKS; item < count; item += step) {
            const int split = item % splits;
            Place at = place<ROWS, COLS, BLOCKS>(task, item / splits, rank);
            const int first = task.steps * split / splits, end = task.steps * (split + 1) / splits;
            // Rows that do not exist need no products, only their operands have to be let go.
            const bool has_rows = at.row + (group - 1) * 64 < task.m;
            int last = 0;
            for (int i = first; i < end; i++) {
                wait_barrier(full + 8 * s, parity);
                if (has_rows) {
                    u64 a = describe(tiles + s * STAGE + (group - 1) * (64 * STEP_BYTES));
                    u64 b = describe(tiles + s * STAGE + A_BYTES);
                    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
                    for (int part = 0; part < 4; part++)
                        multiply(d, a + 2 * part, b + 2 * part, i - first + part, T());
                    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
                    // The step before is done when only this one is left: its operands may be overwritten.
                    asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
                }
                if (i > first && lane < BLOCKS)
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
            const int first_row = at.row + (group - 1) * 64 + warp * 16;
            if (first_row >= task.m)
                continue;
            if (splits > 1 && !add_up(task, item / splits, split, (group - 1) * 4 + warp, d))
                continue;
            finish<T, N / 2, IS_GATE>(task, at, staging, d, first_row);
        }
    }
    // A block's memory must not go while its neighbour still writes or signals there.
    if (BLOCKS == 2)
        meet_cluster();
}

#define GEMM(NAME, T, GROUPS, N, BLOCKS, IS_GATE, CLUSTER)                                                             \
    extern "C" __global__ void CLUSTER __launch_bounds__(128 + 128 * GROUPS, 3 - GROUPS)                               \
        NAME(const __grid_constant__ Maps maps, int m, int steps, int n0, int n1, int n2,                              \
             const float *bias0, const float *bias1, const float *bias2, const float *scale0,                          \
             const float *scale1, const float *scale2, void *y0, void *y1, void *y2, const float *row_scale,           \
             int y_type, int kind, const void *residual, int residual_type, int residual_stride, int splits,           \
             void *partials, u32 *counters, int has_constant_weights, int box_rows) {                                                \
        Task task = {m,        steps,           {n0, n1, n2}, {bias0, bias1, bias2}, {scale0, scale1, scale2},         \
                     {y0, y1, y2}, row_scale,   y_type,       kind,                  residual,                         \
                     residual_type, residual_stride, splits,  partials,              counters, has_constant_weights, box_rows};  \
        gemm<T, GROUPS, N, BLOCKS, IS_GATE>(&maps.x, maps.w, task);                                                    \
    }
// By the rows of a tile, or of a pair of tiles.
#define GEMMS(NAME, T)                                                                                                 \
    GEMM(NAME##_256, T, 2, 256, 2, false, __cluster_dims__(2, 1, 1))                                                   \
    GEMM(NAME##_256_gate, T, 2, 256, 2, true, __cluster_dims__(2, 1, 1))                                               \
    GEMM(NAME##_128, T, 2, 128, 1, false, )                                                                            \
    GEMM(NAME##_128_gate, T, 2, 128, 1, true, )                                                                        \
    GEMM(NAME##_64, T, 1, 128, 1, false, )                                                                             \
    GEMM(NAME##_64_gate, T, 1, 128, 1, true, )
#if defined(ELEMENT_f16)
GEMMS(gemm_hopper_f16, f16)
#elif defined(ELEMENT_bf16)
GEMMS(gemm_hopper_bf16, bf16)
#elif defined(ELEMENT_s8)
GEMMS(gemm_hopper_s8, s8)
#elif defined(ELEMENT_e4m3)
GEMMS(gemm_hopper_e4m3, e4m3)
#endif
