//! `trials`: variants of our own relay in many short rounds in turn, for changes that are worth a few per cent. The first one is what
//! the others are held against, round by round, so that a slow drift of the host cancels out.

use crate::relay::{Driver, Sample, Talk, measure_variant, spread};
use anyhow::{Context, Result, ensure};
use comfy_table::{Table, presets};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Trials {
    /// A name and a command line without quotes, such as "100us=target/release/nebula-dataplane --batch-us 100".
    #[arg(long = "variant", required = true, value_name = "NAME=COMMAND")]
    variants: Vec<Variant>,
    /// Calls at once, two phones each.
    #[arg(long, default_value_t = 500)]
    calls: usize,
    /// Seconds of a measurement.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// How often each is measured, in turn.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
}

#[derive(Debug, Clone)]
struct Variant {
    name: String,
    command: Vec<String>,
}

impl FromStr for Variant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, command) = text.split_once('=').ok_or("neither a name nor a command: NAME=COMMAND")?;
        let command: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        if command.is_empty() {
            return Err(format!("{name} has no command"));
        }
        Ok(Self { name: name.to_owned(), command })
    }
}

/// Measures all and prints the table.
pub fn run(arguments: &Trials) -> Result<()> {
    let Trials { variants, calls, seconds, rounds } = arguments;
    ensure!(*rounds > 0, "no rounds, no figures");
    let talk = Talk { calls: *calls, duration: Duration::from_secs(*seconds), suite: None };
    let mut samples: Vec<Vec<(Sample, f64)>> = vec![Vec::new(); variants.len()];
    for round in 1..=*rounds {
        for (variant, samples) in variants.iter().zip(&mut samples) {
            let options: Vec<&str> = variant.command[1..].iter().map(String::as_str).collect();
            let sample = measure_variant(Path::new(&variant.command[0]), &options, &Driver::Sockets.place()?, talk)
                .with_context(|| variant.name.clone())?;
            eprintln!("round {round} of {rounds}: {}, {:.2} us a packet", variant.name, sample.0.cpu_us_per_packet);
            samples.push(sample);
        }
    }
    println!(
        "{calls} calls, {rounds} rounds of {seconds} s; median (range), and of each round's ratio to the first one"
    );
    println!("{}", table(variants, &samples));
    Ok(())
}

fn table(variants: &[Variant], samples: &[Vec<(Sample, f64)>]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    table.set_header(["variant", "CPU us/packet", "x first", "packets/turn", "loss %", "p50 us", "p99 us"]);
    for (variant, samples_of) in variants.iter().zip(samples) {
        let of = |value: fn(&(Sample, f64)) -> f64| spread(&samples_of.iter().map(value).collect::<Vec<_>>());
        let ratios: Vec<f64> =
            samples_of.iter().zip(&samples[0]).map(|(a, b)| a.0.cpu_us_per_packet / b.0.cpu_us_per_packet).collect();
        let range = |(least, median, greatest): (f64, f64, f64), digits: usize| {
            format!("{median:.digits$} ({least:.digits$} to {greatest:.digits$})")
        };
        table.add_row([
            variant.name.clone(),
            range(of(|s| s.0.cpu_us_per_packet), 2),
            range(spread(&ratios), 3),
            range(of(|s| s.1), 1),
            format!("{:.3}", of(|s| s.0.loss * 100.0).1),
            range(of(|s| s.0.latency_p50_us as f64), 0),
            range(of(|s| s.0.latency_p99_us as f64), 0),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_is_a_name_and_a_command() {
        let variant: Variant = "short=env A=1 nebula-dataplane --batch-us 100".parse().unwrap();
        assert_eq!((variant.name.as_str(), variant.command.len()), ("short", 5));
        assert!("nebula-dataplane".parse::<Variant>().is_err() && "short= ".parse::<Variant>().is_err());
    }
}
