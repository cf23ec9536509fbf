//! Recordings of external meters: JLS files as `pyjls` wrote them, and as nobody should have.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use crc::{CRC_32_ISCSI, Crc};
use joulewise_profiler::clock;
use joulewise_profiler::recording::Recording;
use joulewise_profiler::sensor::power_log::{PowerLog, PowerLogOptions};
use joulewise_profiler::trace::WindowEnergy;
use proptest::prelude::*;
use serde::Deserialize;

const CASTAGNOLI: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
/// Where the recordings of `generate.py` begin.
const BEGIN_UNIX_S: f64 = 1_700_000_000.0;

/// What `pyjls` reads from a file: the mean of some samples, counted from the first one.
#[derive(Deserialize)]
struct Mean {
    first: f64,
    n: f64,
    mean: f64,
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/jls").join(name)
}

fn open(path: &Path) -> joulewise_profiler::error::Result<Recording> {
    Recording::open(path, &PowerLogOptions::default())
}

fn expected(name: &str) -> Vec<Mean> {
    let text = fs::read_to_string(golden("expected.json")).unwrap();
    let mut all: serde_json::Value = serde_json::from_str(&text).unwrap();
    serde_json::from_value(all[name].take()).unwrap()
}

fn mean_power_w(recording: &Recording, start_s: f64, end_s: f64) -> Result<f64, String> {
    match recording.trace.energy(start_s, end_s) {
        WindowEnergy::Resolved { energy_j, .. } => Ok(energy_j / (end_s - start_s)),
        WindowEnergy::Unresolved { reason, .. } => Err(reason),
    }
}

/// Windows hold what `pyjls` reads; `time_s` is when a sample is.
fn check(name: &str, recording: &Recording, time_s: impl Fn(f64) -> f64, tolerance_w: f64) {
    let means = expected(name);
    assert!(means.len() >= 2);
    for Mean { first, n, mean } in means {
        let power_w = mean_power_w(recording, time_s(first), time_s(first + n)).unwrap();
        assert!((power_w - mean).abs() < tolerance_w, "{name}, {n} from {first}: {power_w}, pyjls {mean}");
    }
}

#[test]
fn power_is_what_pyjls_reads_and_lies_where_the_calendar_says() {
    let recording = open(&golden("power.jls")).unwrap();
    // Sample 1000 is the first; between the file's two pairs of sample and UTC, seconds are 1.0002 of the meter's.
    let begin_s = clock::from_unix_s(BEGIN_UNIX_S);
    let time_s = |sample: f64| begin_s + sample / 10_000.0 * 1.0002;
    // Five samples make a reading. At the ends of a window one of them is cut, where power is off by half the change
    // within a reading (2 W * 2 pi * 7 Hz * 0.5 ms), of a window of 77 ms at least; the step of 1 W weighs as little.
    check("power.jls", &recording, time_s, (2.0 * 44.0 * 0.5e-3 + 1.0) * 0.5e-3 / 0.077);
    assert!((recording.info.update_period_s - 5e-4).abs() < 1e-12);
    // Samples 4000 to 4400 were dropped: windows that touch them know nothing, others do.
    for (first, last) in [(3900.0, 4100.0), (4100.0, 4300.0), (4300.0, 4600.0), (3000.0, 5000.0)] {
        let reason = mean_power_w(&recording, time_s(first), time_s(last)).unwrap_err();
        assert_eq!(reason, "samples were dropped", "{first} to {last}");
    }
}

#[test]
fn what_a_writer_left_out_is_in_the_summaries() {
    let recording = open(&golden("omitted.jls")).unwrap();
    let begin_s = clock::from_unix_s(BEGIN_UNIX_S);
    // 2^-22 s is what a calendar time is good for, and power is constant.
    check("omitted.jls", &recording, |sample| begin_s + sample / 1000.0, 1e-9);
    let line = recording.line("gpi[0]").unwrap();
    assert_eq!(line.changes.len(), 3, "{:?}", line.changes);
    for (index, (time_s, level)) in line.changes.iter().enumerate() {
        // An entry of a summary stands for 32 samples; where the level changes, samples are stored.
        assert!((time_s - begin_s - 1.5 * index as f64).abs() < 1e-6, "{:?}", line.changes);
        assert_eq!(*level, index % 2 == 1);
    }
}

#[test]
fn volts_times_amperes_are_watts_and_count_from_the_first_sample_without_a_calendar() {
    let recording = open(&golden("product.jls")).unwrap();
    // 1 ms between samples of a power that changes by at most 5 + 1 V x 50 A/100 per sample: the trapezoid rule is off by
    // the half sample at either end of a window of a second.
    check(
        "product.jls",
        &recording,
        |sample| sample / 1000.0,
        6.0 * 0.5 * 150.0 / 100.0 / 1000.0 * 2.0 + 0.5,
    );
    assert!(recording.info.description.contains("voltage x current"));
}

