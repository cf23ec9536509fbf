//! The signals of a JLS file: definitions, where their samples lie, and the samples one behind the other.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use super::chunk::{Chunk, ChunkReader, array, i64_at, u32_at};
use crate::error::{ProfilerError, Result};

// Tags of chunks.
const SIGNAL_DEFINITION: u8 = 0x02;
const DATA: u8 = 0x22;
const SUMMARY: u8 = 0x24;
const UTC_DATA: u8 = 0x3a;
/// First sample (i64), entries (u32), bits of an entry (u16), reserved (u16).
const HEADER_BYTES: usize = 16;
/// Source (u16), type (u8), reserved (u8), data type, sample rate, samples of a chunk, samples of an entry of the first
/// summary, more (u32 each), and room up to name and unit, each ended by the bytes 0 and 0x1f.
const DEFINITION_BYTES: usize = 128;
/// 2018-01-01 in seconds since 1970: where JLS times begin.
const EPOCH_UNIX_S: f64 = 1_514_764_800.0;
/// JLS times are seconds with 30 bits behind the point.
const TICKS_PER_S: f64 = (1_u64 << 30) as f64;

/// What a sample is stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    Float32,
    Float64,
    /// Of 1 to 64 bits, `q` of them behind the point.
    Integer {
        bits: u32,
        is_signed: bool,
        q: i8,
    },
}

impl Element {
    /// From the number that the format packs it into.
    fn of(code: u32) -> Option<Self> {
        let bits = (code >> 8) & 0xff;
        match (code & 0xf, bits) {
            (4, 32) => Some(Element::Float32),
            (4, 64) => Some(Element::Float64),
            (base @ (1 | 3), 1 | 4 | 8 | 16 | 24 | 32 | 64) => {
                Some(Element::Integer { bits, is_signed: base == 1, q: (code >> 16) as u8 as i8 })
            }
            _ => None,
        }
    }

    fn bits(self) -> u32 {
        match self {
            Element::Float32 => 32,
            Element::Float64 => 64,
            Element::Integer { bits, .. } => bits,
        }
    }

    /// Bytes of an entry of a summary: mean, standard deviation, minimum and maximum, of wide types in double precision.
    fn entry_bytes(self) -> usize {
        match self {
            Element::Float64 => 32,
            Element::Integer { bits, .. } if bits >= 32 => 32,
            _ => 16,
        }
    }

    /// The mean of an entry of a summary, which lies within `bytes`.
    fn mean_at(self, bytes: &[u8], index: usize) -> f64 {
        match self.entry_bytes() {
            32 => f64::from_le_bytes(array(bytes, 32 * index)),
            width => f64::from(f32::from_le_bytes(array(bytes, width * index))),
        }
    }

    /// The sample of an index, which lies within `bytes`.
    fn at(self, bytes: &[u8], index: usize) -> f64 {
        match self {
            Element::Float32 => f64::from(f32::from_le_bytes(array(bytes, 4 * index))),
            Element::Float64 => f64::from_le_bytes(array(bytes, 8 * index)),
            Element::Integer { bits, is_signed, q } => {
                let (first_bit, width) = (index * bits as usize, (bits as usize).div_ceil(8));
                let mut raw = [0; 8];
                raw[..width].copy_from_slice(&bytes[first_bit / 8..first_bit / 8 + width]);
                // The sample at the top of the word, so that its sign is the word's.
                let top = (u64::from_le_bytes(raw) >> (first_bit % 8)) << (64 - bits);
                let number =
                    if is_signed { (top as i64 >> (64 - bits)) as f64 } else { (top >> (64 - bits)) as f64 };
                number * f64::from(-i32::from(q)).exp2()
            }
        }
    }
}

/// A signal of fixed rate.
#[derive(Clone, Debug)]
pub(super) struct Signal {
    pub(super) name: String,
    pub(super) unit: String,
    pub(super) rate_hz: f64,
    /// Samples and their UTC times in seconds since 1970, as they stand in the file.
    pub(super) utc: Vec<(f64, f64)>,
    id: u8,
    element: Element,
    /// Samples of an entry of the first summary.
    samples_per_entry: i64,
    data: Vec<Stretch>,
    summaries: Vec<Stretch>,
}

