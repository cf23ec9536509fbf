// From the sums of a tile to results, in front of Hopper's products: scaled, with a bias, activated or joined by a gate, a
// residual added, rounded. While a warp does this it multiplies nothing, so what is needed for it is requested before the
// products and the usual cases have no branches.

// Columns of results that a thread has in hand at once.
#define PIECE 32
// Results on their way out: a warp's 16 rows of 64 columns in 16 bits.
#define BOX_COLS (2 * PIECE)
#define BOX_BYTES (16 * BOX_COLS * 2)

// What a launch computes: up to three matrices beside each other (query, key, value), or two that a gate joins.
struct Task {
    int m, steps;
    int n[3];
    const float *bias[3];
    const float *column_scale[3];
    void *y[3];
    const float *row_scale;
    int y_type, kind;
    // Whether `y` has 16-bit elements in rows that begin at multiples of 16 bytes.
    int has_wide_rows;
    const void *residual;
    int residual_type, residual_stride;
    // Blocks that share a tile, each a stretch of k: a cluster.
    int splits;
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
__device__ __forceinline__ float widen(float sum) { return sum; }
// Volatile, or all sums of a tile would be converted in front of the loop that takes some of them, and not fit.
__device__ __forceinline__ float widen(int sum) {
    float wide;
    asm volatile("cvt.rn.f32.s32 %0, %1;" : "=f"(wide) : "r"(sum));
    return wide;
}

// Biases of a tile's columns in shared memory, behind scales if there are any: each warp has its own, requested before the
// products.
template <typename T, int N> struct Columns {
    static constexpr int EACH = Element<T>::has_scales ? 2 : 1, BYTES = N * EACH * 4;
    float *values;
    // Of the i-th column; zeros where there is nothing.
    __device__ __forceinline__ void request(int i, int which, const float *from, bool is_there) {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(values + i * EACH + which)),
                     "l"(from), "r"(is_there ? 4 : 0)
                     : "memory");
    }
    template <bool IS_GATE> __device__ __forceinline__ void request(const Task &task, const Place &place) {
        const int n = select(task.n, place.matrix), lane = threadIdx.x % 32;
        // Every lane has what it wanted of the tile before.
        __syncwarp();
#pragma unroll
        for (int half = 0; half < 2; half++) {
            // A gate's columns are the halves of two matrices.
            const int matrix = IS_GATE ? half : place.matrix, first = IS_GATE ? 0 : half * (N / 2);
            const float *bias = select(task.bias, matrix), *scale = select(task.column_scale, matrix);
#pragma unroll
            for (int i = lane; i < N / 2; i += 32) {
                const int col = place.col + first + i;
                if (EACH == 2)
                    request(half * (N / 2) + i, 0, scale + col, col < n);
                request(half * (N / 2) + i, EACH - 1, bias + col, bias && col < n);
            }
        }
    }
    __device__ __forceinline__ void wait() const {
        asm volatile("cp.async.wait_all;" ::: "memory");
        __syncwarp();
    }
    // Scale, bias, scale, bias of a thread's columns 8 j and 8 j + 1 of a piece.
    __device__ __forceinline__ float4 at(int piece, int j) const {
        const float *from = values + (piece * PIECE + 8 * j + threadIdx.x % 4 * 2) * EACH;
        if (EACH == 2)
            return *(const float4 *)from;
        const float2 bias = *(const float2 *)from;
        return make_float4(1, bias.x, 1, bias.y);
    }
};

// Pairs of neighbours of any residual, on their way from memory: of rows `row` and `row + 8`, columns col + 8 j and the next.
struct AnyResidual {
    uint2 raw[2][4];
    // Without a branch between the requests: what does not exist is some other and ends in results that are dropped.
    template <typename F> __device__ __forceinline__ void each(const Task &task, int row, int col, int n, F load) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const u64 start = (u64)min(row + 8 * h, task.m - 1) * task.residual_stride;
#pragma unroll
            for (int j = 0; j < 4; j++)
                raw[h][j] = load(start + min(col + 8 * j, n - 1), start + min(col + 8 * j + 1, n - 1));
        }
    }
    __device__ __forceinline__ void load(const Task &task, int row, int col, int n) {
        const u32 *words = (const u32 *)task.residual;
        const u16 *halves = (const u16 *)task.residual;
        const bool is_f32 = task.residual_type == IS_F32;
        const bool is_paired =
            n % 2 == 0 && task.residual_stride % 2 == 0 && ((u64)task.residual & (is_f32 ? 7 : 3)) == 0;
        if (is_paired && is_f32)
            each(task, row, col, n, [&](u64 at, u64) { return ((const uint2 *)words)[at / 2]; });
        else if (is_paired)
            each(task, row, col, n, [&](u64 at, u64) { return make_uint2(((const u32 *)halves)[at / 2], 0); });
        else if (is_f32)
            each(task, row, col, n, [&](u64 at, u64 next) { return make_uint2(words[at], words[next]); });
        else
            each(task, row, col, n, [&](u64 at, u64 next) { return make_uint2(halves[at] | (u32)halves[next] << 16, 0); });
    }
    __device__ __forceinline__ float2 pair(int type, int h, int j) const {
        const uint2 word = raw[h][j];
        return type == IS_F32 ? make_float2(__uint_as_float(word.x), __uint_as_float(word.y))
                              : unpack_pair(word.x, type);
    }
};

