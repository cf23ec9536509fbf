//! Encodes a matrix from standard input, so that other implementations can be held against this one:
//! `encode FORMAT N K < values` with `N * K` little-endian f32; codes, scales and the f32 tensor scale come out.

use std::io::{self, Read, Write};

use joulewise_kernels::format::Format;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("usage: encode FORMAT N K < values");
    let (format, n, k): (Format, usize, usize) = (next()?.parse()?, next()?.parse()?, next()?.parse()?);
    let mut bytes = Vec::new();
    io::stdin().read_to_end(&mut bytes)?;
    let values: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let encoded = format.encode(&values, n, k)?;
    let tensor_scale = encoded.tensor_scale.to_le_bytes();
    [&encoded.data[..], &encoded.scales, &tensor_scale]
        .iter()
        .try_for_each(|part| io::stdout().write_all(part))?;
    Ok(())
}
