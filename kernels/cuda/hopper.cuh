// Hopper's own instructions, in front of the files that use them: products of warpgroups, the copy engine, barriers in shared
// memory, clusters of blocks.

struct __align__(64) TensorMap {
    u64 words[16];
};
// Where TMA finds x and up to three matrices.
struct Maps {
    TensorMap x, w[3];
};
struct s8 {};
struct e4m3 {};

#define REGISTERS_32 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
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
#define OPERANDS_32(C, D) SIXTEEN(C, D, 0), SIXTEEN(C, D, 16)
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
#define MULTIPLY_ALL(T, SUM, C, TYPES, TAIL)                                                                           \
    MULTIPLY(T, SUM, C, "64", 32, TYPES, "%32", "%33", "%34", TAIL)                                                    \
    MULTIPLY(T, SUM, C, "128", 64, TYPES, "%64", "%65", "%66", TAIL)                                                   \
    MULTIPLY(T, SUM, C, "256", 128, TYPES, "%128", "%129", "%130", TAIL)
#if defined(ELEMENT_f16)
MULTIPLY_ALL(f16, float, "+f", "k16.f32.f16.f16", ", 1, 1, 0, 0")
#elif defined(ELEMENT_bf16)
MULTIPLY_ALL(bf16, float, "+f", "k16.f32.bf16.bf16", ", 1, 1, 0, 0")
#elif defined(ELEMENT_s8)
MULTIPLY_ALL(s8, int, "+r", "k32.s32.s8.s8", "")
#elif defined(ELEMENT_e4m3)
MULTIPLY_ALL(e4m3, float, "+f", "k32.f32.e4m3.e4m3", ", 1, 1")
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
// A warp arrives at its block's barrier, or at those that lie at the same place in both blocks of a pair.
template <int BLOCKS> __device__ __forceinline__ void arrive(u32 barrier, int lane) {
    if (BLOCKS == 1) {
        if (lane == 0)
            asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
    } else if (lane < BLOCKS) {
        // Without a scope: a release to the whole cluster would wait for every store before it, and nothing is handed over.
        asm volatile("{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
                     "mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(barrier),
                     "r"(lane)
                     : "memory");
    }
}
// Asks for a map itself, which the copy engine needs before it can ask for anything that the map describes.
__device__ __forceinline__ void prefetch_map(const TensorMap *map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
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
// What this thread wrote to shared memory is there for wgmma and the copy engine.
__device__ __forceinline__ void show_to_engines() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ __forceinline__ void meet_cluster() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// Until no block of the cluster needs the memory of another any more. Nothing is handed over: a release would wait for
// every store before it.
__device__ __forceinline__ void leave_cluster() {
    asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
// 16 bytes of the shared memory of a block of the cluster, at `address` there.
__device__ __forceinline__ void load_from_block(u32 *raw, u32 address, int block) {
    asm volatile("{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %4, %5;\n"
                 "ld.shared::cluster.v4.u32 {%0, %1, %2, %3}, [there];\n}"
                 : "=r"(raw[0]), "=r"(raw[1]), "=r"(raw[2]), "=r"(raw[3])
                 : "r"(address), "r"(block)
                 : "memory");
}

// Rows of 128 bytes, swizzled, eight of them 1024 bytes further.
__device__ __forceinline__ u64 describe(u32 tile) {
    return (u64)((tile & 0x3ffff) >> 4) | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}
