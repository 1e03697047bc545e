//! What a run cost: CPU time of processes, of the whole machine, and what the hypervisor took away meanwhile.

use std::fs;
use std::time::Instant;

use crate::lab::stat;
use crate::sys;

/// `PF_KTHREAD` (include/linux/sched.h), in the flags of `/proc/PID/stat`.
const KTHREAD: u32 = 0x0020_0000;

/// CPU seconds that a process has used so far, in user space and in the kernel, all its threads; `None` if it is gone.
#[must_use]
pub fn process_seconds(pid: u32) -> Option<f64> {
    process_times(pid).map(|[user, system]| user + system)
}

/// The same apart: user space, then the kernel.
#[must_use]
pub fn process_times(pid: u32) -> Option<[f64; 2]> {
    let fields = stat(pid)?;
    let ticks = |field: usize| fields.get(field).and_then(|value| value.parse::<u64>().ok());
    Some([ticks(11)?, ticks(12)?].map(|ticks| ticks as f64 / sys::ticks_per_second()))
}

/// CPU seconds of all threads that the process has now, to the nanosecond (`/proc/PID/task/TID/schedstat`): for what is too little
/// for the clock ticks of [`process_seconds`]. `None` if it is gone, or the kernel does not say.
#[must_use]
pub fn process_fine_seconds(pid: u32) -> Option<f64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let one = |text: String| text.split_ascii_whitespace().next().and_then(|nanos| nanos.parse::<u64>().ok());
    let nanos = threads.map(|thread| one(fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?)).sum::<Option<u64>>()?;
    Some(nanos as f64 * 1e-9)
}

/// Measures between [`Self::start`] and [`Self::stop`].
#[derive(Debug)]
pub struct Meter {
    pids: Vec<u32>,
    since: Instant,
    processes: f64,
    own: f64,
    machine: [f64; 2],
}

/// What was used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Seconds by the clock.
    pub wall: f64,
    /// CPU seconds of the processes watched.
    pub processes: f64,
    /// CPU seconds of everything on the machine, interrupts among them.
    pub machine: f64,
    /// CPU seconds that neither those processes nor this one used: other programs, and interrupts.
    pub others: f64,
    /// CPU seconds that the hypervisor gave to others while we wanted to run.
    pub steal: f64,
}

impl Usage {
    /// Adds another measurement.
    pub fn add(&mut self, other: &Self) {
        self.wall += other.wall;
        self.processes += other.processes;
        self.machine += other.machine;
        self.others += other.others;
        self.steal += other.steal;
    }
}

impl Meter {
    /// Begins, watching these processes.
    #[must_use]
    pub fn start(pids: &[u32]) -> Self {
        Self { pids: pids.to_vec(), since: Instant::now(), processes: sum(pids), own: own(), machine: machine() }
    }

    /// What was used since.
    #[must_use]
    pub fn stop(&self) -> Usage {
        let [busy, steal] = machine();
        let processes = (sum(&self.pids) - self.processes).max(0.0);
        let machine = busy - self.machine[0];
        Usage {
            wall: self.since.elapsed().as_secs_f64(),
            processes,
            machine,
            others: (machine - processes - (own() - self.own)).max(0.0),
            steal: steal - self.machine[1],
        }
    }
}

fn own() -> f64 {
    process_seconds(std::process::id()).unwrap_or_default()
}

fn sum(pids: &[u32]) -> f64 {
    pids.iter().filter_map(|pid| process_seconds(*pid)).sum()
}

/// Busy and stolen seconds since boot, of all processors.
fn machine() -> [f64; 2] {
    let machine = machine_times();
    [machine.busy, machine.steal]
}

/// Seconds since boot, of all processors together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MachineTimes {
    /// Anything but idle, interrupts among it.
    pub busy: f64,
    /// Taken by the hypervisor while something here wanted to run.
    pub steal: f64,
}

/// CPU seconds that the kernel's own threads have used so far.
#[must_use]
pub fn kernel_thread_seconds() -> f64 {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let of_kernel = |pid: &u32| stat(*pid).and_then(|fields| fields.get(6)?.parse::<u32>().ok()).is_some_and(|flags| flags & KTHREAD != 0);
    pids.filter(of_kernel).filter_map(process_seconds).sum()
}

/// What `/proc/stat` says now (proc(5): user, nice, system, idle, iowait, irq, softirq, steal).
#[must_use]
pub fn machine_times() -> MachineTimes {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let values: Vec<f64> = line.split_ascii_whitespace().skip(1).filter_map(|value| value.parse().ok()).collect();
    let value = |index: usize| values.get(index).copied().unwrap_or_default() / sys::ticks_per_second();
    let sum = |indices: &[usize]| indices.iter().map(|index| value(*index)).sum();
    MachineTimes { busy: sum(&[0, 1, 2, 5, 6]), steal: value(7) }
}

#[cfg(test)]
mod tests {
    use super::{Meter, process_fine_seconds, process_seconds};

    #[test]
    fn a_busy_thread_is_seen() {
        let own = std::process::id();
        let (meter, fine) = (Meter::start(&[own]), process_fine_seconds(own).expect("Linux says"));
        let start = std::time::Instant::now();
        while start.elapsed() < std::time::Duration::from_millis(300) {
            std::hint::spin_loop();
        }
        let usage = meter.stop();
        assert!(usage.processes > 0.05, "{usage:?}");
        let fine = process_fine_seconds(own).expect("Linux says") - fine;
        assert!(fine > 0.05 && fine < process_seconds(own).expect("it runs") + 1.0, "{fine} {usage:?}");
        assert!(usage.machine >= usage.processes * 0.5, "{usage:?}");
    }
}
