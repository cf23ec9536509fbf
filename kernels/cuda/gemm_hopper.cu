// y [m, n] = f(x [m, k] w [n, k]^T scaled + bias) + residual for Hopper: operands arrive by TMA, wgmma multiplies them.
//
// A block lives as long as the kernel and takes tiles in turns. One warp of it only requests operands, four or more
// steps ahead and across the end of a tile; one or two warpgroups multiply 64 rows each and never wait for anything but
// operands; 16-bit results pass through shared memory once more, so that whole lines of them are written.
// Weights that no kernel writes are requested before the kernels in front are done. A step is 128 bytes along k,
// whatever the element: so f16, bf16, int8 and fp8 share everything here but the instruction. Blocks in pairs hold
// neighbouring rows and share the weights: each fetches half of them for both.
//
// Where tiles are fewer than multiprocessors, a cluster of up to eight blocks takes one tile, each block a stretch of k.
// Each leaves its sums in its own shared memory, and every warp of the cluster finishes a part of the tile with the sums
// of all blocks, added in the blocks' order.
//
// x and w may have any number of rows and columns: TMA fills with zeros what does not exist.

#define STEP_BYTES 128
// Rows of tiles that are walked through column by column, so that tiles which run at once share operands.
#define BAND 16

template <int ROWS, int COLS, int BLOCKS>
__device__ __forceinline__ Place place(const Task &task, int tile, int rank) {
    const int rows = (task.m + ROWS * BLOCKS - 1) / (ROWS * BLOCKS), band_size = BAND / BLOCKS;
    const int first = (task.n[0] + COLS - 1) / COLS, second = (task.n[1] + COLS - 1) / COLS;
    const int all = first + second + (task.n[2] + COLS - 1) / COLS;
    // Few rows need few divisions: the first operands wait for them.
    int band = 0, row = 0, at = tile;
    if (rows > band_size) {
        band = tile / (band_size * all);
        at = tile % (band_size * all);
    }
    if (rows > 1) {
        const int band_rows = min(band_size, rows - band * band_size);
        row = at % band_rows;
        at /= band_rows;
    }
    int matrix = at < first ? 0 : at < first + second ? 1 : 2;
    at -= matrix == 0 ? 0 : matrix == 1 ? first : first + second;
    return {((band * band_size + row) * BLOCKS + rank) * ROWS, matrix, at * COLS};
}
template <int ROWS, int COLS, int BLOCKS> __device__ __forceinline__ int tiles_of(const Task &task) {
    return (task.m + ROWS * BLOCKS - 1) / (ROWS * BLOCKS) *
           ((task.n[0] + COLS - 1) / COLS + (task.n[1] + COLS - 1) / COLS + (task.n[2] + COLS - 1) / COLS);
}

// Most blocks of a cluster that any device takes.
#define MOST_SPLITS 8
// Bytes between the sums of neighbouring threads' next columns: 16 of each thread of a warp.
#define ROUND_BYTES (32 * 16)
// Sums of 16 rows by 32 columns.
#define SHARE_BYTES (4 * ROUND_BYTES)

// Leaves the sums of a warp where other blocks look for them: `stride` bytes between those of 32 columns and the next.
template <int COUNT, typename SUM>
__device__ __forceinline__ void leave_sums(u8 *to, int stride, const SUM (&d)[COUNT]) {
    struct __align__(16) Four {
        SUM v[4];
    };
#pragma unroll
    for (int i = 0; i < COUNT / 4; i++)
        *(Four *)(to + i / 4 * stride + i % 4 * ROUND_BYTES) = Four{{d[4 * i], d[4 * i + 1], d[4 * i + 2], d[4 * i + 3]}};
}
__device__ __forceinline__ float sum_of(u32 bits, float) { return __uint_as_float(bits); }
__device__ __forceinline__ int sum_of(u32 bits, int) { return (int)bits; }
// The sums of all blocks, in their order, of those that every block has at `address`.
template <typename SUM> __device__ __forceinline__ void add_sums(SUM (&sums)[16], u32 address, int splits) {
#pragma unroll
    for (int i = 0; i < 16; i++)
        sums[i] = 0;
    // Several blocks are asked at once: answers take long.
    const int AT_ONCE = 4;
#pragma unroll
    for (int first = 0; first < MOST_SPLITS; first += AT_ONCE) {
        u32 raw[AT_ONCE][16];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            if (first + i < splits)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    load_from_block(raw[i] + 4 * j, address + j * ROUND_BYTES, first + i);
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            if (first + i < splits)
#pragma unroll
                for (int e = 0; e < 16; e++)
                    sums[e] += sum_of(raw[i][e], SUM());
    }
}

