// What the first multiprocessor has counted: cycles, and the nanoseconds of the timer that all share. As many blocks as
// reach every multiprocessor; those elsewhere leave.
extern "C" __global__ void read_clock(u64 *reading) {
    wait_for_previous();
    u32 multiprocessor;
    asm volatile("mov.u32 %0, %%smid;" : "=r"(multiprocessor));
    if (multiprocessor != 0 || threadIdx.x != 0) return;
    u64 cycles, nanoseconds;
    asm volatile("mov.u64 %0, %%clock64;" : "=l"(cycles));
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(nanoseconds));
    reading[0] = cycles;
    reading[1] = nanoseconds;
}
