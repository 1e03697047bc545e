//! Whether a measurement was disturbed, what the tunnel's processes used, and which machine this is.

use std::fs;
use std::time::Instant;

use anyhow::Result;

use super::record::{Machine, Noise, Process};
use super::subject::Tunnel;
use crate::lab::{allowed_processors, first_line, name_of};
use crate::load::{MachineTimes, kernel_thread_seconds, machine_times, process_fine_seconds, process_seconds, process_times};

/// More stolen time than this, as a share of all processors' time, disturbs.
const STEAL_MAX: f64 = 0.01;
/// More time of foreign processes than this disturbs.
const FOREIGN_MAX: f64 = 0.03;

/// Watches one measurement.
pub(super) struct Watch {
    since: Instant,
    machine: MachineTimes,
    known: f64,
    processes: Vec<Watched>,
}

struct Watched {
    side: usize,
    pid: u32,
    times: [f64; 2],
    fine: Option<f64>,
}

/// What a watch saw.
pub(super) struct Watching {
    pub(super) wall: f64,
    pub(super) machine_busy: f64,
    pub(super) processes: Vec<Process>,
    /// CPU seconds of all of them, to the nanosecond; none where the kernel does not say.
    pub(super) fine_seconds: Option<f64>,
    pub(super) noise: Noise,
}

impl Watch {
    pub(super) fn start(tunnel: &Tunnel) -> Result<Self> {
        let watched = |(side, pid)| Some(Watched { side, pid, times: process_times(pid)?, fine: process_fine_seconds(pid) });
        let processes = tunnel.processes()?.into_iter().filter_map(watched).collect();
        Ok(Self { since: Instant::now(), machine: machine_times(), known: known(), processes })
    }

    pub(super) fn stop(self) -> Watching {
        let (machine, wall) = (machine_times(), self.since.elapsed().as_secs_f64());
        let known = known() - self.known;
        let side = |side: usize| if side == 0 { "left" } else { "right" }.to_owned();
        let process = |watched: &Watched| {
            let [user, system] = process_times(watched.pid).unwrap_or(watched.times);
            Some(Process {
                name: name_of(watched.pid)?,
                side: side(watched.side),
                user_seconds: user - watched.times[0],
                system_seconds: system - watched.times[1],
                memory_bytes: memory(watched.pid),
            })
        };
        let processes: Vec<Process> = self.processes.iter().filter_map(process).collect();
        let fine = |watched: &Watched| Some(process_fine_seconds(watched.pid)? - watched.fine?);
        let fine_seconds = self.processes.iter().map(fine).sum();
        let tunnel: f64 = processes.iter().map(|process| process.user_seconds + process.system_seconds).sum();
        let all = wall * allowed_processors().len().max(1) as f64;
        let noise = Noise {
            steal_share: (machine.steal - self.machine.steal) / all,
            foreign_share: ((machine.busy - self.machine.busy - known - tunnel) / all).max(0.0),
        };
        Watching { wall, machine_busy: machine.busy - self.machine.busy, processes, fine_seconds, noise }
    }
}

/// Why a measurement with this noise counts as disturbed.
pub(super) fn disturbance(noise: &Noise) -> Option<String> {
    let percent = |share: f64| share * 100.0;
    if noise.steal_share > STEAL_MAX {
        Some(format!("the hypervisor took {:.1} % of the processors", percent(noise.steal_share)))
    } else if noise.foreign_share > FOREIGN_MAX {
        Some(format!("other programs used {:.1} % of the processors", percent(noise.foreign_share)))
    } else {
        None
    }
}

/// CPU seconds of what is neither a tunnel nor foreign: this program and the kernel's own threads.
fn known() -> f64 {
    process_seconds(std::process::id()).unwrap_or_default() + kernel_thread_seconds()
}

/// Bytes of memory in use (`VmRSS` of `/proc/PID/status`).
pub(super) fn memory(pid: u32) -> u64 {
    status_kilobytes(&fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default(), "VmRSS:") * 1024
}

fn status_kilobytes(status: &str, key: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    value.trim().trim_end_matches("kB").trim().parse().unwrap_or_default()
}

/// The machine as it is before a run.
pub(super) fn machine() -> Machine {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':')).map(|(_, name)| name.trim().to_owned());
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    Machine {
        kernel: first_line("uname", &["-sr"]),
        cpu: cpu.unwrap_or_default(),
        processors: allowed_processors().len(),
        memory_bytes: status_kilobytes(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemTotal:") * 1024,
        commit: first_line("git", &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty", "--abbrev=12"]),
        load_before: load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Noise, disturbance, status_kilobytes};

    #[test]
    fn noise_disturbs_beyond_its_bounds() {
        let noise = |steal_share, foreign_share| disturbance(&Noise { steal_share, foreign_share });
        assert_eq!(noise(0.009, 0.029), None);
        assert!(noise(0.02, 0.0).is_some_and(|why| why.contains("hypervisor took 2.0 %")));
        assert!(noise(0.0, 0.2).is_some_and(|why| why.contains("other programs used 20.0 %")));
    }

    #[test]
    fn memory_is_read_from_the_right_line() {
        let status = "Name:\tx\nVmHWM:\t  900 kB\nVmRSS:\t  123 kB\n";
        assert_eq!((status_kilobytes(status, "VmRSS:"), status_kilobytes("", "VmRSS:")), (123, 0));
    }
}
