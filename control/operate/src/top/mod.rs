//! `nebula top`: workers and streams, live in the terminal, as a table once, or as JSON. It looks at the segment once an
//! interval; the workers do not learn of it.

mod plain;
mod screen;

use crate::sample::{self, Sample};
use crate::view::{ASSUMED_DELAY_MS, View};
use nebula_ring::segment::Observed;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// What to show, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Look twice, print a table and end
    #[arg(long)]
    pub once: bool,
    /// The same as JSON, for scripts
    #[arg(long)]
    pub json: bool,
    /// Between two looks, in milliseconds
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub interval_ms: u64,
    /// Streams to show at most, worst first [default: all, or what the terminal holds]
    #[arg(long)]
    pub streams: Option<usize>,
    /// One-way delay of network and terminals that the E-model is given, in milliseconds: it cannot be measured here
    #[arg(long, default_value_t = ASSUMED_DELAY_MS, value_parser = clap::value_parser!(u32).range(0..=2000))]
    pub delay_ms: u32,
}

/// Shows the dataplane at `socket`.
pub fn run(socket: &Path, options: &Options) -> anyhow::Result<()> {
    if options.once || options.json || !std::io::stdout().is_terminal() {
        // A reader that has gone (`| head`) is no failure.
        let _ = std::io::stdout().write_all(once(socket, options)?.as_bytes());
        return Ok(());
    }
    let observed = sample::open(socket)?;
    let mut terminal = ratatui::try_init()?;
    let shown = live(&mut terminal, socket, observed, options);
    ratatui::restore();
    shown
}

/// What `--once` or `--json` prints: two looks, an interval apart.
pub fn once(socket: &Path, options: &Options) -> anyhow::Result<String> {
    let observed = sample::open(socket)?;
    let before = Sample::take(&observed);
    std::thread::sleep(Duration::from_millis(options.interval_ms));
    let mut view = View::between(&before, &Sample::take(&observed), options.delay_ms);
    view.streams.truncate(options.streams.unwrap_or(usize::MAX));
    Ok(if options.json { serde_json::to_string_pretty(&view)? + "\n" } else { plain::tables(&view) })
}

/// Until `q`, Escape or Ctrl-C.
fn live(
    terminal: &mut ratatui::DefaultTerminal,
    socket: &Path,
    mut observed: Observed,
    options: &Options,
) -> anyhow::Result<()> {
    let mut before = Sample::take(&observed);
    let mut due = Instant::now();
    loop {
        if Instant::now() >= due {
            let now = Sample::take(&observed);
            let mut view = View::between(&before, &now, options.delay_ms);
            view.streams.truncate(options.streams.unwrap_or(usize::MAX));
            let is_dead = !view.workers.is_empty() && view.workers.iter().all(|it| it.stalled);
            terminal.draw(|frame| screen::draw(frame, &view, is_dead))?;
            before = now;
            due = Instant::now() + Duration::from_millis(options.interval_ms);
            // Its successor has a segment of its own.
            if is_dead && let Ok(successor) = sample::open(socket) {
                observed = successor;
            }
        }
        if event::poll(due.saturating_duration_since(Instant::now()))?
            && let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
        {
            let interrupts = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
            if interrupts || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                return Ok(());
            }
        }
    }
}
