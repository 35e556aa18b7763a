//! What another process has used, as the kernel accounts for it.

use std::fs;
use std::time::Duration;

use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// Processor time of all threads that a process has, or had.
pub fn cpu(pid: u32) -> Duration {
    let clock = clock_getcpuclockid(nix_pid(pid)).expect("a running process");
    clock.now().expect("a running process").into()
}

/// The most memory that a process has held so far, in bytes.
pub fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

/// A process as the system's calls name it.
pub fn nix_pid(pid: u32) -> Pid {
    Pid::from_raw(pid.try_into().expect("a process id"))
}

/// Bytes in MB (10⁶).
#[expect(clippy::cast_precision_loss, reason = "printed with three digits")]
pub fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