/// A chunk of samples or of summaries.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    first: i64,
    entries: u32,
    chunk: Chunk,
}

/// Samples of one value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Run {
    pub(super) first: i64,
    /// The first that is no longer of it.
    pub(super) end: i64,
    pub(super) value: f64,
}

/// Goes through a file once and notes what is where.
pub(super) fn survey<R: Read + Seek>(chunks: &mut ChunkReader<R>) -> Result<Vec<Signal>> {
    let mut signals: Vec<Signal> = Vec::new();
    while let Some(chunk) = chunks.next()? {
        let (id, level) = ((chunk.meta & 0xff) as u8, chunk.meta >> 12);
        if chunk.tag == SIGNAL_DEFINITION {
            let payload = chunks.payload(&chunk)?;
            match definition(id, &payload) {
                Some(signal) if signals.iter().all(|other| other.id != id) => signals.push(signal),
                _ => {}
            }
            continue;
        }
        let Some(signal) = signals.iter_mut().find(|signal| signal.id == id) else { continue };
        let is_wanted = matches!((chunk.tag, level), (DATA | UTC_DATA, 0) | (SUMMARY, 1));
        if !is_wanted {
            continue;
        }
        let head: [u8; HEADER_BYTES] = chunks.head(&chunk)?;
        let (first, entries) = (i64_at(&head, 0), u32_at(&head, 8));
        let bits = u32::from(u16::from_le_bytes(array(&head, 12)));
        let asked_bits = match chunk.tag {
            DATA => signal.element.bits(),
            UTC_DATA => 64,
            _ => 8 * signal.element.entry_bytes() as u32,
        };
        let asked_bytes = (u64::from(entries) * u64::from(asked_bits)).div_ceil(8);
        let stored_bytes = u64::from(chunk.length) - HEADER_BYTES as u64;
        // `pyjls` stores but half of the entries that it counts in summaries of wide samples.
        let room = (8 * stored_bytes / u64::from(asked_bits)) as u32;
        let entries = if chunk.tag == SUMMARY { entries.min(room) } else { entries };
        if bits != asked_bits || (asked_bytes > stored_bytes && chunk.tag != SUMMARY) {
            let got = format!("{entries} of {bits} bits in {stored_bytes} bytes");
            return Err(chunks.damaged(chunk.offset, &format!("entries of {asked_bits} bits"), &got));
        }
        let stretch = Stretch { first, entries, chunk };
        match chunk.tag {
            DATA => signal.data.push(stretch),
            SUMMARY => signal.summaries.push(stretch),
            _ if entries > 0 => {
                let ticks = i64_at(&chunks.payload(&chunk)?, HEADER_BYTES);
                signal.utc.push((first as f64, EPOCH_UNIX_S + ticks as f64 / TICKS_PER_S));
            }
            _ => {}
        }
    }
    signals.iter_mut().for_each(Signal::sort);
    Ok(signals)
}

/// A signal from its definition; `None` for one of variable rate or of an unknown type.
fn definition(id: u8, payload: &[u8]) -> Option<Signal> {
    let strings = payload.get(DEFINITION_BYTES..)?;
    let mut strings = strings.split(|byte| *byte == 0x1f).map(|text| {
        let text = text.strip_suffix(&[0]).unwrap_or(text);
        String::from_utf8_lossy(text).into_owned()
    });
    let (name, unit) = (strings.next()?, strings.next().unwrap_or_default());
    let rate_hz = f64::from(u32_at(payload, 8));
    let is_fixed_rate = payload[2] == 0 && rate_hz > 0.0;
    is_fixed_rate.then_some(())?;
    Some(Signal {
        name,
        unit,
        rate_hz,
        utc: Vec::new(),
        id,
        element: Element::of(u32_at(payload, 4))?,
        samples_per_entry: i64::from(u32_at(payload, 16)),
        data: Vec::new(),
        summaries: Vec::new(),
    })
}

