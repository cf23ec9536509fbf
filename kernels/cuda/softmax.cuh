// The softmax of attention, tile by tile of keys (Dao et al. 2022), on scores as tensor cores leave them: a thread holds rows
// `lane / 4` and eight further of its warp's 16, of every eight columns the two behind `2 (lane % 4)`.

// Which keys a sequence's queries see, and what becomes of a score: times `scale`, plus `slope` times its key; both are in
// units of ln 2, so that weights are powers of two. The scale is positive.
struct Sight {
    int keys, causal, window;
    float scale, slope;
    const u8 *mask;
    int mask_size;

    // Whether a warp's 16 queries from `position` on see all keys of a tile, and nothing is added to their scores.
    __device__ __forceinline__ bool is_clear(int base, int tile, int position) const {
        const int last = base + tile - 1;
        return last < keys && (!causal || last <= position) && mask == nullptr && slope == 0.0f &&
               (window <= 0 || (base > position + 15 - window && last < position + window));
    }
    __device__ __forceinline__ bool sees(int position, int key) const {
        return key < keys && (!causal || key <= position) &&
               (window <= 0 || (key > position - window && key < position + window)) &&
               (!mask || (key < mask_size && mask[key]));
    }
};

// Of a thread's two rows: the largest score so far, and the sum of their weights, each thread of a row its own part.
struct Softmax {
    float best[2], sum[2];

    __device__ __forceinline__ void start() {
        best[0] = best[1] = __int_as_float(0xff800000);
        sum[0] = sum[1] = 0;
    }

    // Makes weights of the scores of a tile of keys, of which `base` is the first, and scales what is summed up so far.
    // `position`: of the warp's first query.
    template <int SCORES, int RESULTS>
    __device__ __forceinline__ void update(float (&score)[SCORES], float (&result)[RESULTS], const Sight &sight, int base,
                                           int position) {
        const float minus_infinity = __int_as_float(0xff800000);
        const int lane = threadIdx.x % 32;
        float tile_best[2] = {minus_infinity, minus_infinity};
        // Only tiles on the edge of what is visible are looked at key by key; the scores of others are scaled on the way to
        // weights.
        const bool is_clear = sight.is_clear(base, 2 * SCORES, position);
        const float factor = is_clear ? sight.scale : 1.0f;
        if (is_clear) {
#pragma unroll
            for (int i = 0; i < SCORES; i++)
                tile_best[i / 2 % 2] = fmaxf(tile_best[i / 2 % 2], score[i]);
            tile_best[0] *= factor;
            tile_best[1] *= factor;
        } else {
#pragma unroll
            for (int i = 0; i < SCORES; i++) {
                const int key = base + i / 4 * 8 + lane % 4 * 2 + i % 2;
                const bool is_visible = sight.sees(position + lane / 4 + i / 2 % 2 * 8, key);
                score[i] = is_visible ? score[i] * sight.scale + sight.slope * key : minus_infinity;
                tile_best[i / 2 % 2] = fmaxf(tile_best[i / 2 % 2], score[i]);
            }
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            tile_best[r] = fmaxf(tile_best[r], __shfl_xor_sync(0xffffffffu, tile_best[r], 1));
            tile_best[r] = fmaxf(tile_best[r], __shfl_xor_sync(0xffffffffu, tile_best[r], 2));
            const float new_best = fmaxf(best[r], tile_best[r]);
            // Nothing visible yet: no infinity is subtracted from itself.
            const float shift = new_best == minus_infinity ? 0.0f : new_best;
            const float correction = exp2_fast(best[r] - shift);
            float tile_sum = 0;
            best[r] = new_best;
#pragma unroll
            for (int i = 2 * r; i < SCORES; i += 4)
#pragma unroll
                for (int e = i; e < i + 2; e++) {
                    score[e] = exp2_fast(fmaf(score[e], factor, -shift));
                    tile_sum += score[e];
                }
            sum[r] = sum[r] * correction + tile_sum;
#pragma unroll
            for (int i = 2 * r; i < RESULTS; i += 4) {
                result[i] *= correction;
                result[i + 1] *= correction;
            }
        }
    }

    // What results are multiplied by in the end; zero where a query saw nothing.
    __device__ __forceinline__ float inverse(int r) {
        sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
        sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
        return sum[r] > 0 ? 1.0f / sum[r] : 0.0f;
    }
};

// 16 bytes into shared memory, zeros where there is nothing to copy.
__device__ __forceinline__ void copy16(u32 to, const void *from, bool exists) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(exists ? 16 : 0));
}
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING> __device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// What is visible to any of a sequence's queries from one position to another: its first key, a multiple of a tile, and the
// end.
__device__ __forceinline__ int2 visible_keys(const Sight &sight, int first_position, int last_position, int tile) {
    int begin = 0, end = sight.causal ? min(sight.keys, last_position + 1) : sight.keys;
    if (sight.window > 0) {
        begin = max(0, first_position - sight.window + 1);
        end = min(end, last_position + sight.window);
    }
    return make_int2(begin / tile * tile, end);
}
