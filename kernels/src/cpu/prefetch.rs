//! Hints to fetch memory into the caches. Addresses need not be valid.

/// Fetches the line at an address.
#[inline(always)]
pub(super) fn read(address: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing the program can see and never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast())
    };
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Fetches the line at an address into the second-level cache.
#[inline(always)]
pub(super) fn read_soon(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as above.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(address.cast())
    };
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Fetches the line at an address to be written: other cores give it up.
#[inline(always)]
pub(super) fn write(address: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as above; processors without the instruction ignore it.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly))
    };
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