// What a warp finishes at once of a tile that blocks share: 16 rows of 32 columns, for a gate of both matrices.
template <typename T, bool IS_GATE> struct Share {
    static const int HALVES = IS_GATE ? 2 : 1;
    int row, col, n;
    float2 bias[HALVES][4], scale[HALVES][4];
    float of_row[2];
    AnyResidual residual;

    // Requests everything but the sums.
    __device__ __forceinline__ void load(const Task &task, const Place &place, int row_group, int piece) {
        row = place.row + row_group * 16 + threadIdx.x % 32 / 4;
        col = place.col + piece * PIECE + threadIdx.x % 4 * 2;
        n = select(task.n, place.matrix);
#pragma unroll
        for (int half = 0; half < HALVES; half++) {
            const float *biases = IS_GATE ? task.bias[half] : select(task.bias, place.matrix);
            const float *scales = IS_GATE ? task.column_scale[half] : select(task.column_scale, place.matrix);
            // Those of columns that do not exist end in results that are dropped.
            int low[4], high[4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                low[j] = min(col + 8 * j, n - 1);
                high[j] = min(col + 8 * j + 1, n - 1);
                bias[half][j] = make_float2(0, 0);
            }
            if (biases)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    bias[half][j] = make_float2(biases[low[j]], biases[high[j]]);
            if (Element<T>::has_scales)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    scale[half][j] = make_float2(scales[low[j]], scales[high[j]]);
        }
#pragma unroll
        for (int h = 0; h < 2; h++)
            of_row[h] = Element<T>::has_scales ? task.row_scale[min(row + 8 * h, task.m - 1)] : 1.0f;
        if (!IS_GATE && task.residual)
            residual.load(task, row, col, n);
    }

    // Values of the sums that every block has at `address`.
    __device__ __forceinline__ void take(float (&v)[2][8], const Task &task, u32 address, int half) const {
        typename Element<T>::Sum sums[16];
        add_sums(sums, address, task.splits);
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float low = widen(sums[4 * j + 2 * h]), high = widen(sums[4 * j + 2 * h + 1]);
                if (Element<T>::has_scales)
                    low *= of_row[h] * scale[half][j].x, high *= of_row[h] * scale[half][j].y;
                v[h][2 * j] = low + bias[half][j].x;
                v[h][2 * j + 1] = high + bias[half][j].y;
            }
    }

    // From sums to results; `joined`: where those of the second matrix of a gate are.
    __device__ __forceinline__ void finish(const Task &task, void *y, u32 address, u32 joined) const {
        float v[2][8];
        take(v, task, address, 0);
        // One row after the other, so that each function is expanded once.
#pragma unroll 1
        for (int h = 0; h < 2; h++) {
            activate_eight(task.kind, v[0]);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const float other = v[1][i];
                v[1][i] = v[0][i];
                v[0][i] = other;
            }
        }
        if (IS_GATE) {
            float u[2][8];
            take(u, task, joined, HALVES - 1);
#pragma unroll
            for (int i = 0; i < 8; i++)
                v[0][i] *= u[0][i], v[1][i] *= u[1][i];
        }
        if (!IS_GATE && task.residual)
#pragma unroll
            for (int h = 0; h < 2; h++)
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const float2 pair = residual.pair(task.residual_type, h, j);
                    v[h][2 * j] += pair.x;
                    v[h][2 * j + 1] += pair.y;
                }
        store_pairs(y, task, row, n, col, v);
    }
};

