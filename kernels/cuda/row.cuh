// A row of x on its way into shared memory, normalised and rounded, for products of one row.

struct Row {
    const void *data;
    int type, k;
    // 0 none, 1 LayerNorm, 2 RMSNorm.
    int norm_kind;
    const float *gain, *shift;
    float eps;
    int rounding;
    float given_scale;
};

// Eight neighbours, COUNT times a block's width apart and all on their way from memory at once: a row in the second-level
// cache is a long way off, and a block that asked for one piece after the other would spend more time on it than on its
// weights. IS_WIDE: 32-bit elements; whatever is not there as whole 16-byte pieces is collected as such, too.
template <bool IS_WIDE, int COUNT> struct Eights {
    uint4 raw[COUNT][IS_WIDE ? 2 : 1];
    __device__ __forceinline__ void load(const void *data, int type, int first, int k, bool is_whole) {
#pragma unroll
        for (int j = 0; j < COUNT; j++) {
            const int i = first + (threadIdx.x + j * blockDim.x) * 8;
#pragma unroll
            for (int h = 0; h < (IS_WIDE ? 2 : 1); h++) {
                uint4 word = make_uint4(0, 0, 0, 0);
                if (is_whole && i < k)
                    word = IS_WIDE ? *(const uint4 *)((const float *)data + i + 4 * h) : *(const uint4 *)((const u16 *)data + i);
                else if (IS_WIDE && i + 4 * h < k)
                    word = collect(data, type, i + 4 * h, k);
                raw[j][h] = word;
            }
        }
    }
    __device__ __forceinline__ void get(int j, int type, float *v) const {
        const u32 *words = (const u32 *)raw[j];
#pragma unroll
        for (int e = 0; e < 8; e += 2) {
            float2 pair = IS_WIDE ? make_float2(__uint_as_float(words[e]), __uint_as_float(words[e + 1]))
                                  : unpack_pair(words[e / 2], type);
            v[e] = pair.x, v[e + 1] = pair.y;
        }
    }
    static __device__ __forceinline__ uint4 collect(const void *data, int type, int i, int k) {
        float v[4];
#pragma unroll
        for (int e = 0; e < 4; e++)
            v[e] = i + e < k ? load_one(data, type, i + e) : 0.0f;
        return make_uint4(__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]), __float_as_uint(v[3]));
    }
};

// Everything of a row that a thread takes, as `use(first, elements)`. Whoever does so again finds it in the first-level
// cache.
template <bool IS_WIDE, int COUNT, typename USE>
__device__ __forceinline__ void visit(const Row &x, int to, bool is_whole, USE use) {
    const int width = blockDim.x * 8, own = threadIdx.x * 8;
#pragma unroll 1
    for (int first = 0; first < to; first += COUNT * width) {
        Eights<IS_WIDE, COUNT> some;
        some.load(x.data, x.type, first, x.k, is_whole);
#pragma unroll
        for (int j = 0; j < COUNT; j++) {
            float v[8];
            some.get(j, x.type, v);
            if (first + own + j * width < to)
                use(first + own + j * width, v);
        }
    }
}

// Four neighbours of a norm's vector; zero beyond its end, which makes zeros of whatever is normalised there.
__device__ __forceinline__ uint4 vector_at(const float *vector, int i, int k) {
    return i + 4 <= k ? *(const uint4 *)(vector + i) : Eights<true, 1>::collect(vector, IS_F32, i, k);
}

