//! `nebula stream ID`: one stream, and in plain words why it is silent.

use crate::codec;
use crate::explain::{Reason, explain};
use crate::sample;
use crate::view;
use anyhow::{Context, bail};
use nebula_ring::table::{FLAG_ECHO, FLAG_LATCHED, FLAG_OPEN, FLAG_RECEIVE, FLAG_SEND, FLAG_TIMED_OUT};
use nebula_ring::{StreamId, StreamRecord};
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;

/// What to show.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The stream's id, as `nebula top`, logs and CDRs show it; its end is enough if no other has the same
    pub stream: String,
    /// JSON for scripts
    #[arg(long)]
    pub json: bool,
}

/// A stream with its explanation, as `--json` has it.
#[derive(Debug, Serialize)]
struct Told {
    id: String,
    worker: usize,
    partner: Option<String>,
    flags: Vec<&'static str>,
    local_rtp: String,
    local_rtcp_port: u16,
    remote_rtp: Option<String>,
    remote_rtcp: Option<String>,
    codec: Option<&'static str>,
    packets_in: u64,
    packets_out: u64,
    lost: i64,
    reordered: u64,
    duplicated: u64,
    jitter_ms: f64,
    jitter_ms_max: f64,
    rtcp_in: u64,
    rtcp_out: u64,
    age_s: f64,
    heard_s_ago: Option<f64>,
    drops: Vec<(&'static str, u64)>,
    reasons: Vec<Reason>,
}

/// Prints one stream of the dataplane at `socket`.
pub fn run(socket: &Path, options: &Options) -> anyhow::Result<()> {
    // A reader that has gone (`| head`) is no failure.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text(socket, options)?.as_bytes());
    Ok(())
}

/// What is printed.
pub fn text(socket: &Path, options: &Options) -> anyhow::Result<String> {
    let observed = sample::open(socket)?;
    let all: Vec<(usize, StreamRecord)> = sample::Sample::take(&observed).streams;
    let by_end = find(&all, &options.stream)?;
    // One that has just ended still stands in the table, but only its whole id finds it.
    let ended = || u64::from_str_radix(&options.stream, 16).ok().and_then(|id| observed.find(StreamId(id)));
    let (worker, record) = by_end
        .or_else(ended)
        .with_context(|| format!("no stream {:?}; `nebula top --once` lists them", options.stream))?;
    let partner = (record.bridged_with != 0).then(|| observed.find(StreamId(record.bridged_with))).flatten();
    let told = tell(worker, &record, partner.as_ref().map(|(_, it)| it), sample::now_ms());
    Ok(if options.json { serde_json::to_string_pretty(&told)? + "\n" } else { in_words(&told) })
}

/// The one stream alive whose id ends so.
pub fn find(all: &[(usize, StreamRecord)], end: &str) -> anyhow::Result<Option<(usize, StreamRecord)>> {
    let end = end.to_ascii_lowercase();
    let mut fits = all.iter().filter(|(_, record)| !end.is_empty() && view::id(record.id).ends_with(&end));
    match (fits.next(), fits.next()) {
        (first, None) => Ok(first.copied()),
        (_, Some(_)) => bail!("{} streams have an id that ends with {end:?}; give more of it", fits.count() + 2),
    }
}

fn tell(worker: usize, record: &StreamRecord, partner: Option<&StreamRecord>, now_ms: u64) -> Told {
    let flags = [
        (FLAG_OPEN, "open"),
        (FLAG_LATCHED, "peer_known"),
        (FLAG_SEND, "send"),
        (FLAG_RECEIVE, "receive"),
        (FLAG_ECHO, "echo"),
        (FLAG_TIMED_OUT, "timed_out"),
    ];
    let since_s = |at_ms: u64| now_ms.saturating_sub(at_ms) as f64 / 1000.0;
    Told {
        id: view::id(record.id),
        worker,
        partner: (record.bridged_with != 0).then(|| view::id(record.bridged_with)),
        flags: flags.into_iter().filter(|(flag, _)| record.is(*flag)).map(|(_, name)| name).collect(),
        local_rtp: record.local_rtp().to_string(),
        local_rtcp_port: record.rtcp_port,
        remote_rtp: record.remote_rtp().map(|it| it.to_string()),
        remote_rtcp: record.remote_rtcp().map(|it| it.to_string()),
        codec: codec::of(record).map(|it| it.name),
        packets_in: record.packets_in,
        packets_out: record.packets_out,
        lost: record.lost,
        reordered: record.reordered,
        duplicated: record.duplicated,
        jitter_ms: f64::from(record.jitter_us) / 1000.0,
        jitter_ms_max: record.jitter_us_max as f64 / 1000.0,
        rtcp_in: record.rtcp_in,
        rtcp_out: record.rtcp_out,
        age_s: since_s(record.created_at_ms),
        heard_s_ago: (record.rtp_in_at_ms > 0).then(|| since_s(record.rtp_in_at_ms)),
        drops: record.drops().named().collect(),
        reasons: explain(record, partner, now_ms),
    }
}

fn in_words(told: &Told) -> String {
    let mut text = String::new();
    for reason in &told.reasons {
        let _ = writeln!(text, "{}", reason.says);
        if !reason.advice.is_empty() {
            let _ = writeln!(text, "  {}", reason.advice);
        }
    }
    let or_unknown = |address: &Option<String>| address.clone().unwrap_or_else(|| "unknown".into());
    let heard = told.heard_s_ago.map_or("never".into(), |ago| format!("{ago:.1} s ago"));
    let partner = told.partner.as_deref().unwrap_or("none");
    let drops: Vec<String> = told.drops.iter().map(|(name, count)| format!("{name} {count}")).collect();
    let rows = [
        ("stream", format!("{} on worker {}, {:.0} s old, {}", told.id, told.worker, told.age_s, told.flags.join(" "))),
        ("other leg", partner.into()),
        ("ours", format!("{}, RTCP {}", told.local_rtp, told.local_rtcp_port)),
        ("peer", format!("{}, RTCP {}", or_unknown(&told.remote_rtp), or_unknown(&told.remote_rtcp))),
        ("heard", format!("{heard}, codec {}", told.codec.unwrap_or("unknown"))),
        (
            "packets",
            format!(
                "{} in, {} out; RTCP {} in, {} out",
                told.packets_in, told.packets_out, told.rtcp_in, told.rtcp_out
            ),
        ),
        (
            "quality",
            format!(
                "{} lost, {} late, {} twice; jitter {:.1} ms, at most {:.1} ms",
                told.lost, told.reordered, told.duplicated, told.jitter_ms, told.jitter_ms_max
            ),
        ),
        ("refused", if drops.is_empty() { "nothing".into() } else { drops.join(", ") }),
    ];
    text.push('\n');
    for (name, value) in rows {
        let _ = writeln!(text, "  {name:<10} {value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::talking;
    use nebula_ring::DropReason;

    #[test]
    fn the_end_of_an_id_is_enough_if_it_is_one_stream_s() {
        let all = [(0, talking(0xab12, 1, 0, 0)), (1, talking(0xcd12, 1, 0, 0))];
        let found = |end: &str| find(&all, end).map(|it| it.map(|(worker, _)| worker));
        assert_eq!(found("AB12").unwrap(), Some(0));
        assert_eq!(found("000000000000cd12").unwrap(), Some(1));
        assert_eq!((found("ef").unwrap(), found("").unwrap()), (None, None));
        assert!(found("12").unwrap_err().to_string().starts_with("2 streams"));
    }

    #[test]
    fn it_says_why_first_and_then_the_numbers() {
        let mut record = talking(0xab12, 0, 0, 0);
        record.set(FLAG_LATCHED, false);
        record.drop_counts[DropReason::Dtls as usize] = 3;
        let told = tell(2, &record, None, 5_000);
        let text = in_words(&told);
        assert!(text.starts_with("3 packets were no RTP but DTLS"), "{text}");
        for part in ["000000000000ab12 on worker 2", "drop_dtls 3", "192.0.2.1:4000", "heard      never"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let json: serde_json::Value = serde_json::from_str(&serde_json::to_string(&told).unwrap()).unwrap();
        assert_eq!(json["reasons"][0]["code"], "not_rtp");
        assert_eq!(json["drops"][0], serde_json::json!(["drop_dtls", 3]));
    }
}