#[test]
fn a_recording_that_was_cut_off_is_read_as_far_as_it_goes() {
    let bytes = fs::read(golden("power.jls")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.jls");
    fs::write(&path, &bytes[..12_000]).unwrap();
    let recording = open(&path).unwrap();
    // Five whole chunks of 512 samples lie before the cut, and no pair of sample and UTC.
    let last_s = recording.trace.last_time_s().unwrap();
    assert!((last_s - 4.0 * 512.0 / 10_000.0).abs() < 0.06 && last_s > 0.1, "{last_s}");
}

#[test]
fn damage_is_named_with_its_place() {
    let bytes = fs::read(golden("power.jls")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.jls");
    let complaint = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        fs::write(&path, &bytes).unwrap();
        open(&path).unwrap_err().to_string()
    };
    let sample = complaint(&|bytes| bytes[2000] ^= 1);
    assert!(sample.contains("bad.jls, byte 1752") && sample.contains("checksum"), "{sample}");
    assert!(complaint(&|bytes| bytes[30] ^= 1).contains("byte 28"));
    assert!(complaint(&|bytes| bytes.truncate(20)).contains("byte 20"));
    let old = complaint(&|bytes| bytes[..16].copy_from_slice(b"\xd3tagfmt \r\n \n  \x1a\x1c"));
    assert!(old.contains("second generation, got one of the first"), "{old}");
    assert!(complaint(&|bytes| bytes.truncate(32)).contains("holds no data"));
    // While profiling, only text can be followed.
    let error = PowerLog::open(&golden("power.jls"), &PowerLogOptions::default()).err().unwrap();
    assert!(error.to_string().contains("joulewise reprice"), "{error}");
}

/// Bytes with all checksums of headers and payloads as they should be, so that damage gets past them.
fn with_checksums(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = CASTAGNOLI.checksum(&bytes[..28]);
    bytes[28..32].copy_from_slice(&sum.to_le_bytes());
    let mut at = 32;
    while at + 32 <= bytes.len() {
        let sum = CASTAGNOLI.checksum(&bytes[at..at + 28]);
        bytes[at + 28..at + 32].copy_from_slice(&sum.to_le_bytes());
        let length = u32::from_le_bytes(bytes[at + 20..at + 24].try_into().unwrap()) as usize;
        at += 32;
        if length > 0 {
            let end = at + (length + 4).next_multiple_of(8);
            if end > bytes.len() {
                break;
            }
            let sum = CASTAGNOLI.checksum(&bytes[at..at + length]);
            bytes[end - 4..end].copy_from_slice(&sum.to_le_bytes());
            at = end;
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever stands in a file, it is a recording or an error, soon, and what it holds is finite.
    #[test]
    fn hostile_files_are_survived(
        name in prop::sample::select(vec!["power.jls", "omitted.jls", "product.jls"]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        header_changes in prop::collection::vec((0_usize..64, 0_usize..32, any::<u8>()), 0..6),
        keep in prop::option::of(any::<prop::sample::Index>()),
        mends in any::<bool>(),
    ) {
        let mut bytes = fs::read(golden(name)).unwrap();
        // Some anywhere, mostly in samples, and some in headers and what follows them, where the structure is.
        for (place, value) in changes {
            let index = place.index(bytes.len() - 32) + 32;
            bytes[index] = value;
        }
        let mut starts = vec![32];
        while let Some(&at) = starts.last().filter(|&&at| at + 32 <= bytes.len()) {
            let length = u32::from_le_bytes(bytes[at + 20..at + 24].try_into().unwrap()) as usize;
            let end = at + 32 + if length == 0 { 0 } else { (length + 4).next_multiple_of(8) };
            starts.push(end.min(bytes.len()));
            if end >= bytes.len() { break; }
        }
        for (chunk, offset, value) in header_changes {
            let at = starts[chunk % starts.len()] + 16 + offset;
            if let Some(byte) = bytes.get_mut(at) { *byte = value; }
        }
        if let Some(keep) = keep {
            let size = keep.index(bytes.len()).max(32);
            bytes.truncate(size);
        }
        if mends {
            bytes = with_checksums(bytes);
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hostile.jls");
        fs::write(&path, &bytes).unwrap();
        match open(&path) {
            Ok(recording) => {
                prop_assert!(recording.trace.points().iter().all(|point| point.value.is_finite()));
            }
            Err(error) => prop_assert!(error.to_string().contains("hostile.jls"), "{}", error),
        }
    }
}