template <typename T, int GROUPS, int N, int BLOCKS, bool IS_GATE, bool IS_SPLIT, int RESIDUAL>
__device__ void gemm(const TensorMap *x, const TensorMap *w, const Task &task) {
    extern __shared__ __align__(1024) u8 shared[];
    const int ROWS = 64 * GROUPS, COLS = IS_GATE ? N / 2 : N;
    const int A_BYTES = ROWS * STEP_BYTES, B_BYTES = N * STEP_BYTES, STAGE = A_BYTES + B_BYTES;
    // Low tiles leave room for another block: the next kernel's, which fills its stages meanwhile.
    const int STAGES = GROUPS == 2 ? 4 * (128 + 256) / (128 + N) : N == 64 ? 6 : 4;
    const int STEP = STEP_BYTES / Element<T>::bytes;
    const int ENDINGS = STAGES * STAGE, ENDING_BYTES = BOX_BYTES + Columns<T, N>::BYTES;
    const int BARRIERS = ENDINGS + GROUPS * 4 * ENDING_BYTES;
    const u32 tiles = shared_address(shared), full = tiles + BARRIERS, empty = full + STAGES * 8;
    const int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    int rank = 0;
    if (BLOCKS == 2 || IS_SPLIT)
        asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    if (threadIdx.x / 32 == 1) {
        if (lane < 3 && (select(task.n, lane) > 0 || IS_GATE && lane == 1))
            prefetch_map(w + lane);
        else if (lane == 3)
            prefetch_map(x);
    }
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
    const int count = tiles_of<ROWS, COLS, BLOCKS>(task);
    int start = blockIdx.x / BLOCKS, stride = gridDim.x / BLOCKS, first = 0, end = task.steps;
    // A cluster that shares a tile has no other one.
    if (IS_SPLIT) {
        asm("mov.u32 %0, %%clusterid.x;" : "=r"(start));
        stride = count;
        first = task.steps * rank / task.splits;
        end = task.steps * (rank + 1) / task.splits;
    }
    const int pair_rank = BLOCKS == 2 ? rank : 0;
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
                    else if (half == pair_rank)
                        fetch_for_both(to, map, i * STEP, row, barrier);
                }
            };
            // Stages that are filled with weights already, and want x.
            int early = 0;
            for (int tile = start; tile < count; tile += stride) {
                Place at = place<ROWS, COLS, BLOCKS>(task, tile, pair_rank);
                if (tile == start) {
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
        if (IS_SPLIT) {
            __syncwarp();
            meet_cluster();
            leave_cluster();
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(GROUPS == 2 ? 232 : 208));
        wait_for_previous();
        typedef typename Element<T>::Sum Sum;
        Sum d[N / 2];
        u8 *box = shared + ENDINGS + ((group - 1) * 4 + warp) * ENDING_BYTES;
        Columns<T, N> columns = {(float *)(box + BOX_BYTES)};
        for (int tile = start; tile < count; tile += stride) {
            Place at = place<ROWS, COLS, BLOCKS>(task, tile, pair_rank);
            // Rows that do not exist need no products, only their operands have to be let go.
            const bool has_rows = at.row + (group - 1) * 64 < task.m;
            const int first_row = at.row + (group - 1) * 64 + warp * 16;
            // Requested before the products, in time for what comes behind them.
            float of_row[2] = {1, 1};
            Residual<T, RESIDUAL> residual;
            Share<T, IS_GATE> share;
            const int row_groups = min(4 * GROUPS, (task.m - at.row + 15) / 16);
            const int pieces = min(COLS, select(task.n, at.matrix) - at.col + PIECE - 1) / PIECE;
            int unit = rank + task.splits * ((group - 1) * 4 + warp);
            if (IS_SPLIT) {
                if (unit < pieces * row_groups)
                    share.load(task, at, unit % row_groups, unit / row_groups);
            } else {
                columns.template request<IS_GATE>(task, at);
                if (Element<T>::has_scales)
#pragma unroll
                    for (int h = 0; h < 2; h++)
                        if (first_row + h * 8 + lane / 4 < task.m)
                            of_row[h] = task.row_scale[first_row + h * 8 + lane / 4];
                residual.start(task, at, first_row);
            }
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
                if (i > first)
                    arrive<BLOCKS>(empty + 8 * last, lane);
                last = s;
                if (++s == STAGES) {
                    s = 0;
                    parity ^= 1;
                }
            }
            asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
            if (IS_SPLIT) {
                const int WARPS = 4 * GROUPS;
                // Every step of the tile was waited for, so nothing will arrive in the stages any more; behind the barrier
                // nobody multiplies what is there.
                asm volatile("bar.sync 1, %0;" ::"n"(128 * GROUPS) : "memory");
                if (first_row < task.m)
                    leave_sums(shared + ((group - 1) * 4 + warp) * SHARE_BYTES + lane * 16, WARPS * SHARE_BYTES, d);
                meet_cluster();
                for (bool is_loaded = true; unit < pieces * row_groups; unit += task.splits * WARPS, is_loaded = false) {
                    const int row_group = unit % row_groups, piece = unit / row_groups;
                    if (!is_loaded)
                        share.load(task, at, row_group, piece);
                    const u32 address = tiles + (piece * WARPS + row_group) * SHARE_BYTES + lane * 16;
                    share.finish(task, select(task.y, at.matrix), address, address + COLS / PIECE * WARPS * SHARE_BYTES);
                }
                leave_cluster();
                break;
            }
            arrive<BLOCKS>(empty + 8 * last, lane);
            columns.wait();
            if (first_row >= task.m)
                continue;
            finish<T, N / 2, IS_GATE, RESIDUAL>(task, at, box, d, columns, of_row, residual, first_row);
        }
    }
    // A block's memory must not go while its neighbour still writes or signals there.
    if (BLOCKS == 2)
        meet_cluster();
}

