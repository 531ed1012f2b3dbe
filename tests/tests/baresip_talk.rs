//! Two softphones register, talk, and hear what the other said, whatever the codec; and one hears itself.

use nebula_tests::audio::{best_correlation, read_wav, resample, write_wav};
use nebula_tests::baresip::Baresip;
use nebula_tests::system::System;
use nebula_tests::{testdata, wait_for};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A voice, at the rate of the codec that will carry it.
struct Voice {
    file: PathBuf,
    samples: Vec<i16>,
    rate_hz: u32,
}

impl Voice {
    /// Speech, repeated so that it lasts as long as any call here; backwards it is a second voice.
    fn new(folder: &Path, rate_hz: u32, backwards: bool) -> Option<Self> {
        let (from_hz, samples) = read_wav(&testdata::find("speech/pesq_speech_16k.wav")?);
        let mut samples = resample(&samples, from_hz, rate_hz).repeat(4);
        if backwards {
            samples.reverse();
        }
        let file = folder.join(if backwards { "backwards.wav" } else { "speech.wav" });
        write_wav(&file, rate_hz, &samples);
        Some(Self { file, samples, rate_hz })
    }

    /// How surely a recording has this voice in it: its loudest half second is searched for, because silence correlates
    /// with nothing.
    fn is_heard_in(&self, (rate_hz, recording): &(u32, Vec<i16>)) -> f64 {
        let recording = resample(recording, *rate_hz, RATE_HZ);
        let energy = |s: &[i16]| s.iter().map(|v| i64::from(*v).pow(2)).sum::<i64>();
        let stretches = recording.chunks_exact(RATE_HZ as usize / 2);
        let loudest = stretches.max_by_key(|s| energy(s)).expect("at least half a second was heard");
        best_correlation(loudest, &resample(&self.samples, self.rate_hz, RATE_HZ))
    }
}

/// What is compared has this rate: it is what all codecs carry.
const RATE_HZ: u32 = 8000;

/// Waits until the call's RTP has flowed for about three seconds each way.
fn talk_a_while(system: &System) {
    wait_for("three seconds of audio", Duration::from_secs(20), || {
        let calls = system.get("/v1.0/calls");
        let answered = calls.as_array()?.first()?["answered_unix_ms"].as_i64()?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?;
        (i64::try_from(now.as_millis()).ok()? - answered > 4000).then_some(())
    });
}

/// One codec: what SDP calls it, what baresip calls it, the rate of its sound, and how well what it leaves of a voice correlates at the
/// least.
struct Codec {
    name: &'static str,
    for_baresip: &'static str,
    rate_hz: u32,
    same: f64,
}

const PCMU: Codec = Codec { name: "PCMU/8000", for_baresip: "PCMU/8000", rate_hz: 8000, same: 0.9 };
const PCMA: Codec = Codec { name: "PCMA/8000", for_baresip: "PCMA/8000", rate_hz: 8000, same: 0.9 };
/// SDP calls its clock 8000 (RFC 3551 section 4.5.2).
const G722: Codec = Codec { name: "G722/8000", for_baresip: "G722/16000", rate_hz: 16_000, same: 0.9 };
/// It is made to sound the same, not to look the same.
const OPUS: Codec = Codec { name: "OPUS/48000/2", for_baresip: "opus/48000/2", rate_hz: 48_000, same: 0.8 };

fn two_phones_hear_each_other(codec: &Codec, environment: &[(&str, &str)]) {
    two_phones_with(codec, environment, [None, None]);
}

/// With a way of protection each; those who have one must say that it is used.
fn two_phones_with(codec: &Codec, environment: &[(&str, &str)], mediaenc: [Option<&str>; 2]) {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(a_says) = Voice::new(folder.path(), codec.rate_hz, false) else { return };
    let Some(b_says) = Voice::new(folder.path(), codec.rate_hz, true) else { return };
    let system = System::start_with(environment);
    let mut a = Baresip::start_with(&system, "1000", codec.for_baresip, &a_says.file, mediaenc[0]);
    let b = Baresip::start_with(&system, "1001", codec.for_baresip, &b_says.file, mediaenc[1]);
    a.dial("1001");
    talk_a_while(&system);
    a.hang_up();
    for (phone, mediaenc) in [&a, &b].into_iter().zip(mediaenc) {
        assert_eq!(phone.log().contains("SRTP is Enabled"), mediaenc.is_some(), "{}", phone.log());
    }

    let cdrs = system.wait_for_cdrs(1, Duration::from_secs(10));
    let (a_hears_b, b_hears_a) = (b_says.is_heard_in(&a.heard()), a_says.is_heard_in(&b.heard()));
    assert!(a_hears_b > codec.same && b_hears_a > codec.same, "{a_hears_b:.3} {b_hears_a:.3}");

    assert_eq!(cdrs.len(), 1);
    let legs = cdrs[0]["legs"].as_array().expect("legs");
    assert_eq!(legs.len(), 2, "{legs:#?}");
    for leg in legs {
        let stats = &leg["stats"];
        let packets = stats["packets_received"].as_u64().expect("a count");
        // Four seconds of 20 ms packets, less what set-up took.
        assert!(packets > 150, "{stats:#}");
        assert_eq!(stats["packets_lost"], 0, "{stats:#}");
        assert_eq!(stats["codec"], codec.name);
    }
}

#[test]
fn over_pcmu() {
    two_phones_hear_each_other(&PCMU, &[]);
}

#[test]
fn over_g722() {
    two_phones_hear_each_other(&G722, &[]);
}

#[test]
fn over_opus() {
    two_phones_hear_each_other(&OPUS, &[]);
}

#[test]
fn over_ipv6() {
    two_phones_hear_each_other(&PCMU, &[("NEBULA__NETWORK__BIND_IP", "::1")]);
}

#[test]
fn over_srtp() {
    two_phones_with(&PCMU, &[("NEBULA__MEDIA__SRTP", "required")], [Some("srtp-mand"), Some("srtp-mand")]);
}

#[test]
fn over_srtp_that_may_be_declined() {
    two_phones_with(&PCMU, &[], [Some("srtp"), Some("srtp")]);
}

#[test]
fn from_srtp_to_rtp() {
    two_phones_with(&PCMU, &[], [Some("srtp-mand"), None]);
}

#[test]
fn the_echo_service_returns_ones_voice() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(says) = Voice::new(folder.path(), PCMA.rate_hz, false) else { return };
    let system = System::start();
    let mut phone = Baresip::start(&system, "1002", PCMA.for_baresip, &says.file);
    phone.dial("*43");
    talk_a_while(&system);
    phone.hang_up();
    system.wait_for_cdrs(1, Duration::from_secs(10));
    let heard = says.is_heard_in(&phone.heard());
    assert!(heard > PCMA.same, "{heard:.3}");
}
