// What every kernel file starts with. Written without a single header, so that NVRTC alone compiles it.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#if __CUDA_ARCH__ >= 900
#define HAS_OVERLAP 1
#else
#define HAS_OVERLAP 0
#endif

// Lets the next kernel start while this one runs; it waits by itself before it reads.
__device__ __forceinline__ void let_next_start() {
#if HAS_OVERLAP
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// Everything the kernels in front have written is visible behind this. Every kernel calls it, even one that would not
// need to: a kernel's end stands for the end of all in front of it.
__device__ __forceinline__ void wait_for_previous() {
#if HAS_OVERLAP
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}
__device__ __forceinline__ float to_f32(bf16 x) { return __uint_as_float((u32)x.bits << 16); }

template <typename T> __device__ __forceinline__ T from_f32(float x);
template <> __device__ __forceinline__ float from_f32<float>(float x) { return x; }
template <> __device__ __forceinline__ f16 from_f32<f16>(float x) {
    f16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
template <> __device__ __forceinline__ bf16 from_f32<bf16>(float x) {
    bf16 y;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#else
    u32 bits = __float_as_uint(x);
    // To nearest, ties to even; NaN stays NaN.
    bits = x == x ? bits + 0x7fff + ((bits >> 16) & 1) : 0x7fc00000;
    y.bits = (u16)(bits >> 16);
#endif
    return y;
}

// Two neighbouring elements of a 32-bit word.
template <typename T> __device__ __forceinline__ float2 pair_to_f32(u32 bits) {
    T low, high;
    low.bits = (u16)bits;
    high.bits = (u16)(bits >> 16);
    return make_float2(to_f32(low), to_f32(high));
}
template <typename T> __device__ __forceinline__ u32 pair_from_f32(float low, float high) {
    return (u32)from_f32<T>(low).bits | (u32)from_f32<T>(high).bits << 16;
}

// 16 bytes of weights: read once, so they need not displace anything in the first-level cache.
__device__ __forceinline__ uint4 load_stream(const void *address) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(address));
    return v;
}

// Has 32 bytes of memory brought into the first-level cache.
__device__ __forceinline__ void touch(const void *address) {
    asm volatile("{\n.reg .b32 unused;\nld.global.ca.b32 unused, [%0];\n}" ::"l"(address));
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int mask = 16; mask > 0; mask >>= 1)
        x += __shfl_xor_sync(0xffffffffu, x, mask);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int mask = 16; mask > 0; mask >>= 1)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, mask));
    return x;
}

// The sum over a block of whole warps, in every thread. `scratch` holds 32 floats; it may be used again after the next
// barrier.
__device__ __forceinline__ float block_sum(float x, float *scratch) {
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        scratch[threadIdx.x / 32] = x;
    __syncthreads();
    return warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? scratch[threadIdx.x % 32] : 0.0f);
}
// The largest of numbers that are not negative, likewise.
__device__ __forceinline__ float block_max(float x, float *scratch) {
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        scratch[threadIdx.x / 32] = x;
    __syncthreads();
    return warp_max(threadIdx.x % 32 < blockDim.x / 32 ? scratch[threadIdx.x % 32] : 0.0f);
}

// The order of ActivationKind, behind 0 = none.
enum { NO_ACTIVATION, GELU_ERF, GELU_TANH, GELU_SIGMOID, RELU, SILU, TANH };

// 2^x and 1 / x to about 2 ulp, in one instruction each and without a branch: what follows is done to many numbers at once.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float reciprocal_fast(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// 1 / (1 + 2^-x): the sigmoid of x ln 2.
__device__ __forceinline__ float sigmoid_base2(float x) { return reciprocal_fast(1.0f + exp2_fast(-x)); }
#define LOG2_E 1.4426950408889634f

// x Phi(x) = max(x, 0) - t Phi(-t) with t = |x|, and Phi(-t) = 2^P(t). P is the polynomial of degree 5 that makes the largest
// error of t Phi(-t) for t up to 5.5 least, 4.4e-7; it falls all the way behind that.
__device__ __forceinline__ float gelu_erf(float x) {
    const float t = fabsf(x);
    float p = -4.73294039e-4f;
    p = fmaf(p, t, 7.08446139e-3f);
    p = fmaf(p, t, -5.18271692e-2f);
    p = fmaf(p, t, -0.459992645f);
    p = fmaf(p, t, -1.15078777f);
    p = fmaf(p, t, -1.00003763f);
    return fmaf(-t, exp2_fast(p), fmaxf(x, 0.0f));
}

__device__ __forceinline__ float activation(int kind, float x) {
    switch (kind) {
    case GELU_ERF: return gelu_erf(x);
    // x / 2 (1 + tanh u) = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3)
    case GELU_TANH:
        return x * sigmoid_base2(2 * LOG2_E * 0.79788456080286536f * x * fmaf(0.044715f * x, x, 1.0f));
    case GELU_SIGMOID: return x * sigmoid_base2(1.702f * LOG2_E * x);
    case RELU: return fmaxf(x, 0.0f);
    case SILU: return x * sigmoid_base2(LOG2_E * x);
    case TANH: return tanhf(x);
    default: return x;
    }
}