template <bool IS_WIDE, int AT_ONCE, typename PUT>
__device__ __forceinline__ float stage_row_as(const Row &x, int to, bool is_whole, float *scratch, PUT put) {
    const int COUNT = IS_WIDE ? 1 : (AT_ONCE + 1) / 2;
    // Rows that are only copied are the long ones, and leave more registers.
    if (!x.norm_kind && !x.rounding) {
        visit<IS_WIDE, IS_WIDE ? (AT_ONCE + 1) / 2 : AT_ONCE>(x, to, is_whole, put);
        return 1;
    }
    float mean = 0, inverse = 1;
    if (x.norm_kind) {
        float sum = 0;
        if (x.norm_kind == 1) {
            visit<IS_WIDE, COUNT>(x, to, is_whole, [&](int, float *v) {
#pragma unroll
                for (int e = 0; e < 8; e++)
                    sum += v[e];
            });
            mean = block_sum(sum, scratch) / x.k;
            sum = 0;
        }
        visit<IS_WIDE, COUNT>(x, to, is_whole, [&](int i, float *v) {
#pragma unroll
            for (int e = 0; e < 8; e++)
                sum += i + e < x.k ? (v[e] - mean) * (v[e] - mean) : 0.0f;
        });
        inverse = 1.0f / sqrtf(block_sum(sum, scratch) / x.k + x.eps);
    }
    auto normalise = [&](int i, float *v) {
        if (!x.norm_kind)
            return;
        // One vector after the other, four elements at a time: registers are full of weights.
#pragma unroll
        for (int h = 0; h < 8; h += 4) {
            const uint4 gain = vector_at(x.gain, i + h, x.k);
            v[h] = (v[h] - mean) * inverse * __uint_as_float(gain.x);
            v[h + 1] = (v[h + 1] - mean) * inverse * __uint_as_float(gain.y);
            v[h + 2] = (v[h + 2] - mean) * inverse * __uint_as_float(gain.z);
            v[h + 3] = (v[h + 3] - mean) * inverse * __uint_as_float(gain.w);
        }
        if (!x.shift)
            return;
#pragma unroll
        for (int h = 0; h < 8; h += 4) {
            const uint4 shift = vector_at(x.shift, i + h, x.k);
            v[h] += __uint_as_float(shift.x), v[h + 1] += __uint_as_float(shift.y);
            v[h + 2] += __uint_as_float(shift.z), v[h + 3] += __uint_as_float(shift.w);
        }
    };
    float scale = 1;
    if (x.rounding) {
        float largest = 0;
        if (x.given_scale <= 0)
            visit<IS_WIDE, COUNT>(x, to, is_whole, [&](int i, float *v) {
                normalise(i, v);
#pragma unroll
                for (int e = 0; e < 8; e++)
                    largest = fmaxf(largest, fabsf(v[e]));
            });
        scale = scale_of_row(block_max(largest, scratch), x.rounding, x.given_scale);
    }
    const float inverse_scale = 1.0f / scale;
    visit<IS_WIDE, COUNT>(x, to, is_whole, [&](int i, float *v) {
        normalise(i, v);
        if (x.rounding)
#pragma unroll
            for (int e = 0; e < 8; e++)
                v[e] = round_input(v[e], inverse_scale, x.rounding);
        put(i, v);
    });
    return scale;
}

// Brings the norm's vectors into the first-level cache: what no kernel writes is requested before waiting for x.
__device__ __forceinline__ void expect_row(const Row &x) {
    if (!x.norm_kind)
        return;
    for (int i = threadIdx.x * 8; i < x.k; i += blockDim.x * 8) {
        touch(x.gain + i);
        if (x.shift)
            touch(x.shift + i);
    }
}

// `put(first, elements)` takes eight elements at a time; those from k up to `to`, a multiple of 8, are zero. AT_ONCE: how many
// times eight elements a thread may have on their way. Returns what multiplies the sums.
template <int AT_ONCE, typename PUT> __device__ float stage_row(const Row &x, int to, float *scratch, PUT put) {
    const bool is_whole = x.k % 8 == 0 && ((u64)x.data & 15) == 0;
    return x.type == IS_F32 || !is_whole ? stage_row_as<true, AT_ONCE>(x, to, is_whole && x.type == IS_F32, scratch, put)
                                         : stage_row_as<false, AT_ONCE>(x, to, true, scratch, put);
}
