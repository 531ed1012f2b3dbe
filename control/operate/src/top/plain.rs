//! The view as two plain tables, for pipes and people without a cursor.

use crate::view::{StreamRow, View, WorkerRow};
use comfy_table::{CellAlignment, Table, presets};

/// Column heads of the workers' table, here and on the screen.
pub const WORKERS: [&str; 12] =
    ["worker", "streams", "in/s", "out/s", "CPU %", "turn us", "max", "late us", "max", "queue", "cmd", "unsent/s"];
/// Column heads of the streams' table.
pub const STREAMS: [&str; 12] =
    ["stream", "w", "state", "codec", "peer", "in/s", "out/s", "loss %", "jitter ms", "drops/s", "R", "MOS"];

/// Both tables, workers first.
pub fn tables(view: &View) -> String {
    let workers = table(&WORKERS, view.workers.iter().map(worker), 1);
    let streams = table(&STREAMS, view.streams.iter().map(stream), 5);
    format!("dataplane {}, {} streams\n{workers}\n\n{streams}\n", view.pid, view.streams_alive())
}

fn table<const N: usize>(heads: &[&str; N], rows: impl Iterator<Item = [String; N]>, words: usize) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(heads.iter().copied());
    rows.for_each(|row| {
        table.add_row(row);
    });
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_cell_alignment(if index < words { CellAlignment::Left } else { CellAlignment::Right });
    }
    table
}

/// A worker's cells, in the order of `WORKERS`.
pub fn worker(row: &WorkerRow) -> [String; WORKERS.len()] {
    [
        format!("{}{}", row.worker, trouble(row)),
        row.streams.to_string(),
        format!("{:.0}", row.packets_in_per_s),
        format!("{:.0}", row.packets_out_per_s),
        format!("{:.1}", row.cpu_percent),
        format!("{:.0}", row.turn_us_mean),
        format!("{:.0}", row.turn_us_max),
        format!("{:.0}", row.lateness_us_mean),
        format!("{:.0}", row.lateness_us_max),
        row.queue_depth_max.to_string(),
        row.commands_waiting.to_string(),
        format!("{:.0}", row.send_failed_per_s),
    ]
}

fn trouble(row: &WorkerRow) -> &'static str {
    match (row.stalled, row.overloaded) {
        (true, _) => " STALLED",
        (false, true) => " OVERLOAD",
        (false, false) => "",
    }
}

/// A stream's cells, in the order of `STREAMS`. A rating that is not by the codec's own figures has a tilde.
pub fn stream(row: &StreamRow) -> [String; STREAMS.len()] {
    let tilde = if row.is_rated_by_codec { "" } else { "~" };
    let rated = |value: Option<f64>, digits: usize| value.map_or("-".into(), |it| format!("{tilde}{it:.digits$}"));
    [
        row.id.clone(),
        row.worker.to_string(),
        row.state.name().into(),
        row.codec.unwrap_or("-").into(),
        row.remote.map_or("-".into(), |it| it.to_string()),
        format!("{:.0}", row.packets_in_per_s),
        format!("{:.0}", row.packets_out_per_s),
        format!("{:.1}", row.loss_percent),
        format!("{:.1}", row.jitter_ms),
        format!("{:.0}", row.drops_per_s),
        rated(row.rating, 0),
        rated(row.mos, 2),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{sample, talking};

    #[test]
    fn rows_stand_under_their_heads_worst_first() {
        let before = sample(1_000, 0, &[talking(2, 0, 0, 0), talking(4, 0, 0, 0)]);
        let mut opus = talking(4, 45, 5, 1_500);
        opus.payload_type_in = 111;
        let now = sample(2_000, 100, &[talking(2, 50, 0, 0), opus]);
        let text = tables(&View::between(&before, &now, 50));
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["dataplane", "42,", "2", "streams"]);
        assert_eq!(lines[2][..5], ["0", "2", "100", "0", "42.5"]);
        let worst = lines.iter().position(|line| line.first() == Some(&"0000000000000004")).unwrap();
        assert_eq!(
            lines[worst][1..],
            ["0", "up", "dynamic", "192.0.2.1:4000", "45", "45", "10.0", "1.5", "0", "~66", "~3.41"]
        );
        assert_eq!(lines[worst + 1][9..], ["0", "93", "4.41"]);
    }
}