// The sums of 32 columns of a tile, scaled, and their bias: of both rows of a thread, four pairs of columns.
template <typename T, int COUNT>
__device__ __forceinline__ void take(float (&v)[2][8], const typename Element<T>::Sum (&d)[COUNT],
                                     const Columns<T, 2 * COUNT> &columns, const float (&of_row)[2], int piece) {
#pragma unroll
    for (int c = 0; c < COUNT / 16; c++)
        if (c == piece)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float4 column = columns.at(c, j);
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    float low = widen(d[16 * c + 4 * j + 2 * h]), high = widen(d[16 * c + 4 * j + 2 * h + 1]);
                    if (Element<T>::has_scales)
                        low *= of_row[h] * column.x, high *= of_row[h] * column.z;
                    v[h][2 * j] = low + column.y;
                    v[h][2 * j + 1] = high + column.w;
                }
            }
}

// Results of any other kind: of rows `row` and `row + 8`, columns col + 8 j and the next.
template <typename F>
__device__ __forceinline__ void each_pair(const Task &task, int row, int n, int col, const float (&v)[2][8], F store) {
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (row + 8 * h < task.m && col + 8 * j < n)
                store((u64)(row + 8 * h) * n + col + 8 * j, v[h][2 * j], v[h][2 * j + 1], col + 8 * j + 1 < n);
}
__device__ __forceinline__ void store_pairs(void *y, const Task &task, int row, int n, int col, const float (&v)[2][8]) {
    const bool is_f32 = task.y_type == IS_F32;
    const bool is_paired = n % 2 == 0 && ((u64)y & (is_f32 ? 7 : 3)) == 0;
    if (is_paired && is_f32)
        each_pair(task, row, n, col, v,
                  [&](u64 at, float low, float high, bool) { ((float2 *)y)[at / 2] = make_float2(low, high); });
    else if (is_paired)
        each_pair(task, row, n, col, v,
                  [&](u64 at, float low, float high, bool) { ((u32 *)y)[at / 2] = pack_pair(task.y_type, low, high); });
    else
        each_pair(task, row, n, col, v, [&](u64 at, float low, float high, bool is_next) {
            store_one(y, task.y_type, at, low);
            if (is_next)
                store_one(y, task.y_type, at + 1, high);
        });
}

// What is added to results; the same numbers as bytes of its elements.
enum { NO_RESIDUAL = 0, HALVES = 2, FLOATS = 4 };

