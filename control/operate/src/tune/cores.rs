//! Sets of cores as the kernel writes them: `0-3,8`. Pure.

use serde::{Deserialize, Deserializer, de::Error as _};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// The highest core that is believed: more than any kernel supports.
const CORE_MAX: u32 = 65_535;

/// Cores by number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CoreSet(BTreeSet<u32>);

/// A text that names no cores.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no list of cores such as 0-3,8")]
pub struct NoCores(String);

impl CoreSet {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    /// Those that are also in another.
    pub fn and(&self, other: &Self) -> Self {
        Self(&self.0 & &other.0)
    }

    /// Those that are not in another.
    pub fn without(&self, other: &Self) -> Self {
        Self(&self.0 - &other.0)
    }
}

impl FromIterator<u32> for CoreSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cores: I) -> Self {
        Self(cores.into_iter().collect())
    }
}

impl FromStr for CoreSet {
    type Err = NoCores;

    fn from_str(text: &str) -> Result<Self, NoCores> {
        let bad = || NoCores(text.to_owned());
        let number = |text: &str| text.parse::<u32>().ok().filter(|core| *core <= CORE_MAX).ok_or_else(bad);
        let mut cores = BTreeSet::new();
        for part in text.trim().split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if first > last {
                return Err(bad());
            }
            cores.extend(first..=last);
        }
        Ok(Self(cores))
    }
}

impl fmt::Display for CoreSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for core in self.iter() {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == core => *last = core,
                _ => ranges.push((core, core)),
            }
        }
        let parts: Vec<String> = ranges
            .into_iter()
            .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
            .collect();
        f.write_str(if parts.is_empty() { "none" } else { "" })?;
        f.write_str(&parts.join(","))
    }
}

impl<'de> Deserialize<'de> for CoreSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written_as_the_kernel_has_them() {
        for (text, len, written) in
            [("0-3,8", 5, "0-3,8"), ("1, 0,2\n", 3, "0-2"), ("", 0, "none"), ("5", 1, "5"), ("4-4", 1, "4")]
        {
            let cores: CoreSet = text.parse().unwrap();
            assert_eq!((cores.len(), cores.to_string().as_str()), (len, written));
        }
        for text in ["x", "3-1", "1-", "0-99999999999"] {
            assert!(text.parse::<CoreSet>().is_err(), "{text}");
        }
    }
}
