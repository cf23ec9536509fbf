//! Codes of the rows of a panel to `f32`: every kind of codes, written once over [`PanelRows`].

/// What decoding takes of an instruction set: something of each row of a panel, in a few registers.
///
/// # Safety
///
/// Every method may be called only on a processor that has the features the type is made for. Methods that take a pointer
/// read what they name, of each row.
pub(in crate::cpu) trait PanelRows: Copy {
    /// A number of each row.
    type Floats: Copy;
    /// 16 bits of each row.
    type Halves: Copy;
    /// 32 bits of each row.
    type Words: Copy;
    /// Four bytes of each row, in the order that takes them apart best.
    type Bytes: Copy;
    /// Sixteen values to look up.
    type Table: Copy;

    /// Rows of a panel.
    const WIDTH: usize;

    /// Reads numbers.
    unsafe fn floats(w: *const u8) -> Self::Floats;
    /// Reads IEEE halves and widens them.
    unsafe fn halves(w: *const u8) -> Self::Floats;
    /// Reads words.
    unsafe fn words(w: *const u8) -> Self::Words;
    /// Reads words that are four bytes.
    unsafe fn bytes(w: *const u8) -> Self::Bytes;
    /// Reads bytes and extends their signs to 16 bits.
    unsafe fn signed_bytes(w: *const u8) -> Self::Halves;
    /// Moves bits up.
    unsafe fn shift_left<const BITS: i32>(halves: Self::Halves) -> Self::Halves;
    /// Keeps the bits of a mask.
    unsafe fn keep(halves: Self::Halves, mask: u16) -> Self::Halves;
    /// Widens IEEE halves.
    unsafe fn widen(halves: Self::Halves) -> Self::Floats;
    /// Widens the lower (`TERM == 0`) or the upper bf16 of each word.
    unsafe fn brain<const TERM: usize>(words: Self::Words) -> Self::Floats;
    /// Converts byte `TERM`, an integer.
    unsafe fn integer<const TERM: usize>(bytes: Self::Bytes) -> Self::Floats;
    unsafe fn table(values: &[f32; 16]) -> Self::Table;
    /// Looks up the four bits `TERM`, counted from the lowest.
    unsafe fn look_up<const TERM: usize>(table: Self::Table, bytes: Self::Bytes) -> Self::Floats;
    unsafe fn multiply(floats: Self::Floats, factor: f32) -> Self::Floats;
}

/// How units become weights. A unit is decoded term by term, so that few registers are needed at a time.
pub(in crate::cpu) trait Weight<R: PanelRows>: Copy {
    /// Consecutive `k` in a unit.
    const TERMS: usize;
    /// Bytes of the units of a panel's rows.
    const SIZE: usize;
    /// The units of a panel's rows.
    type Units: Copy;

    /// Loads the units of a panel's rows.
    ///
    /// # Safety
    ///
    /// `w` is valid for `SIZE` bytes; the processor has the features of `R`.
    unsafe fn load(w: *const u8) -> Self::Units;

    /// Term `TERM` of each.
    ///
    /// # Safety
    ///
    /// The processor has the features of `R`.
    unsafe fn term<const TERM: usize>(self, units: Self::Units) -> R::Floats;
}

/// Calls a generic function with the [`Weight`] of some codes.
macro_rules! with_weight {
    ($rows:ty, $codes:expr, $weight:ident => $call:expr) => {{
        use crate::cpu::vector::weight;
        match $codes {
            Codes::F32 => with_weight!(@ weight::Single, weight::Single, $weight => $call),
            Codes::F16 => with_weight!(@ weight::Half, weight::Half, $weight => $call),
            Codes::Bf16 => with_weight!(@ weight::BrainPair, weight::BrainPair, $weight => $call),
            Codes::Int8 => with_weight!(@ weight::Bytes, weight::Bytes, $weight => $call),
            Codes::E4m3 => with_weight!(@ weight::E4m3, weight::E4m3, $weight => $call),
            Codes::E5m2 => with_weight!(@ weight::E5m2, weight::E5m2, $weight => $call),
            Codes::Table(values) => {
                with_weight!(@ weight::Nibbles<$rows>, weight::Nibbles::new(values), $weight => $call)
            }
        }
    }};
    (@ $type:ty, $value:expr, $weight:ident => $call:expr) => {{
        let $weight: $type = $value;
        $call
    }};
}
pub(in crate::cpu) use with_weight;

/// Repeats statements for each term of a unit, the number of the term being a constant.
macro_rules! for_terms {
    ($weight:ty, $term:ident => $body:block) => {
        for_terms!(@ $weight, $term, $body, 0 1 2 3 4 5 6 7)
    };
    (@ $weight:ty, $term:ident, $body:block, $($number:literal)*) => {
        $(if $number < <$weight>::TERMS {
            const $term: usize = $number;
            $body
        })*
    };
}
pub(in crate::cpu) use for_terms;