#define GEMM(NAME, T, GROUPS, N, BLOCKS, IS_GATE, IS_SPLIT, RESIDUAL, CLUSTER)                                         \
    extern "C" __global__ void CLUSTER __launch_bounds__(128 + 128 * GROUPS, 3 - GROUPS)                               \
        NAME(const __grid_constant__ Maps maps, int m, int steps, int n0, int n1, int n2, const float *bias0,          \
             const float *bias1, const float *bias2, const float *scale0, const float *scale1, const float *scale2,    \
             void *y0, void *y1, void *y2, const float *row_scale, int y_type, int kind, int has_wide_rows,            \
             const void *residual, int residual_type, int residual_stride, int splits, int has_constant_weights,       \
             int box_rows) {                                                                                           \
        Task task = {m,                                                                                                \
                     steps,                                                                                            \
                     {n0, n1, n2},                                                                                     \
                     {bias0, bias1, bias2},                                                                            \
                     {scale0, scale1, scale2},                                                                         \
                     {y0, y1, y2},                                                                                     \
                     row_scale,                                                                                        \
                     y_type,                                                                                           \
                     kind,                                                                                             \
                     has_wide_rows,                                                                                    \
                     residual,                                                                                         \
                     residual_type,                                                                                    \
                     residual_stride,                                                                                  \
                     splits,                                                                                           \
                     has_constant_weights,                                                                             \
                     box_rows};                                                                                        \
        gemm<T, GROUPS, N, BLOCKS, IS_GATE, IS_SPLIT, RESIDUAL>(&maps.x, maps.w, task);                                \
    }
// By rows and columns of a tile, or rows of a pair of tiles.
#define GEMMS(NAME, T)                                                                                                 \
    GEMM(NAME##_256x256, T, 2, 256, 2, false, false, NO_RESIDUAL, __cluster_dims__(2, 1, 1))                           \
    GEMM(NAME##_256x256_halves, T, 2, 256, 2, false, false, HALVES, __cluster_dims__(2, 1, 1))                         \
    GEMM(NAME##_256x256_floats, T, 2, 256, 2, false, false, FLOATS, __cluster_dims__(2, 1, 1))                         \
    GEMM(NAME##_256x256_gate, T, 2, 256, 2, true, false, NO_RESIDUAL, __cluster_dims__(2, 1, 1))                       \
    GEMM(NAME##_128x128, T, 2, 128, 1, false, false, NO_RESIDUAL, )                                                    \
    GEMM(NAME##_128x128_halves, T, 2, 128, 1, false, false, HALVES, )                                                  \
    GEMM(NAME##_128x128_floats, T, 2, 128, 1, false, false, FLOATS, )                                                  \
    GEMM(NAME##_128x128_gate, T, 2, 128, 1, true, false, NO_RESIDUAL, )                                                \
    GEMM(NAME##_128x128_split, T, 2, 128, 1, false, true, NO_RESIDUAL, )                                               \
    GEMM(NAME##_128x128_gate_split, T, 2, 128, 1, true, true, NO_RESIDUAL, )                                           \
    GEMM(NAME##_64x128, T, 1, 128, 1, false, false, NO_RESIDUAL, )                                                     \
    GEMM(NAME##_64x128_gate, T, 1, 128, 1, true, false, NO_RESIDUAL, )                                                 \
    GEMM(NAME##_64x128_gate_split, T, 1, 128, 1, true, true, NO_RESIDUAL, )                                            \
    GEMM(NAME##_64x64_split, T, 1, 64, 1, false, true, NO_RESIDUAL, )
#if defined(ELEMENT_f16)
GEMMS(gemm_hopper_f16, f16)
#elif defined(ELEMENT_bf16)
GEMMS(gemm_hopper_bf16, bf16)
#elif defined(ELEMENT_s8)
GEMMS(gemm_hopper_s8, s8)
#elif defined(ELEMENT_e4m3)
GEMMS(gemm_hopper_e4m3, e4m3)
#endif
