//! Whether one recording is in another: normalised cross-correlation.

use std::path::Path;

/// Reads a WAV file of 16-bit samples: its rate and the samples of its first channel.
pub fn read_wav(path: &Path) -> (u32, Vec<i16>) {
    let mut reader = hound::WavReader::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (rate_hz, channels) = (reader.spec().sample_rate, usize::from(reader.spec().channels));
    let samples = reader.samples::<i16>().step_by(channels).collect::<Result<_, _>>();
    (rate_hz, samples.unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

/// Writes one.
pub fn write_wav(path: &Path, rate_hz: u32, samples: &[i16]) {
    let sample_format = hound::SampleFormat::Int;
    let spec = hound::WavSpec { channels: 1, sample_rate: rate_hz, bits_per_sample: 16, sample_format };
    let mut writer = hound::WavWriter::create(path, spec).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    for sample in samples {
        writer.write_sample(*sample).expect("a sample");
    }
    writer.finalize().expect("a file");
}

/// To another rate, one a multiple of the other: down by averaging, up by straight lines. Enough for speech that is only to
/// be recognised.
pub fn resample(samples: &[i16], from_hz: u32, to_hz: u32) -> Vec<i16> {
    if from_hz >= to_hz {
        assert_eq!(from_hz % to_hz, 0, "{from_hz} to {to_hz}");
        let factor = (from_hz / to_hz) as usize;
        let mean = |part: &[i16]| part.iter().map(|v| i64::from(*v)).sum::<i64>() / factor as i64;
        return samples.chunks_exact(factor).map(|part| mean(part) as i16).collect();
    }
    assert_eq!(to_hz % from_hz, 0, "{from_hz} to {to_hz}");
    let factor = i64::from(to_hz / from_hz);
    let between = |pair: &[i16], step: i64| (i64::from(pair[0]) * (factor - step) + i64::from(pair[1]) * step) / factor;
    samples.windows(2).flat_map(|pair| (0..factor).map(move |step| between(pair, step) as i16)).collect()
}

/// The best normalised correlation (-1 to 1) of `part` with any stretch of `whole`.
pub fn best_correlation(part: &[i16], whole: &[i16]) -> f64 {
    let energy = |s: &[i16]| s.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
    let part_energy = energy(part);
    let at = |offset: usize| {
        let stretch = &whole[offset..offset + part.len()];
        let dot: f64 = part.iter().zip(stretch).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        dot / (part_energy * energy(stretch)).sqrt().max(1.0)
    };
    (0..=whole.len().saturating_sub(part.len())).map(at).fold(-1.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resampling_keeps_a_slope() {
        assert_eq!(resample(&[0, 10, 20, 30], 8000, 16_000), [0, 5, 10, 15, 20, 25]);
        assert_eq!(resample(&[0, 10, 20, 30, 40], 16_000, 8000), [5, 25]);
    }

    #[test]
    fn finds_itself_and_nothing_else() {
        let noise = |seed: u32, n: usize| -> Vec<i16> {
            let mut x = seed;
            let mut next = || {
                x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (x >> 18) as i16 - 8192
            };
            (0..n).map(|_| next()).collect()
        };
        let whole = noise(1, 4000);
        assert!(best_correlation(&whole[1000..1800], &whole) > 0.999);
        assert!(best_correlation(&noise(7, 800), &whole) < 0.3);
    }
}
