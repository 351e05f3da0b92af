//! CPU seconds and resident memory of processes, from /proc.

use std::fs;

/// A process and its descendants, under one name.
#[derive(Debug, Clone)]
pub struct Process {
    name: String,
    pid: u32,
}

/// `name=pid`.
pub fn parse(text: &str) -> Result<Process, String> {
    let (name, pid) = text.split_once('=').ok_or("not name=pid")?;
    let pid = pid.parse().map_err(|_| format!("{pid:?} is no process id"))?;
    Ok(Process { name: name.to_owned(), pid })
}

/// Name, CPU seconds, resident KiB of each.
pub fn read(processes: &[Process]) -> Vec<(String, f64, u64)> {
    processes
        .iter()
        .map(|process| {
            let (mut ticks, mut rss) = (0, 0);
            for pid in tree(process.pid) {
                ticks += cpu_ticks(pid).unwrap_or(0);
                rss += resident(pid).unwrap_or(0);
            }
            // USER_HZ is 100 on every Linux that Rust runs on.
            (process.name.clone(), ticks as f64 / 100.0, rss)
        })
        .collect()
}

fn tree(root: u32) -> Vec<u32> {
    let mut all = vec![root];
    let mut next = 0;
    while let Some(pid) = all.get(next).copied() {
        next += 1;
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        all.extend(children.split_whitespace().filter_map(|c| c.parse::<u32>().ok()));
    }
    all
}

/// User and system time, that of ended children included (PostgreSQL's backends come and go).
fn cpu_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    [11, 12].iter().map(|at| fields.get(*at)?.parse::<u64>().ok()).sum()
}

/// Proportional share where the kernel tells it, so that shared buffers are counted once.
fn resident(pid: u32) -> Option<u64> {
    let field = |text: &str, name: &str| -> Option<u64> {
        text.lines().find_map(|line| line.strip_prefix(name))?.trim().trim_end_matches(" kB").trim().parse().ok()
    };
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok();
    rollup.as_deref().and_then(|text| field(text, "Pss:")).or_else(|| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        field(&status, "VmRSS:")
    })
}
