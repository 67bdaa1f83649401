//! How much memory this process may use: the flag, else the container's limit, else the machine's.

use std::path::Path;

/// Files that hold a cgroup's limit in bytes, version 2 first; `max` there means none.
const CGROUP_LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// Bytes; `None` where the system does not say.
pub fn available() -> Option<u64> {
    let machine = machine();
    let limits = CGROUP_LIMITS.iter().filter_map(|path| std::fs::read_to_string(Path::new(path)).ok()?.trim().parse::<u64>().ok());
    // Version 1 writes a number near 2^63 where there is no limit.
    limits.chain(machine).min()
}

fn machine() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}
