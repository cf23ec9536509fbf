// Draws a token from each row of logits, a block per row, in the whole numbers of `sampling.rs`: what is summed by many
// threads in any order is what one thread sums. Each pass reads the row again, which the second-level cache holds.

#define COLUMNS 1024
#define DIGIT 10
constexpr u32 NEVER = 1u << 30;

// How far below the largest logit, in 2^-24 of a bit. Each operation is rounded by itself, as on the host.
struct Row {
    const void *x;
    u64 first;
    int type, n;
    float largest, distance_of_one;
    __device__ __forceinline__ u32 distance(int i) const {
        const float below = __fmul_rn(__fsub_rn(largest, load_one(x, type, first + i)), distance_of_one);
        return below < (float)NEVER ? (u32)below : NEVER;
    }
};

// 2^40 2^-distance.
__device__ __forceinline__ u64 weight_of(u32 distance) {
    const float x = __fmul_rn((float)(distance & 0xffffff), 1.0f / (1 << 24));
    float power = 1.1141689e-4f;
    power = __fadd_rn(__fmul_rn(power, x), -1.2823497e-3f);
    power = __fadd_rn(__fmul_rn(power, x), 9.588331e-3f);
    power = __fadd_rn(__fmul_rn(power, x), -5.54959e-2f);
    power = __fadd_rn(__fmul_rn(power, x), 2.4022569e-1f);
    power = __fadd_rn(__fmul_rn(power, x), -0.6931472f);
    power = __fadd_rn(__fmul_rn(power, x), 1.0f);
    return distance < NEVER ? (u64)(u32)__fmul_rn(power, 16777216.0f) << 16 >> (distance >> 24) : 0;
}

// The sum up to and with each thread's number (Hillis and Steele 1986), also left in `sums`.
__device__ __forceinline__ u64 sum_up_to(u64 x, u64 *sums) {
    sums[threadIdx.x] = x;
    __syncthreads();
    for (int reach = 1; reach < COLUMNS; reach *= 2) {
        const u64 before = (int)threadIdx.x >= reach ? sums[threadIdx.x - reach] : 0;
        __syncthreads();
        x += before;
        sums[threadIdx.x] = x;
        __syncthreads();
    }
    return x;
}

// Bits that compare as numbers do, 0 for NaN.
__device__ __forceinline__ u32 order_of(float x) {
    // Zero has one sign.
    const u32 bits = __float_as_uint(__fadd_rn(x, 0.0f));
    return x == x ? (bits >> 31 ? ~bits : bits | 0x80000000u) : 0;
}

// The distance within which numbers of tokens, or weights, sum up to a target; digit by digit.
template <bool IS_WEIGHT, typename TARGET>
__device__ __forceinline__ u32 reach(const Row &row, u32 farthest, u64 *sums, TARGET target_of) {
    __shared__ u32 digit;
    __shared__ u64 in_front;
    u32 known = 0;
    u64 target = 0;
    for (int shift = 2 * DIGIT; shift >= 0; shift -= DIGIT) {
        __syncthreads();
        sums[threadIdx.x] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < row.n; i += COLUMNS) {
            const u32 distance = row.distance(i);
            if (distance <= farthest && distance >> (shift + DIGIT) == known)
                atomicAdd(&sums[distance >> shift & ((1 << DIGIT) - 1)], IS_WEIGHT ? weight_of(distance) : 1ull);
        }
        __syncthreads();
        const u64 own = sums[threadIdx.x], up_to = sum_up_to(own, sums);
        if (shift == 2 * DIGIT)
            target = max(target_of(sums[COLUMNS - 1]), 1ull);
        if (up_to >= target && up_to - own < target) {
            digit = threadIdx.x;
            in_front = up_to - own;
        }
        __syncthreads();
        known = known << DIGIT | digit;
        target -= in_front;
    }
    return known;
}

// index [rows]: drawn from each row of x [rows, n] by three words a row: the distance of one as a float and top-k,
// top-p in 2^-64, and what is random. A distance, a k or a p of zero stand for the most likely token, and for no limit.
extern "C" __global__ void __launch_bounds__(COLUMNS)
    sample(const void *x, int type, int stride, int n, const u64 *draws, u32 *index) {
    __shared__ u64 sums[COLUMNS];
    __shared__ u64 best;
    __shared__ u64 left;
    __shared__ u32 column;
    let_next_start();
    if (threadIdx.x == 0)
        best = 0;
    __syncthreads();
    wait_for_previous();
    Row row = {x, (u64)blockIdx.x * stride, type, n, 0.0f, 0.0f};
    const u64 *draw = draws + (u64)blockIdx.x * 3;
    const u32 top_k = (u32)(draw[0] >> 32);
    const u64 top_p = draw[1];
    row.distance_of_one = __uint_as_float((u32)draw[0]);
    // The largest, and of equals the first.
    u64 own = 0;
    for (int i = threadIdx.x; i < n; i += COLUMNS)
        own = max(own, (u64)order_of(load_one(x, type, row.first + i)) << 32 | (u32)~i);
    atomicMax(&best, own);
    __syncthreads();
    const bool is_number = best >> 32 != 0;
    const u32 most_likely = is_number ? ~(u32)best : 0;
    row.largest = load_one(x, type, row.first + most_likely);
    if (row.distance_of_one == 0.0f || !(fabsf(row.largest) < __uint_as_float(0x7f800000))) {
        if (threadIdx.x == 0)
            index[blockIdx.x] = most_likely;
        return;
    }
    u32 farthest = NEVER - 1;
    if (top_k)
        farthest = reach<false>(row, farthest, sums, [&](u64 total) { return min(total, (u64)top_k); });
    if (top_p)
        farthest = reach<true>(row, farthest, sums, [&](u64 total) { return __umul64hi(total, top_p); });
    own = 0;
    for (int i = threadIdx.x; i < n; i += COLUMNS) {
        const u32 distance = row.distance(i);
        own += distance <= farthest ? weight_of(distance) : 0;
    }
    u64 up_to = sum_up_to(own, sums);
    const u64 share = __umul64hi(sums[COLUMNS - 1], draw[2]);
    if (up_to > share && up_to - own <= share) {
        column = threadIdx.x;
        left = share - (up_to - own);
    }
    __syncthreads();
    // A thread for each token of the column.
    const int i = threadIdx.x * COLUMNS + column;
    const u32 distance = i < n ? row.distance(i) : NEVER;
    own = distance <= farthest ? weight_of(distance) : 0;
    up_to = sum_up_to(own, sums);
    if (up_to > left && up_to - own <= left)
        index[blockIdx.x] = i;
}
