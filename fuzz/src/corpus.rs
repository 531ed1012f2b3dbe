//! Runs a target's corpus, and mutations of it that are the same each time, without libFuzzer.

use std::path::{Path, PathBuf};

/// Mutations of each file.
const MUTATIONS: u64 = 2_000;
/// Bytes that mean something to some parser.
const ODD: &[u8] = b"\r\n \t\0\xff\"<>;,=:%0-\\{}[";
/// No file is longer.
const BYTES_MAX: usize = 4_096;

/// Runs all of it; a panic is preceded by the bytes that led to it.
pub fn run(target: &str, body: fn(&[u8])) {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder(target))
        .unwrap_or_else(|error| panic!("fuzz/corpus/{target}: {error}"))
        .map(|entry| entry.expect("readable").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "fuzz/corpus/{target} is empty");
    let all: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).expect("readable")).collect();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for bytes in &all {
        assert!(bytes.len() <= BYTES_MAX);
        watched(bytes, body);
        for _ in 0..MUTATIONS {
            watched(&mutated(bytes, &all, &mut random), body);
        }
    }
}

fn watched(bytes: &[u8], body: fn(&[u8])) {
    struct Watch<'a>(&'a [u8]);
    impl Drop for Watch<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("the bytes were \"{}\"", self.0.escape_ascii());
            }
        }
    }
    let _watch = Watch(bytes);
    body(bytes);
}

fn folder(target: &str) -> PathBuf {
    let of_crate = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = of_crate.ancestors().find(|folder| folder.join("fuzz/corpus").is_dir()).expect("inside the repository");
    root.join("fuzz/corpus").join(target)
}

/// A few bytes changed, moved, repeated, cut, or taken from another file.
fn mutated(bytes: &[u8], all: &[Vec<u8>], random: &mut u64) -> Vec<u8> {
    let mut next = |bound: usize| {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        (*random % bound.max(1) as u64) as usize
    };
    let mut out = bytes.to_vec();
    for _ in 0..1 + next(4) {
        let at = next(out.len() + 1);
        let end = (at + 1 + next(8)).min(out.len());
        match next(7) {
            0 if at < out.len() => out[at] ^= 1 << next(8),
            1 if at < out.len() => out[at] = ODD[next(ODD.len())],
            2 => out.truncate(at),
            3 => drop(out.drain(at..end.max(at))),
            4 => {
                let piece = out[at..end.max(at)].to_vec();
                let to = next(out.len() + 1);
                out.splice(to..to, piece);
            }
            5 => {
                let other = &all[next(all.len())];
                let from = next(other.len() + 1);
                let piece = &other[from..(from + next(64)).min(other.len())];
                out.splice(at..end.max(at), piece.iter().copied());
            }
            _ => out.insert(at, next(256) as u8),
        }
    }
    out.truncate(BYTES_MAX);
    out
}
