//! Which kernels this machine runs: found out once, at start, and handed to every call.

use std::fmt;

/// A choice of kernels that this machine can run.
///
/// There is no way to get one of a level that the processor lacks, which is what makes the calls into the kernels sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernels {
    level: Level,
    /// Whether a single SHA-1 has instructions (SHA-NI). Processors with AVX-512 all do; those with AVX2 from 2017 or 2019 on.
    sha: bool,
}

/// The kinds of kernels, from the most portable to the fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Runs everywhere.
    Scalar,
    /// AVX2, AES-NI and PCLMULQDQ: x86-64 since 2013.
    Avx2,
    /// AVX-512 (F, BW, VL), VAES, VPCLMULQDQ and SHA-NI: Intel since Ice Lake, AMD since Zen 4.
    Avx512,
}

impl Level {
    /// All of them, the most portable first.
    pub const ALL: [Level; 3] = [Level::Scalar, Level::Avx2, Level::Avx512];
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Scalar => "scalar",
            Level::Avx2 => "AVX2",
            Level::Avx512 => "AVX-512",
        })
    }
}

impl Kernels {
    /// The fastest ones that this machine can run.
    #[must_use]
    pub fn detect() -> Kernels {
        Level::ALL.into_iter().rev().find_map(Kernels::of).unwrap_or(Kernels::SCALAR)
    }

    /// The portable ones.
    pub const SCALAR: Kernels = Kernels { level: Level::Scalar, sha: false };

    /// Those of one level, if this machine can run them. An emulator that knows no AVX-512 (valgrind) says so itself.
    #[must_use]
    pub fn of(level: Level) -> Option<Kernels> {
        runs(level).then(|| Kernels { level, sha: level > Level::Scalar && has_sha() })
    }

    /// Their level.
    #[must_use]
    pub fn level(self) -> Level {
        self.level
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) fn has_sha(self) -> bool {
        self.sha
    }
}

#[cfg(target_arch = "x86_64")]
fn runs(level: Level) -> bool {
    use std::arch::is_x86_feature_detected as has;
    match level {
        Level::Scalar => true,
        Level::Avx2 => has!("avx2") && has!("aes") && has!("pclmulqdq"),
        Level::Avx512 => {
            runs(Level::Avx2)
                && has!("avx512f")
                && has!("avx512bw")
                && has!("avx512vl")
                && has!("vaes")
                && has!("vpclmulqdq")
                && has_sha()
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_sha() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("sha") && has!("sse4.1")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_sha() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn runs(level: Level) -> bool {
    level == Level::Scalar
}