// A residual of which the first columns are requested before the products, as many as there are registers for. Those of rows
// and columns that do not exist are some other and end in results that are dropped.
template <typename T, int RESIDUAL> struct Residual {
    __device__ __forceinline__ void start(const Task &, const Place &, int) {}
};
// 16-bit elements, in rows that begin at multiples of 16 bytes: a line of 64 columns each, of four rows at a time. They pass
// through the warp's box to the threads that hold the sums.
template <typename T> struct Residual<T, HALVES> {
    static constexpr int BOXES = Element<T>::has_scales ? 1 : 2;
    uint4 raw[BOXES][4];
    __device__ __forceinline__ void start(const Task &task, const Place &place, int first_row) {
#pragma unroll
        for (int box = 0; box < BOXES; box++)
            load(task, place, first_row, box);
    }
    __device__ __forceinline__ void load(const Task &task, const Place &place, int first_row, int box) {
        const int lane = threadIdx.x % 32, row = first_row + lane / 8, col = place.col + box * BOX_COLS + lane % 8 * 8;
        const u16 *at = (const u16 *)task.residual + min(col, select(task.n, place.matrix) - 8);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint4 &v = raw[box % BOXES][i];
            // Volatile, or all of it would be requested at once, and not fit.
            asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                         : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                         : "l"(at + (u64)min(row + 4 * i, task.m - 1) * task.residual_stride));
        }
    }
    // What was requested of a box's columns, into the warp's box.
    __device__ __forceinline__ void put_down(u8 *box, int index) {
        const int lane = threadIdx.x % 32, chunk = lane % 8;
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int row = 4 * i + lane / 8;
            *(uint4 *)(box + row * 128 + (chunk ^ row % 8) * 16) = raw[index % BOXES][i];
        }
        __syncwarp();
    }
    // Of half a box's columns, pairs as a thread holds sums: of both rows, eight columns apart. Results may then take their
    // place.
    __device__ __forceinline__ void pick_up(const u8 *box, int half, u32 (&pairs)[2][4]) {
        const int lane = threadIdx.x % 32, row = lane % 16;
#pragma unroll
        for (int j = 0; j < 4; j += 2) {
            const int chunk = half * 4 + j + lane / 16;
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                         : "=r"(pairs[0][j]), "=r"(pairs[1][j]), "=r"(pairs[0][j + 1]), "=r"(pairs[1][j + 1])
                         : "r"(shared_address(box + row * 128 + (chunk ^ row % 8) * 16))
                         : "memory");
        }
        __syncwarp();
    }
};
// 32-bit elements, in whole pieces of columns and at even places: pairs as a thread holds sums.
template <typename T> struct Residual<T, FLOATS> {
    static constexpr int PIECES = 2;
    const float *from;
    u64 below;
    int cols;
    float2 raw[PIECES][2][4];
    __device__ __forceinline__ void start(const Task &task, const Place &place, int first_row) {
        const int lane = threadIdx.x % 32, row = min(first_row + lane / 4, task.m - 1), col = place.col + lane % 4 * 2;
        from = (const float *)task.residual + (u64)row * task.residual_stride + col;
        below = row + 8 < task.m ? (u64)8 * task.residual_stride : 0;
        cols = select(task.n, place.matrix) - col;
#pragma unroll
        for (int piece = 0; piece < PIECES; piece++)
            load(piece);
    }
    __device__ __forceinline__ void load(int piece) {
        const float *at = from + (piece * PIECE < cols ? piece * PIECE : 0);
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float2 &v = raw[piece % PIECES][h][j];
                asm volatile("ld.global.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "l"(at + h * below + 8 * j));
            }
    }
};

// Results of 32 columns into the first or second half of a warp's box: rows of 128 bytes, swizzled.
__device__ __forceinline__ void pack(u8 *box, int y_type, const float (&v)[2][8], int half) {
    // Each thread says where a row of one of four 8 x 8 matrices belongs.
    const int lane = threadIdx.x % 32, row = lane % 16;
#pragma unroll
    for (int j = 0; j < 4; j += 2) {
        const int chunk = half * 4 + j + lane / 16;
        asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                         shared_address(box + row * 128 + (chunk ^ row % 8) * 16)),
                     "r"(pack_pair(y_type, v[0][2 * j], v[0][2 * j + 1])),
                     "r"(pack_pair(y_type, v[1][2 * j], v[1][2 * j + 1])),
                     "r"(pack_pair(y_type, v[0][2 * j + 2], v[0][2 * j + 3])),
                     "r"(pack_pair(y_type, v[1][2 * j + 2], v[1][2 * j + 3]))
                     : "memory");
    }
}
// A box that is full to its place: four rows at a time, a line each.
__device__ __forceinline__ void put(const u8 *box, void *y, int m, int n, int first_row, int first_col) {
    const int lane = threadIdx.x % 32, chunk = lane % 8, col = first_col + chunk * 8;
    __syncwarp();
    uint4 lines[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int row = 4 * i + lane / 8;
        lines[i] = *(const uint4 *)(box + row * 128 + (chunk ^ row % 8) * 16);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int row = first_row + 4 * i + lane / 8;
        if (row < m && col < n)
            *(uint4 *)((u16 *)y + (u64)row * n + col) = lines[i];
    }
}

