// gemv.cu once more for Hopper, whose copy engine brings the weights: y [n] = norm(x) [k] w [n, k]^T + bias.
//
// Each warp owns a ring of 2 KiB slots in shared memory, asks the copy engine for the next slots of its rows, and
// multiplies what has arrived. No register holds a weight that is on its way, so a block is small enough for the next
// kernel's blocks to lie beside it: they fill their rings while this kernel finishes, and while x is normalised.

#define WARPS 8
#define SLOT_BYTES 2048
#define MAX_SLOTS 8

__device__ __forceinline__ u32 shared_address(const void *pointer) { return (u32)__cvta_generic_to_shared(pointer); }

__device__ __forceinline__ void init_barrier(u64 *barrier) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barrier)));
}
__device__ __forceinline__ void fetch(void *to, const void *from, u32 bytes, u64 *barrier) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(to)),
                 "l"(from), "r"(bytes), "r"(shared_address(barrier))
                 : "memory");
}
__device__ __forceinline__ void await(u64 *barrier, u32 phase) {
    asm volatile("{\n.reg .pred done;\nagain:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra.uni over;\nbra.uni again;\n"
                 "over:\n}" ::"r"(shared_address(barrier)),
                 "r"(phase)
                 : "memory");
}

// Up to three matrices one below the other, all with the same x.
template <typename W> struct Segments {
    const W *w0, *w1, *w2;
    const float *bias0, *bias1, *bias2;
    float *y0, *y1, *y2;
    int end0, end1, rows, is_gate;
};

// A place in a warp's sequence of slots: which row, which half of a gate, which element of the row.
template <typename W> struct Cursor {
    int unit, half, at;
    const W *row;

    __device__ __forceinline__ void find_row(const Segments<W> &s, int k) {
        u64 width = (u64)k;
        if (s.is_gate)
            row = (half ? s.w1 : s.w0) + unit * width;
        else if (unit < s.end0)
            row = s.w0 + unit * width;
        else if (unit < s.end1)
            row = s.w1 + (unit - s.end0) * width;
        else
            row = s.w2 + (unit - s.end1) * width;
    }
    // True at the end of a row.
    __device__ __forceinline__ bool advance(const Segments<W> &s, int k, int step) {
        at += SLOT_BYTES / (int)sizeof(W);
        if (at < k)
            return false;
        at = 0;
        if (s.is_gate && half == 0) {
            half = 1;
        } else {
            half = 0;
            unit += step;
        }
        if (unit < s.rows)
            find_row(s, k);
        return true;
    }
};

// x is kept so that lanes that read 8 (or 4) neighbours in 16-byte pieces hit all banks.
template <typename W> __device__ __forceinline__ int place(int i, int k) {
    if (sizeof(W) == 4)
        return i;
    return (i & 4 ? (k + 7) / 8 * 4 : 0) + i / 8 * 4 + (i & 3);
}

__device__ __forceinline__ float dot(uint4 w, const float *x, int piece, int, float) {
    float4 a = *(const float4 *)(x + piece * 4);
    return __uint_as_float(w.x) * a.x + __uint_as_float(w.y) * a.y + __uint_as_float(w.z) * a.z +
           __uint_as_float(w.w) * a.w;
}
template <typename W> __device__ __forceinline__ float dot(uint4 w, const float *x, int piece, int k, W) {
    float4 a = *(const float4 *)(x + piece * 4), b = *(const float4 *)(x + (k + 7) / 8 * 4 + piece * 4);
    float2 w0 = pair_to_f32<W>(w.x), w1 = pair_to_f32<W>(w.y), w2 = pair_to_f32<W>(w.z), w3 = pair_to_f32<W>(w.w);
    return (w0.x * a.x + w0.y * a.y) + (w1.x * a.z + w1.y * a.w) + ((w2.x * b.x + w2.y * b.y) + (w3.x * b.z + w3.y * b.w));
}

// Elements of x that a thread keeps between the passes of a norm.
#define KEPT 16

template <typename W>
__device__ void stage(const float *x, int k, int norm_kind, const float *gain, const float *shift, float eps,
                      float *xs, float *scratch) {
    float kept[KEPT];
    float sum = 0;
#pragma unroll
    for (int j = 0; j < KEPT; j++) {
        int i = threadIdx.x + j * WARPS * 32;
        kept[j] = i < k ? x[i] : 0.0f;
        sum += kept[j];
    }
    float mean = 0, inverse = 1;
    if (norm_kind) {
        if (norm_kind == 1) {
            for (int i = threadIdx.x + KEPT * WARPS * 32; i < k; i += WARPS * 32)
                sum += x[i];
            mean = block_sum(sum, scratch) / k;
        }
        float squares = 0;
#pragma unroll
        for (int j = 0; j < KEPT; j++) {
            float centred = threadIdx.x + j * WARPS * 32 < k ? kept[j] - mean : 0.0f;
            squares += centred * centred;
        }
        for (int i = threadIdx.x + KEPT * WARPS * 32; i < k; i += WARPS * 32) {
            float centred = x[i] - mean;
            squares += centred * centred;
        }
        inverse = 1.0f / sqrtf(block_sum(squares, scratch) / k + eps);
    }
#pragma unroll
    for (int j = 0; j < KEPT; j++) {
        int i = threadIdx.x + j * WARPS * 32;
        if (i < k) {
            float value = kept[j];
            if (norm_kind)
                value = (value - mean) * inverse * gain[i] + (shift ? shift[i] : 0.0f);
            xs[place<W>(i, k)] = value;
        }
    }
#pragma unroll 8
    for (int i = threadIdx.x + KEPT * WARPS * 32; i < k; i += WARPS * 32) {
        float value = x[i];
        if (norm_kind)
            value = (value - mean) * inverse * gain[i] + (shift ? shift[i] : 0.0f);
        xs[place<W>(i, k)] = value;
    }
    __syncthreads();
}

