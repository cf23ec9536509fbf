//! Tile registers: whether there are any, and what shape they have.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;

/// Rows of a tile.
pub(super) const TILE_ROWS: usize = 16;
/// Bytes of a row of a tile.
pub(super) const TILE_ROW_BYTES: usize = 64;

/// Whether the processor has tiles of bytes and of bf16 (Intel Software Developer's Manual, volume 2, CPUID leaf 7).
pub(super) fn exist() -> bool {
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    const INT8: u32 = 1 << 25;
    const ALL: u32 = BF16 | TILE | INT8;
    // Leaf 0 says how many leaves there are.
    __cpuid_count(0, 0).eax >= 7 && __cpuid_count(7, 0).edx & ALL == ALL
}

/// Asks the system to save tiles when it switches threads (Linux, Documentation/arch/x86/xstate.rst).
#[cfg(target_os = "linux")]
pub(super) fn request() -> bool {
    const ARCH_PRCTL: isize = 158;
    const REQUEST_PERMISSION: usize = 0x1023;
    const TILE_DATA: usize = 18;
    let status: isize;
    // SAFETY: the system call reads its two arguments, writes nothing, and clobbers two registers.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => status,
            in("rdi") REQUEST_PERMISSION,
            in("rsi") TILE_DATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        );
    }
    status == 0
}

#[cfg(not(target_os = "linux"))]
pub(super) fn request() -> bool {
    false
}

/// The shapes of the eight tiles, as the processor reads them.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// The tiles of this thread have a shape while this lives.
///
/// Tiles 0 to 3 are sums, 4 and 5 inputs of up to 32 rows, 6 and 7 weights.
pub(super) struct Tiles(());

impl Tiles {
    /// For products of `rows <= 32` rows.
    ///
    /// # Safety
    ///
    /// The processor has tiles and the process may use them; the thread does not have another `Tiles`.
    pub(super) unsafe fn new(rows: usize) -> Self {
        let first = rows.min(TILE_ROWS) as u8;
        // A tile cannot be empty; the second half is not used then.
        let second = rows.saturating_sub(TILE_ROWS).max(1) as u8;
        let all = TILE_ROWS as u8;
        let mut shapes = Shapes {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [first, first, second, second, first, second, all, all, 0, 0, 0, 0, 0, 0, 0, 0],
        };
        shapes.row_bytes[..8].fill(TILE_ROW_BYTES as u16);
        // SAFETY: 64 bytes that describe a valid configuration.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &shapes, options(nostack, preserves_flags, readonly)) };
        Self(())
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: gives the tiles back; nothing else is touched.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
    }
}
