//! The view drawn: workers above, streams below, colours where somebody should look.

use super::plain::{self, STREAMS, WORKERS};
use crate::view::{State, StreamRow, View, WorkerRow};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Row, Table};

/// MOS below which many are dissatisfied (R 70, G.109), and below which nearly all are (R 60).
const MOS_POOR: f64 = 3.6;
const MOS_BAD: f64 = 3.1;
/// A worker's CPU from which on there is no room for bursts.
const CPU_PERCENT_HIGH: f64 = 70.0;

/// Draws all of it. `is_dead`: no worker moves any more.
pub fn draw(frame: &mut Frame<'_>, view: &View, is_dead: bool) {
    let [head, workers, streams] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(view.workers.len() as u16 + 2),
        Constraint::Min(0),
    ])
    .areas(frame.area());
    let packets: f64 = view.workers.iter().map(|it| it.packets_in_per_s).sum();
    let note = if is_dead { "  STANDS STILL: it has died or hangs" } else { "" };
    let text = format!(
        "dataplane {}  control {}  {} streams  {packets:.0} packets/s in{note}   q quits",
        view.pid,
        view.epoch,
        view.streams_alive()
    );
    let style = if is_dead { Style::new().fg(Color::Red) } else { Style::new() };
    frame.render_widget(Line::styled(text, style.add_modifier(Modifier::BOLD)), head);
    let widths = [11, 8, 8, 8, 6, 8, 8, 8, 8, 6, 5, 8].map(Constraint::Length);
    let rows = view.workers.iter().map(|it| row(plain::worker(it), worker_style(it)));
    frame.render_widget(Table::new(rows, widths).header(header(WORKERS)), workers);
    let widths = [16, 3, 8, 8, 22, 6, 6, 7, 9, 8, 5, 6].map(Constraint::Length);
    // No more than fit: the rest costs time and is not seen.
    let visible = view.streams.iter().take(streams.height.saturating_sub(1).into());
    let rows = visible.map(|it| row(plain::stream(it), stream_style(it)));
    frame.render_widget(Table::new(rows, widths).header(header(STREAMS)), streams);
}

fn header<const N: usize>(heads: [&'static str; N]) -> Row<'static> {
    Row::new(heads).style(Style::new().add_modifier(Modifier::REVERSED))
}

fn row<const N: usize>(cells: [String; N], style: Style) -> Row<'static> {
    Row::new(cells.map(Cell::from)).style(style)
}

fn worker_style(row: &WorkerRow) -> Style {
    match row {
        WorkerRow { stalled: true, .. } | WorkerRow { overloaded: true, .. } => Style::new().fg(Color::Red),
        WorkerRow { cpu_percent, .. } if *cpu_percent >= CPU_PERCENT_HIGH => Style::new().fg(Color::Yellow),
        _ => Style::new(),
    }
}

fn stream_style(row: &StreamRow) -> Style {
    match (row.state, row.mos) {
        (State::Silent, _) => Style::new().fg(Color::Red),
        (State::Held, _) => Style::new().add_modifier(Modifier::DIM),
        (_, Some(mos)) if mos < MOS_BAD => Style::new().fg(Color::Red),
        (_, Some(mos)) if mos < MOS_POOR => Style::new().fg(Color::Yellow),
        _ => Style::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{sample, talking};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn drawn(view: &View, is_dead: bool, height: u16) -> (Vec<String>, TestBackend) {
        let mut terminal = Terminal::new(TestBackend::new(120, height)).unwrap();
        terminal.draw(|frame| draw(frame, view, is_dead)).unwrap();
        let backend = terminal.backend().clone();
        let buffer = backend.buffer();
        let line = |y| (0..120).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        ((0..height).map(line).collect(), backend)
    }

    #[test]
    fn the_worst_stream_is_the_first_and_red_and_what_does_not_fit_is_left_out() {
        let streams: Vec<_> = (1..=20).map(|n| talking(2 * n, 0, 0, 0)).collect();
        let mut later: Vec<_> = (1..=20).map(|n| talking(2 * n, 50, 0, 0)).collect();
        later[6].lost = 25;
        let view = View::between(&sample(1_000, 0, &streams), &sample(2_000, 1_000, &later), 50);
        let (lines, backend) = drawn(&view, false, 10);
        assert!(lines[0].contains("20 streams") && lines[0].contains("1000 packets/s"), "{lines:?}");
        assert!(lines[1].contains("turn us") && lines[2].contains("42.5"));
        assert!(lines[4].contains("MOS") && lines[5].starts_with("000000000000000e") && lines[5].contains("33.3"));
        assert_eq!(backend.buffer()[(0, 5)].fg, Color::Red);
        assert_ne!(backend.buffer()[(0, 6)].fg, Color::Red);
        assert!(lines[9].starts_with("000000000000000"));
        let (lines, backend) = drawn(&view, true, 10);
        assert!(lines[0].contains("STANDS STILL"));
        assert_eq!(backend.buffer()[(0, 0)].fg, Color::Red);
    }
}
