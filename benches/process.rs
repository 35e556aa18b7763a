//! What another process has used, as Linux accounts for it.

use std::fs;
use std::time::Duration;

/// Processor time of all of a process's threads.
pub fn cpu(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("a running process");
    let nanos = threads.map(|thread| {
        let path = thread.expect("a thread").path().join("schedstat");
        // A thread that ended meanwhile is left out.
        let text = fs::read_to_string(path).unwrap_or_default();
        text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0)
    });
    Duration::from_nanos(nanos.sum())
}

/// The most memory that a process has held so far, in bytes.
pub fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

/// Bytes in MB (10⁶).
#[expect(clippy::cast_precision_loss, reason = "printed with three digits")]
pub fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
