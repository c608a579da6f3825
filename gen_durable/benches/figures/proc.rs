//! Reads processor time and memory from `/proc`.

use std::time::Duration;

use crate::bench::{Bench, Error};

/// Returns the processor time of this process and of all server processes, also of those that have
/// ended.
pub fn cpu_time(bench: &Bench) -> Result<Duration, Error> {
    const TICKS_PER_SECOND: u64 = 100;
    let own = std::process::id().to_string();
    let postmaster = bench.postmaster.to_string();
    let mut ticks = 0;
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let Ok(stat) = std::fs::read_to_string(path.join("stat")) else { continue };
        // The process name is in parentheses and may contain any character, so the fields are
        // counted from its end.
        let Some((head, tail)) = stat.rsplit_once(')') else { continue };
        let fields: Vec<&str> = tail.split_whitespace().collect();
        let id = head.split(' ').next();
        // The 14th to 17th field of the whole line are utime, stime, cutime and cstime. The last
        // two are those of children that have ended.
        let counted = if id == Some(&own) || fields.get(1) == Some(&postmaster.as_str()) {
            11..13
        } else if id == Some(&postmaster) {
            13..15
        } else {
            continue;
        };
        for field in fields.get(counted).ok_or("a short line")? {
            ticks += field.parse::<u64>()?;
        }
    }
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// Returns the resident set of this process, in KiB.
pub fn resident_kib() -> Result<f64, Error> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse()?)
}
