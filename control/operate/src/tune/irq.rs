//! Interrupts and where they may be delivered: `/proc/irq`. Read only here; few of them matter, and some cannot be moved.

use super::cores::CoreSet;
use std::fs;
use std::path::Path;

/// One interrupt that a device has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Irq {
    /// Its number.
    pub number: u32,
    /// What `/proc/interrupts` calls its device.
    pub name: String,
    /// Where it is allowed.
    pub cores: CoreSet,
}

/// Those with a device, by number.
pub fn read(proc: &Path) -> Vec<Irq> {
    let interrupts = fs::read_to_string(proc.join("interrupts")).unwrap_or_default();
    let name = |number: u32| {
        let start = format!("{number}:");
        let line = interrupts.lines().map(str::trim).find(|line| line.starts_with(&start))?;
        line.split_whitespace().last().map(str::to_owned)
    };
    let numbers = fs::read_dir(proc.join("irq")).into_iter().flatten().flatten();
    let mut irqs: Vec<Irq> = numbers
        .filter_map(|entry| {
            let number: u32 = entry.file_name().to_str()?.parse().ok()?;
            let cores = fs::read_to_string(entry.path().join("smp_affinity_list")).ok()?.parse().ok()?;
            Some(Irq { number, name: name(number)?, cores })
        })
        .collect();
    irqs.sort_by_key(|irq| irq.number);
    irqs
}