template <typename W>
__device__ void gemv(const float *x, int k, int norm_kind, const float *gain, const float *shift, float eps,
                     const Segments<W> &s, int kind, const float *residual, int slots) {
    extern __shared__ __align__(128) u8 shared[];
    __shared__ u64 barriers[WARPS * MAX_SLOTS];
    __shared__ float scratch[32];
    let_next_start();
    const int COUNT = 16 / (int)sizeof(W);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    u8 *ring = shared + warp * slots * SLOT_BYTES;
    float *xs = (float *)(shared + WARPS * slots * SLOT_BYTES);
    u64 *full = barriers + warp * MAX_SLOTS;
    // Neighbouring warps of different blocks take neighbouring rows: all multiprocessors finish together.
    const int step = gridDim.x * WARPS;
    Cursor<W> here = {warp * (int)gridDim.x + (int)blockIdx.x, 0, 0, s.w0};
    if (here.unit < s.rows)
        here.find_row(s, k);
    Cursor<W> ahead = here;
    auto request = [&](int slot) {
        u32 bytes = min(SLOT_BYTES, (k - ahead.at) * (int)sizeof(W));
        fetch(ring + slot * SLOT_BYTES, ahead.row + ahead.at, bytes, full + slot);
    };
    if (lane == 0) {
        for (int i = 0; i < slots; i++)
            init_barrier(full + i);
        // The copy engine sees the barriers, not only this thread.
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncwarp();
    for (int i = 0; i < slots && ahead.unit < s.rows; i++) {
        if (lane == 0)
            request(i);
        ahead.advance(s, k, step);
    }
    wait_for_previous();
    stage<W>(x, k, norm_kind, gain, shift, eps, xs, scratch);
    float sum = 0, gate_sum = 0;
    int slot = 0;
    u32 phase = 0;
    while (here.unit < s.rows) {
        await(full + slot, phase);
        const uint4 *pieces = (const uint4 *)(ring + slot * SLOT_BYTES);
        const int first = here.at / COUNT, count = min(SLOT_BYTES / 16, k / COUNT - first);
        if (count == SLOT_BYTES / 16) {
#pragma unroll
            for (int i = 0; i < SLOT_BYTES / 512; i++)
                sum += dot(pieces[lane + 32 * i], xs, first + lane + 32 * i, k, W());
        } else {
            for (int i = lane; i < count; i += 32)
                sum += dot(pieces[i], xs, first + i, k, W());
        }
        // Every lane is done with the slot before it is filled again.
        __syncwarp();
        if (ahead.unit < s.rows) {
            if (lane == 0)
                request(slot);
            ahead.advance(s, k, step);
        }
        if (++slot == slots) {
            slot = 0;
            phase ^= 1;
        }
        const int unit = here.unit, half = here.half;
        if (here.advance(s, k, step)) {
            float total = warp_sum(sum);
            sum = 0;
            if (s.is_gate && half == 0) {
                gate_sum = total;
            } else if (lane == 0) {
                if (s.is_gate) {
                    float g = gate_sum + (s.bias0 ? s.bias0[unit] : 0.0f);
                    float u = total + (s.bias1 ? s.bias1[unit] : 0.0f);
                    s.y0[unit] = activation(kind, g) * u;
                } else {
                    int begin = unit < s.end0 ? 0 : unit < s.end1 ? s.end0 : s.end1;
                    const float *bias = unit < s.end0 ? s.bias0 : unit < s.end1 ? s.bias1 : s.bias2;
                    float *y = unit < s.end0 ? s.y0 : unit < s.end1 ? s.y1 : s.y2;
                    float value = activation(kind, total + (bias ? bias[unit - begin] : 0.0f));
                    y[unit - begin] = residual ? value + residual[unit] : value;
                }
            }
        }
    }
}

// Arguments as in gemv.cu, and the number of slots of a warp's ring.
#define GEMV(NAME, W)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(WARPS * 32, 2)                                                        \
        NAME(const float *x, int k, int norm_kind, const float *gain, const float *shift, float eps, const W *w0,      \
             const float *bias0, float *y0, int n0, const W *w1, const float *bias1, float *y1, int n1, const W *w2,   \
             const float *bias2, float *y2, int n2, int is_gate, int kind, const float *residual, int slots) {         \
        Segments<W> s = {w0, w1, w2, bias0, bias1, bias2, y0, y1, y2, n0, n0 + n1, is_gate ? n0 : n0 + n1 + n2, is_gate}; \
        gemv<W>(x, k, norm_kind, gain, shift, eps, s, kind, residual, slots);                                          \
    }
GEMV(gemv_bulk_f32, float)
GEMV(gemv_bulk_f16, f16)
GEMV(gemv_bulk_bf16, bf16)
