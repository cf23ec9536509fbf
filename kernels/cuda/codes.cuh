// Weights of a few bits on their way to tensor cores. In front of the files that multiply them, whose blocks have 256
// threads.

#define WARPS 8
#define THREADS (WARPS * 32)

__device__ __forceinline__ void multiply(float *c, const u32 *a, u32 b0, u32 b1, f16) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}
#if __CUDA_ARCH__ >= 800
__device__ __forceinline__ void multiply(float *c, const u32 *a, u32 b0, u32 b1, bf16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif

// Weights as they lie in memory.
struct Weights {
    const u8 *data;
    // Multiplies each block; nullptr for formats without blocks.
    const u8 *block_scale;
    // Multiplies each row's sum.
    const float *row_scale;
    const float *bias;
    void *y;
    int n;
};

// The shape of weights; `pitch` counts bytes of a row, `blocks` its scales, `block_steps` pieces of 32 elements of a scale.
struct Shape {
    u64 pitch;
    int blocks, block_steps;
};

// Where the 16-byte piece `piece` (8 elements) of a row of x lies: pieces that the LANES threads of a row of weights read
// at once lie side by side.
template <int PIECES, int LANES> __device__ __forceinline__ int place(int piece) {
    int step = piece / (LANES * PIECES), in_step = piece % (LANES * PIECES);
    return (step * LANES * PIECES + in_step % PIECES * LANES + in_step / PIECES) * 8;
}

__device__ __forceinline__ u32 select_bytes(u32 a, u32 b, u32 which) {
    u32 r;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(which));
    return r;
}
__device__ __forceinline__ u32 half_sub(u32 a, u32 b) {
    u32 r;
    asm("sub.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}
__device__ __forceinline__ u32 half_mul(u32 a, u32 b) {
    u32 r;
    asm("mul.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}
__device__ __forceinline__ u32 half_fma(u32 a, u32 b, u32 c) {
    u32 r;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
    return r;
}
__device__ __forceinline__ u32 twice(u32 half) { return half | half << 16; }

// What each format is: elements in 16 bytes, what mma multiplies, and how eight neighbours (two for each of four words)
// come out of the 16 bytes `w`. `factor`: what codes become is so many times too small. `piece` counts groups of eight; `scale` is what `scale_of` made of the block's scale.
#if defined(ELEMENT_f16) || defined(ELEMENT_bf16)
#if defined(ELEMENT_f16)
typedef f16 Operand16;
#else
typedef bf16 Operand16;
#endif
struct Codes {
    typedef Operand16 Operand;
    static const int elements = 8;
    static constexpr float factor = 1;
    static const bool has_blocks = false;
    static __device__ __forceinline__ void decode(u32 *out, const uint4 &w, int, uint2) {
        out[0] = w.x, out[1] = w.y, out[2] = w.z, out[3] = w.w;
    }
};
#elif defined(ELEMENT_s8) || defined(ELEMENT_e4m3) || defined(ELEMENT_e5m2)
struct Codes {
    typedef f16 Operand;
    static const int elements = 16;
#if defined(ELEMENT_e4m3) && __CUDA_ARCH__ < 890
    static constexpr float factor = 256;
#else
    static constexpr float factor = 1;
#endif
    static const bool has_blocks = false;
    static __device__ __forceinline__ u32 pair(u32 word, int high) {
#if defined(ELEMENT_s8)
        // 1024 + 128 + q, exact in a half.
        return half_sub(select_bytes(word ^ 0x80808080u, 0x64646464u, high ? 0x4342 : 0x4140), 0x64806480u);
#elif defined(ELEMENT_e4m3) && __CUDA_ARCH__ >= 890
        u32 v;
        asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(v) : "h"((u16)(high ? word >> 16 : word)));
        return v;
#elif defined(ELEMENT_e4m3)
        // The exponent's bias is smaller by 8: `factor` makes up for it.
        u32 v = select_bytes(word, 0, high ? 0x3424 : 0x1404);
        return (v & 0x80008000u) | ((v >> 1) & 0x3f803f80u);
#else
        return select_bytes(word, 0, high ? 0x3424 : 0x1404);
#endif
    }
    static __device__ __forceinline__ void decode(u32 *out, const uint4 &w, int piece, uint2) {
        u32 first = piece ? w.z : w.x, second = piece ? w.w : w.y;
        out[0] = pair(first, 0), out[1] = pair(first, 1), out[2] = pair(second, 0), out[3] = pair(second, 1);
    }
};
#else
#if defined(ELEMENT_nf4)
__device__ const float NF4_VALUES[16] = {-1.0f,
                                         -0.6961928009986877f,
                                         -0.5250730514526367f,
                                         -0.39491748809814453f,
                                         -0.28444138169288635f,
                                         -0.18477343022823334f,
                                         -0.09105003625154495f,
                                         0.0f,
                                         0.07958029955625534f,
                                         0.16093020141124725f,
                                         0.24611230194568634f,
                                         0.33791524171829224f,
                                         0.44070982933044434f,
                                         0.5626170039176941f,
                                         0.7229568362236023f,
                                         1.0f};
// Both elements of a byte.
__shared__ u32 nf4_pairs[256];
#endif
// A word holds eight neighbours, two in each of four pairs: one of a pair in its lower half, the other in the upper.
//
// Integers lie in a half as four nibbles, pair 0 lowest. Masked and merged with an exponent they are numbers already, and one
// instruction does both, as long as that exponent comes from a register: the compiler, did it know it, would make two.
// Floats lie where a shift brings sign and rest to where a half has them: pair 0 in bits 15 and 11 - 9, pair 1 three bits
// lower; what is left takes two shifts, pair 2 from bits 14 and 2 - 0, pair 3 from bits 13 and 5 - 3.
#if defined(ELEMENT_s4)
__constant__ u32 S4_EXPONENT[2] = {0x64006400, 0x54005400};
#endif
struct Codes {
    typedef f16 Operand;
    static const int elements = 32;
#if defined(ELEMENT_nvfp4)
    static constexpr float factor = 256;
#else
    static constexpr float factor = 1;
#endif
    static const bool has_blocks = true;
    // The scales of the 32 elements of a piece of memory, as pairs of equal halves: of the first and the last 16.
    static __device__ __forceinline__ uint2 scale_of(u32 raw) {
#if defined(ELEMENT_s4) || defined(ELEMENT_nf4)
        return make_uint2(twice(raw), twice(raw));
#elif defined(ELEMENT_mxfp4)
        // 2^(14 - raw); what a half cannot hold is beyond what the row's sum can.
        u32 bits = raw < 29 ? (29 - raw) << 10 : raw < 39 ? 1u << (38 - raw) : 0;
        return make_uint2(twice(bits), twice(bits));
#else
        // E4M3's bits make a half 2^-8 times as large. Of the 2^14 that the codes lack all but 2^-8 goes in here: the
        // largest product is then 6 * 448 * 2^-8.
        u32 low = raw << 7 & 0x3f80, high = raw >> 1 & 0x3f80;
        return make_uint2(half_mul(twice(low), 0x74007400u), half_mul(twice(high), 0x74007400u));
#endif
    }
    static __device__ __forceinline__ u32 pair(u32 word, int p, u32 scale) {
#if defined(ELEMENT_s4)
        // 1024 + code, or 64 + code where the code is four bits higher; codes are 8 too large.
        const u32 v = p & 2 ? word >> 8 : word;
        const u32 code = p & 1 ? half_sub((v & 0x00f000f0u) | S4_EXPONENT[1], 0x54805480u)
                               : half_sub((v & 0x000f000fu) | S4_EXPONENT[0], 0x64086408u);
        return half_mul(code, scale);
#else
        if (p < 2)
            return half_mul((p == 0 ? word : word << 3) & 0x8e008e00u, scale);
        const u32 sign = p == 2 ? word << 1 : word << 2, rest = p == 2 ? word << 9 : word << 6;
        return half_mul((sign & 0x80008000u) | (rest & 0x0e000e00u), scale);
#endif
    }
    static __device__ __forceinline__ void decode(u32 *out, const uint4 &w, int piece, uint2 scales) {
        u32 word = piece == 0 ? w.x : piece == 1 ? w.y : piece == 2 ? w.z : w.w, scale = piece < 2 ? scales.x : scales.y;
#pragma unroll
        for (int p = 0; p < 4; p++)
#if defined(ELEMENT_nf4)
            out[p] = half_mul(nf4_pairs[word >> 8 * p & 255], scale);
#else
            out[p] = pair(word, p, scale);
#endif
    }
};
#endif

// Bytes of a block's scale, and the scale of a thread's 32 elements.
__device__ __forceinline__ u32 load_scale(const u8 *scales, u64 row, const Shape &shape, int step, int t) {
#if defined(ELEMENT_s4) || defined(ELEMENT_nf4)
    int block = step * 4 + t;
    // A division takes as long as decoding does; the usual blocks have 32 elements.
    if (shape.block_steps > 1)
        block /= shape.block_steps;
    return ((const u16 *)scales)[row * shape.blocks + block];
#elif defined(ELEMENT_mxfp4)
    return scales[row * shape.blocks + step * 4 + t];
#elif defined(ELEMENT_nvfp4)
    return ((const u16 *)scales)[(row * shape.blocks) / 2 + step * 4 + t];
#else
    return 0;
#endif
}

