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

// The sum over a block, in every thread. `scratch` holds 32 floats; it may be used again after the next barrier.
__device__ __forceinline__ float block_sum(float x, float *scratch) {
    x = warp_sum(x);
    int warp = threadIdx.x / 32, warps = (blockDim.x + 31) / 32;
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        scratch[warp] = x;
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < warps; i++)
        sum += scratch[i];
    return sum;
}

// The order of ActivationKind, behind 0 = none.
enum { NO_ACTIVATION, GELU_ERF, GELU_TANH, GELU_SIGMOID, RELU, SILU, TANH };

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ __forceinline__ float activation(int kind, float x) {
    switch (kind) {
    case GELU_ERF: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case GELU_TANH: return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    case GELU_SIGMOID: return x * sigmoid(1.702f * x);
    case RELU: return fmaxf(x, 0.0f);
    case SILU: return x * sigmoid(x);
    case TANH: return tanhf(x);
    default: return x;
    }
}