impl Signal {
    fn sort(&mut self) {
        self.data.sort_by_key(|stretch| stretch.first);
        self.summaries.sort_by_key(|stretch| stretch.first);
    }

    pub(super) fn has_samples(&self) -> bool {
        self.data.iter().chain(&self.summaries).any(|stretch| stretch.entries > 0)
    }

    pub(super) fn is_digital(&self) -> bool {
        self.element.bits() == 1
    }

    pub(super) fn first_sample(&self) -> i64 {
        self.data.iter().chain(&self.summaries).map(|stretch| stretch.first).min().unwrap_or(0)
    }

    /// All samples, in order.
    pub(super) fn runs(&self, path: &Path) -> Result<Runs> {
        let file = File::open(path).map_err(ProfilerError::io(path))?;
        Ok(Runs {
            chunks: ChunkReader::new(path, file)?,
            signal: self.clone(),
            next_data: 0,
            next_summary: 0,
            end: i64::MIN,
            open: None,
        })
    }
}

/// The samples of a signal, run by run: stored samples one by one, and where chunks of them were left out, the entries of
/// the summary.
pub(super) struct Runs {
    chunks: ChunkReader<File>,
    signal: Signal,
    next_data: usize,
    next_summary: usize,
    /// Where the samples that were handed out end.
    end: i64,
    open: Option<Open>,
}

/// A chunk that is being read.
struct Open {
    stretch: Stretch,
    payload: Vec<u8>,
    next: u32,
    is_summary: bool,
}

impl Runs {
    /// The next run, which is then behind.
    pub(super) fn next(&mut self) -> Result<Option<Run>> {
        let run = self.peek()?;
        if let Some(run) = run {
            self.skip_to(run.end);
        }
        Ok(run)
    }

    /// Leaves everything before `end` behind.
    pub(super) fn skip_to(&mut self, end: i64) {
        self.end = self.end.max(end);
    }

    /// The next run, without what is behind.
    pub(super) fn peek(&mut self) -> Result<Option<Run>> {
        loop {
            let Some(open) = &mut self.open else {
                if self.open_next()? {
                    continue;
                }
                return Ok(None);
            };
            if open.next >= open.stretch.entries {
                self.open = None;
                continue;
            }
            let index = open.next as usize;
            let samples = if open.is_summary { self.signal.samples_per_entry } else { 1 };
            let first = open.stretch.first.saturating_add((index as i64).saturating_mul(samples));
            // A summary fills the room up to the next stored chunk.
            let limit = match self.signal.data.get(self.next_data) {
                Some(next) if open.is_summary => next.first,
                _ => i64::MAX,
            };
            let end = first.saturating_add(samples).min(limit);
            let first = first.max(self.end);
            if first >= end {
                open.next += 1;
                continue;
            }
            let values = &open.payload[HEADER_BYTES..];
            let value = match open.is_summary {
                false => self.signal.element.at(values, index),
                true => self.signal.element.mean_at(values, index),
            };
            return Ok(Some(Run { first, end, value }));
        }
    }

    /// Opens the chunk that goes on: stored samples, or a summary that reaches into the room before them.
    fn open_next(&mut self) -> Result<bool> {
        let data = self.signal.data.get(self.next_data).copied();
        while let Some(summary) = self.signal.summaries.get(self.next_summary).copied() {
            let samples = i64::from(summary.entries).saturating_mul(self.signal.samples_per_entry);
            let end = summary.first.saturating_add(samples);
            let from = summary.first.max(self.end);
            if end > from && data.is_none_or(|data| data.first > from) {
                return self.open(summary, true);
            }
            if end > from {
                break;
            }
            self.next_summary += 1;
        }
        match data {
            Some(data) => {
                self.next_data += 1;
                self.open(data, false)
            }
            None => Ok(false),
        }
    }

    fn open(&mut self, stretch: Stretch, is_summary: bool) -> Result<bool> {
        let payload = self.chunks.payload(&stretch.chunk)?;
        self.open = Some(Open { stretch, payload, next: 0, is_summary });
        Ok(true)
    }
}
