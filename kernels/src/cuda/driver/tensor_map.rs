//! Descriptions of matrices for the copy engine of compute capability 9.0 (TMA).

use cudarc::driver::sys;

use super::Result;
use super::buffer::DeviceMemory;
use super::error::check;

/// What the elements of a described matrix are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TensorElement {
    F16,
    Bf16,
    Byte,
}

impl TensorElement {
    pub(crate) fn size_bytes(self) -> usize {
        if self == TensorElement::Byte { 1 } else { 2 }
    }
}

/// One matrix, read in boxes of some rows by 128 bytes, swizzled as wgmma wants them.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct TensorMap(sys::CUtensorMap);

/// The maps of one launch: x and up to three matrices.
#[repr(C)]
pub(crate) struct TensorMaps(pub(crate) [TensorMap; 4]);

impl TensorMap {
    /// `rows` rows of `cols` elements, `pitch_bytes` apart, from byte `offset` on.
    ///
    /// # Errors
    /// When the driver refuses: rows have to start at multiples of 16 bytes.
    pub(crate) fn new(
        memory: &dyn DeviceMemory,
        offset: usize,
        element: TensorElement,
        [rows, cols]: [usize; 2],
        pitch_bytes: usize,
        box_rows: usize,
    ) -> Result<Self> {
        use sys::CUtensorMapDataType as Type;
        let kind = match element {
            TensorElement::F16 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            TensorElement::Bf16 => Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            TensorElement::Byte => Type::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        };
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        let address = memory.allocation().address + offset as u64;
        let sizes = [cols as u64, rows as u64];
        let boxed = [(128 / element.size_bytes()) as u32, box_rows as u32];
        // SAFETY: all pointers are to locals that live until the call returns; the address is only described.
        check("cuTensorMapEncodeTiled", unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map,
                kind,
                2,
                address as *mut _,
                sizes.as_ptr(),
                [pitch_bytes as u64].as_ptr(),
                boxed.as_ptr(),
                [1, 1].as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        })?;
        Ok(Self(map))
    }
}
