//! What a snapshot costs in the embedded keep: `cargo run --release -p nebula-store --example snapshot_cost`. Values of
//! 2 KiB under 1,000 keys in turn, in groups as the writer of the bus makes them; CPU of the whole process.
#![allow(missing_docs)]

use std::time::{Duration, Instant};

use nebula_store::snapshots::File;

const PUTS: usize = 50_000;
const KEYS: usize = 1_000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    for group in [1, 4, 16, 64] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = File::open(&folder.path().join("snapshots.db")).expect("a file");
        let (fence, _) = file.enter("switchboard-a").await.expect("a fence");
        let value = vec![b'x'; 2048];
        let (wall, cpu) = (Instant::now(), cpu_time());
        for first in (0..PUTS).step_by(group) {
            let changes: Vec<_> =
                (first..first + group).map(|n| (format!("call/{:026}", n % KEYS), Some(value.clone()))).collect();
            file.write("switchboard-a", fence, &changes).await.expect("a write");
        }
        let (wall, cpu) = (wall.elapsed(), cpu_time() - cpu);
        let each = |total: Duration| total.as_secs_f64() * 1e6 / PUTS as f64;
        println!("groups of {group:2}: {:.1} us CPU, {:.1} us of time a put", each(cpu), each(wall));
    }
}

/// User and system time of this process, from `/proc/self/stat` in ticks of 10 ms.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let after_name = stat.rsplit_once(") ").expect("a process name").1;
    let ticks: u64 = after_name.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 10)
}