/// `f32`.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Single;

// SAFETY, for every block below: by the contract of `Weight` the processor has the features, and the units are readable.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl<R: PanelRows> Weight<R> for Single {
    const TERMS: usize = 1;
    const SIZE: usize = 4 * R::WIDTH;
    type Units = R::Floats;

    #[inline(always)]
    unsafe fn load(w: *const u8) -> Self::Units {
        unsafe { R::floats(w) }
    }

    #[inline(always)]
    unsafe fn term<const TERM: usize>(self, units: Self::Units) -> R::Floats {
        units
    }
}

/// IEEE half.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Half;

#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl<R: PanelRows> Weight<R> for Half {
    const TERMS: usize = 1;
    const SIZE: usize = 2 * R::WIDTH;
    type Units = R::Floats;

    #[inline(always)]
    unsafe fn load(w: *const u8) -> Self::Units {
        unsafe { R::halves(w) }
    }

    #[inline(always)]
    unsafe fn term<const TERM: usize>(self, units: Self::Units) -> R::Floats {
        units
    }
}

/// The upper half of an `f32`, twice.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct BrainPair;

#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl<R: PanelRows> Weight<R> for BrainPair {
    const TERMS: usize = 2;
    const SIZE: usize = 4 * R::WIDTH;
    type Units = R::Words;

    #[inline(always)]
    unsafe fn load(w: *const u8) -> Self::Units {
        unsafe { R::words(w) }
    }

    #[inline(always)]
    unsafe fn term<const TERM: usize>(self, units: Self::Units) -> R::Floats {
        unsafe { R::brain::<TERM>(units) }
    }
}

/// Integers of 8 bits.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Bytes;

#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl<R: PanelRows> Weight<R> for Bytes {
    const TERMS: usize = 4;
    const SIZE: usize = 4 * R::WIDTH;
    type Units = R::Bytes;

    #[inline(always)]
    unsafe fn load(w: *const u8) -> Self::Units {
        unsafe { R::bytes(w) }
    }

    #[inline(always)]
    unsafe fn term<const TERM: usize>(self, units: Self::Units) -> R::Floats {
        unsafe { R::integer::<TERM>(units) }
    }
}

/// By way of halves, whose subnormal numbers are widened at full speed. An E4M3 code read as a half is `2^-8` of its
/// value; the powers are put back into the `f32`.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct E4m3;

#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl<R: PanelRows> Weight<R> for E4m3 {
    const TERMS: usize = 1;
    const SIZE: usize = R::WIDTH;
    type Units = R::Floats;

    #[inline(always)]
    unsafe fn load(w: *const u8) -> Self::Units {
        // Sign, sign, exponent, mantissa; the second sign is cleared.
        unsafe { R::widen(R::keep(R::shift_left::<7>(R::signed_bytes(w)), 0xbfff)) }
    }

    #[inline(always)]
    unsafe fn term<const TERM: usize>(self, units: Self::Units) -> R::Floats {
        unsafe { R::multiply(units, 256.0) }
    }
}

/// The upper half of an IEEE half.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct E5m2;

#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl<R: PanelRows> Weight<R> for E5m2 {
    const TERMS: usize = 1;
    const SIZE: usize = R::WIDTH;
    type Units = R::Floats;

    #[inline(always)]
    unsafe fn load(w: *const u8) -> Self::Units {
        unsafe { R::widen(R::shift_left::<8>(R::signed_bytes(w))) }
    }

    #[inline(always)]
    unsafe fn term<const TERM: usize>(self, units: Self::Units) -> R::Floats {
        units
    }
}

/// 4-bit codes, looked up.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Nibbles<R: PanelRows> {
    table: R::Table,
}

impl<R: PanelRows> Nibbles<R> {
    /// # Safety
    ///
    /// The processor has the features of `R`.
    #[inline(always)]
    pub(in crate::cpu) unsafe fn new(values: &[f32; 16]) -> Self {
        // SAFETY: the caller's promise.
        Self { table: unsafe { R::table(values) } }
    }
}

#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason holds for all, above")]
impl<R: PanelRows> Weight<R> for Nibbles<R> {
    const TERMS: usize = 8;
    const SIZE: usize = 4 * R::WIDTH;
    type Units = R::Bytes;

    #[inline(always)]
    unsafe fn load(w: *const u8) -> Self::Units {
        unsafe { R::bytes(w) }
    }

    #[inline(always)]
    unsafe fn term<const TERM: usize>(self, units: Self::Units) -> R::Floats {
        unsafe { R::look_up::<TERM>(self.table, units) }
    }
}