// The usual cases by themselves, all columns of a tile without a branch between them: a warp has hardly another one to hide
// behind while it does this. Results are wide rows of 16 bits, or floats if the residual is.
template <typename T, int COUNT, bool IS_GATE, int RESIDUAL, int KIND>
__device__ __forceinline__ void finish_usual(const Task &task, const Place &place, u8 *box,
                                             const typename Element<T>::Sum (&d)[COUNT],
                                             const Columns<T, 2 * COUNT> &columns, const float (&of_row)[2],
                                             Residual<T, RESIDUAL> &residual, int first_row) {
    const int PIECES = COUNT / 16 / (IS_GATE ? 2 : 1), lane = threadIdx.x % 32;
    const int n = select(task.n, place.matrix), row = first_row + lane / 4;
    void *y = select(task.y, place.matrix);
#pragma unroll
    for (int i = 0; i < PIECES / 2; i++) {
        if (place.col + i * BOX_COLS >= n)
            return;
        if constexpr (RESIDUAL == HALVES) {
            residual.put_down(box, i);
            if (i + residual.BOXES < PIECES / 2)
                residual.load(task, place, first_row, i + residual.BOXES);
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int piece = 2 * i + half;
            float v[2][8];
            take<T>(v, d, columns, of_row, piece);
#pragma unroll
            for (int e = 0; e < 8; e++)
                v[0][e] = activation(KIND, v[0][e]), v[1][e] = activation(KIND, v[1][e]);
            if (IS_GATE) {
                float u[2][8];
                take<T>(u, d, columns, of_row, piece + PIECES);
#pragma unroll
                for (int e = 0; e < 8; e++)
                    v[0][e] *= u[0][e], v[1][e] *= u[1][e];
            }
            if constexpr (RESIDUAL == HALVES) {
                u32 pairs[2][4];
                residual.pick_up(box, half, pairs);
#pragma unroll
                for (int h = 0; h < 2; h++)
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        const float2 pair = unpack_pair(pairs[h][j], task.residual_type);
                        v[h][2 * j] += pair.x, v[h][2 * j + 1] += pair.y;
                    }
            }
            if constexpr (RESIDUAL == FLOATS) {
                float *to = (float *)y + (u64)row * n + place.col + piece * PIECE + lane % 4 * 2;
#pragma unroll
                for (int h = 0; h < 2; h++)
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        const float2 pair = residual.raw[piece % residual.PIECES][h][j];
                        if (row + 8 * h < task.m && place.col + piece * PIECE < n)
                            *(float2 *)(to + h * 8 * n + 8 * j) = make_float2(v[h][2 * j] + pair.x, v[h][2 * j + 1] + pair.y);
                    }
                if (piece + residual.PIECES < PIECES)
                    residual.load(piece + residual.PIECES);
            } else {
                pack(box, task.y_type, v, half);
            }
        }
        if (RESIDUAL != FLOATS)
            put(box, y, task.m, n, first_row, place.col + i * BOX_COLS);
    }
}

// A warp's 16 rows of a tile, from sums to results.
template <typename T, int COUNT, bool IS_GATE, int RESIDUAL>
__device__ __forceinline__ void finish(const Task &task, const Place &place, u8 *box,
                                       const typename Element<T>::Sum (&d)[COUNT],
                                       const Columns<T, 2 * COUNT> &columns, const float (&of_row)[2],
                                       Residual<T, RESIDUAL> &residual, int first_row) {
    const int PIECES = COUNT / 16 / (IS_GATE ? 2 : 1), lane = threadIdx.x % 32, row = first_row + lane / 4;
    const int n = select(task.n, place.matrix), first_col = place.col + lane % 4 * 2;
#define USUAL(KIND)                                                                                                    \
    if (task.kind == KIND) {                                                                                           \
        finish_usual<T, COUNT, IS_GATE, RESIDUAL, KIND>(task, place, box, d, columns, of_row, residual, first_row);    \
        return;                                                                                                        \
    }
    if constexpr (RESIDUAL != NO_RESIDUAL) {
        finish_usual<T, COUNT, false, RESIDUAL, NO_ACTIVATION>(task, place, box, d, columns, of_row, residual, first_row);
        return;
    } else if (task.has_wide_rows && !task.residual) {
        if constexpr (!IS_GATE)
            USUAL(NO_ACTIVATION)
        // With scales there are no registers for more.
        if constexpr (IS_GATE && !Element<T>::has_scales)
            USUAL(SILU)
        if constexpr (!IS_GATE && !Element<T>::has_scales) {
            USUAL(GELU_ERF)
            USUAL(GELU_TANH)
        }
    }
#undef USUAL
    void *y = select(task.y, place.matrix);
#pragma unroll 1
    for (int piece = 0; piece < PIECES && place.col + piece * PIECE < n; piece++) {
        const int col = first_col + piece * PIECE;
        float v[2][8];
        take<T>(v, d, columns, of_row, piece);
        activate_eight(task.kind, v[0]);
        activate_eight(task.kind, v[1]);
        if (IS_GATE) {
            float u[2][8];
            take<T>(u, d, columns, of_row, piece + PIECES);
#pragma unroll
            for (int i = 0; i < 8; i++)
                v[0][i] *= u[0][i], v[1][i] *= u[1][i];
        }
        if (!IS_GATE && task.residual)
#pragma unroll
            for (int i = 0; i < 16; i++) {
                const int r = row + i / 8 * 8, c = col + i % 8 / 2 * 8 + i % 2;
                if (r < task.m && c < n)
                    v[i / 8][i % 8] += load_one(task.residual, task.residual_type, (u64)r * task.residual_stride + c);
            }
        if (!task.has_wide_rows) {
            store_pairs(y, task, row, n, col, v);
            continue;
        }
        pack(box, task.y_type, v, piece % 2);
        if (piece % 2 == 1 || piece + 1 == PIECES || place.col + (piece + 1) * PIECE >= n)
            put(box, y, task.m, n, first_row, place.col + piece / 2 * BOX_COLS);
    }
}