// Eight numbers at a time, so that each function is expanded once.
__device__ __forceinline__ void activate_eight(int kind, float *v) {
    switch (kind) {
#define EACH(KIND)                                                                                                     \
    case KIND:                                                                                                         \
        _Pragma("unroll") for (int i = 0; i < 8; i++) v[i] = activation(KIND, v[i]);                                   \
        break;
        EACH(GELU_ERF)
        EACH(GELU_TANH)
        EACH(GELU_SIGMOID)
        EACH(RELU)
        EACH(SILU)
        EACH(TANH)
#undef EACH
    default: break;
    }
}

// What the elements of an activation are; the same codes as on the host.
enum { IS_F32, IS_F16, IS_BF16 };

__device__ __forceinline__ float load_one(const void *data, int type, u64 at) {
    if (type == IS_F32)
        return ((const float *)data)[at];
    u16 bits = ((const u16 *)data)[at];
    return type == IS_F16 ? to_f32(f16{bits}) : to_f32(bf16{bits});
}
__device__ __forceinline__ void store_one(void *data, int type, u64 at, float value) {
    if (type == IS_F32)
        ((float *)data)[at] = value;
    else
        ((u16 *)data)[at] = type == IS_F16 ? from_f32<f16>(value).bits : from_f32<bf16>(value).bits;
}
__device__ __forceinline__ float2 unpack_pair(u32 bits, int type) {
    return type == IS_F16 ? pair_to_f32<f16>(bits) : pair_to_f32<bf16>(bits);
}
__device__ __forceinline__ u32 pack_pair(int type, float low, float high) {
    return type == IS_F16 ? pair_from_f32<f16>(low, high) : pair_from_f32<bf16>(low, high);
}

// Whether rows of a matrix, eight elements at a time, start where 16-byte accesses may.
__device__ __forceinline__ bool are_rows_aligned(const void *data, int stride) {
    return stride % 8 == 0 && ((u64)data & 15) == 0;
}

// Eight neighbours, of which `count` exist, the rest reads as zero. `is_aligned`: they start at a
// multiple of 16 bytes.
__device__ __forceinline__ void load_eight(float *v, const void *data, int type, u64 at, int count, bool is_aligned) {
    if (!is_aligned || count < 8) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            v[i] = i < count ? load_one(data, type, at + i) : 0.0f;
    } else if (type == IS_F32) {
        float4 a = *(const float4 *)((const float *)data + at), b = *(const float4 *)((const float *)data + at + 4);
        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
    } else {
        uint4 raw = *(const uint4 *)((const u16 *)data + at);
        float2 a = unpack_pair(raw.x, type), b = unpack_pair(raw.y, type), c = unpack_pair(raw.z, type),
               d = unpack_pair(raw.w, type);
        v[0] = a.x, v[1] = a.y, v[2] = b.x, v[3] = b.y, v[4] = c.x, v[5] = c.y, v[6] = d.x, v[7] = d.y;
    }
}
__device__ __forceinline__ void add_eight(float *v, const void *data, int type, u64 at, int count, bool is_aligned) {
    float other[8];
    load_eight(other, data, type, at, count, is_aligned);
#pragma unroll
    for (int i = 0; i < 8; i++)
        v[i] += other[i];
}
__device__ __forceinline__ void store_eight(const float *v, void *data, int type, u64 at, int count, bool is_aligned) {
    if (!is_aligned || count < 8) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (i < count)
                store_one(data, type, at + i, v[i]);
    } else if (type == IS_F32) {
        *(float4 *)((float *)data + at) = make_float4(v[0], v[1], v[2], v[3]);
        *(float4 *)((float *)data + at + 4) = make_float4(v[4], v[5], v[6], v[7]);
    } else {
        *(uint4 *)((u16 *)data + at) = make_uint4(pack_pair(type, v[0], v[1]), pack_pair(type, v[2], v[3]),
                                                  pack_pair(type, v[4], v[5]), pack_pair(type, v[6], v[7]));
    }
}

// The nearest number that eight bits of e4m3 hold, ties to even, saturating (OCP 8-bit floating point, section 5).
__device__ __forceinline__ float round_to_e4m3(float x) {
    float magnitude = fminf(fabsf(x), 448.0f);
    u32 bits = __float_as_uint(magnitude);
    bits = (bits + 0x7ffff + (bits >> 20 & 1)) & 0xfff00000u;
    // Below 2^-6 steps are 2^-9 wide.
    float rounded = magnitude < 0.015625f ? rintf(magnitude * 512.0f) * 0.001953125f : __uint_as_float(bits);
    return x < 0 ? -rounded : rounded;
}

// How inputs are rounded to eight bits; the same codes as on the host.
enum { NOT_ROUNDED, TO_INTEGERS, TO_E4M3 };

// What maps the largest magnitude of a row to the largest code; `given` is a scale known beforehand, or 0.
__device__ __forceinline__ float scale_of_row(float largest, int rounding, float given) {
    if (given > 0)
        return given;
    return largest == 0 ? 1.0f : fmaxf(largest / (rounding == TO_E4M3 ? 448.0f : 127.0f), 1.17549435e-38f);
}
// The code's value.
__device__ __forceinline__ float round_input(float x, float inverse, int rounding) {
    x *= inverse;
    return rounding == TO_E4M3 ? round_to_e4m3(x) : fminf(fmaxf(rintf(x), -127.0f), 127.0f);
}
