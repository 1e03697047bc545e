//! The checks: each looks at one thing, and judges it by a function that a test can call with any machine's answer.

use std::fs::read_to_string;
use std::io;

use socket2::{Domain, Socket, Type};

use super::{Check, Verdict};
use crate::sys::probe;
use crate::{sys, tun};

/// In the order of how much depends on them.
pub(super) fn all() -> Vec<Check> {
    let status = read("/proc/self/status");
    let rights = capabilities(&status);
    vec![
        kernel(&read("/proc/sys/kernel/osrelease")),
        processor(&read("/proc/cpuinfo")),
        root(rights),
        tun_device(rights),
        udp(),
        buffers(),
        ring(probe::ring()),
        landlock(probe::landlock_abi()),
        filters(&read("/proc/sys/kernel/seccomp/actions_avail")),
        namespaces(|name| std::fs::exists(format!("/proc/self/ns/{name}")).unwrap_or(false)),
        locked_memory(probe::locked_memory_limit(), rights),
        memory(&read("/proc/meminfo"), std::thread::available_parallelism().map_or(1, usize::from)),
        autogroup(&read("/proc/sys/kernel/sched_autogroup_enabled")),
        clock(probe::is_clock_synchronised()),
    ]
}

/// Empty where there is no such file, which the checks take for a kernel without it.
fn read(path: &str) -> String {
    read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The capabilities that this process has; those of the daemon are the same if the same user starts it.
fn capabilities(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or_default()
}

/// What the launcher uses, by number (linux/capability.h).
const NEEDED: [(u32, &str); 5] = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN"), (6, "CAP_SETGID"), (7, "CAP_SETUID"), (8, "CAP_SETPCAP")];
const NET_ADMIN: u64 = 1 << 12;
const SYS_RESOURCE: u64 = 1 << 24;

fn kernel(release: &str) -> Check {
    const WHAT: &str = "kernel";
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match version {
        (0, _) => Check::not_good(Verdict::Unknown, WHAT, "its version cannot be read", "mount /proc"),
        version if version < (6, 1) => {
            Check::not_good(Verdict::Bad, WHAT, format!("Linux {release}"), "Linux 6.1 is the oldest that will do")
        }
        _ => Check::good(WHAT, format!("Linux {release}")),
    }
}

fn processor(cpuinfo: &str) -> Check {
    const WHAT: &str = "processor";
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags") || line.starts_with("Features")).unwrap_or_default();
    let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
    match (has("aes"), has("vaes")) {
        (_, true) => Check::good(WHAT, "AES on vectors (vaes)"),
        (true, _) => Check::good(WHAT, "AES instructions"),
        _ => Check::not_good(
            Verdict::Care,
            WHAT,
            "no AES instructions: encryption is many times slower",
            "let the hypervisor pass the flag aes on",
        ),
    }
}

fn root(rights: u64) -> Check {
    const WHAT: &str = "rights";
    let missing: Vec<&str> = NEEDED.iter().filter(|(bit, _)| rights & 1 << bit == 0).map(|(_, name)| *name).collect();
    match missing[..] {
        [] => Check::good(WHAT, "all that starting a jailed engine takes"),
        _ if missing.len() == NEEDED.len() => {
            Check::not_good(Verdict::Unknown, WHAT, "none", "run doctor as the user that starts penstockd: root")
        }
        _ => Check::not_good(
            Verdict::Bad,
            WHAT,
            format!("without {}", missing.join(" ")),
            "start penstockd as root, and give its container these",
        ),
    }
}

/// Opens a device in a network namespace of its own, so that nobody sees it.
fn tun_device(rights: u64) -> Check {
    if rights & NET_ADMIN == 0 {
        return Check::not_good(Verdict::Unknown, "tun", "only root can try", "run doctor as root");
    }
    let tried = std::thread::spawn(|| probe::leave_network().map(|()| tun::open("doctor0", 1, true).map(|queues| queues.uso)));
    match tried.join() {
        Ok(Ok(uso)) => judge_tun(uso.map_err(|error| error.to_string())),
        Ok(Err(error)) => {
            Check::not_good(Verdict::Unknown, "tun", format!("no network namespace to try it in: {error}"), "run doctor as root")
        }
        Err(_) => Check::not_good(Verdict::Unknown, "tun", "the try did not end", ""),
    }
}

fn judge_tun(uso: Result<bool, String>) -> Check {
    const WHAT: &str = "tun";
    match uso {
        Ok(true) => Check::good(WHAT, "several queues, TCP and UDP super-packets"),
        Ok(false) => Check::not_good(Verdict::Care, WHAT, "no UDP super-packets (USO): UDP is slower", "Linux 6.2 or newer has them"),
        Err(error) => {
            let (found, remedy) = error.split_once("; ").unwrap_or((&error, "look at the kernel log"));
            Check::not_good(Verdict::Bad, WHAT, found, remedy)
        }
    }
}

fn udp() -> Check {
    const WHAT: &str = "udp";
    let tried = Socket::new(Domain::IPV4, Type::DGRAM, None).and_then(|socket| {
        let fd = std::os::fd::AsFd::as_fd(&socket);
        sys::set_option(fd, libc::SOL_UDP, libc::UDP_SEGMENT, 1400)?;
        sys::set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1)
    });
    match tried {
        Ok(()) => Check::good(WHAT, "runs of packets in one send and one receive"),
        Err(error) => Check::not_good(Verdict::Care, WHAT, format!("no UDP_SEGMENT or UDP_GRO: {error}"), "Linux 5.0 or newer has them"),
    }
}

/// The bytes that penstockd asks for, for each socket.
const BUFFER_BYTES: i32 = 8 << 20;

fn buffers() -> Check {
    let forced = Socket::new(Domain::IPV4, Type::DGRAM, None)
        .and_then(|socket| sys::set_option(std::os::fd::AsFd::as_fd(&socket), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER_BYTES));
    judge_buffers(forced.is_ok(), &read("/proc/sys/net/core/rmem_max"))
}

fn judge_buffers(forced: bool, most: &str) -> Check {
    const WHAT: &str = "socket buffers";
    let most: i32 = most.parse().unwrap_or(0);
    match (forced, most >= BUFFER_BYTES) {
        (true, _) => Check::good(WHAT, "as large as penstockd wants, whatever net.core.rmem_max says"),
        (false, true) => Check::good(WHAT, format!("net.core.rmem_max = {most}")),
        (false, false) => Check::not_good(
            Verdict::Care,
            WHAT,
            format!("net.core.rmem_max = {most} where {BUFFER_BYTES} are wanted: bursts are lost unless penstockd has CAP_NET_ADMIN"),
            format!("sysctl net.core.rmem_max={BUFFER_BYTES} net.core.wmem_max={BUFFER_BYTES}"),
        ),
    }
}

fn ring(tried: io::Result<bool>) -> Check {
    const WHAT: &str = "io_uring";
    match tried {
        Ok(true) => Check::good(WHAT, "with READ_MULTISHOT"),
        Ok(false) => Check::not_good(Verdict::Care, WHAT, "without READ_MULTISHOT: a little slower", "Linux 6.7 or newer has it"),
        Err(error) => Check::not_good(
            Verdict::Care,
            WHAT,
            format!("refused ({error}): the engine uses plain system calls"),
            "sysctl kernel.io_uring_disabled=0, and let the container's filter pass io_uring",
        ),
    }
}

fn landlock(abi: io::Result<u32>) -> Check {
    const WHAT: &str = "landlock";
    match abi {
        Ok(abi) if abi >= 6 => Check::good(WHAT, format!("ABI {abi}: files, TCP ports, signals")),
        Ok(abi) => {
            Check::not_good(Verdict::Care, WHAT, format!("ABI {abi}: not all is denied by it"), "Linux 6.12 or newer denies signals too")
        }
        Err(error) => Check::not_good(
            Verdict::Care,
            WHAT,
            format!("none ({error})"),
            "a kernel with CONFIG_SECURITY_LANDLOCK and landlock among its lsm=",
        ),
    }
}

fn filters(actions: &str) -> Check {
    const WHAT: &str = "seccomp";
    if actions.split_whitespace().any(|action| action == "errno") {
        Check::good(WHAT, "system calls can be filtered")
    } else {
        Check::not_good(Verdict::Bad, WHAT, "system calls cannot be filtered", "a kernel with CONFIG_SECCOMP_FILTER")
    }
}

fn namespaces(has: impl Fn(&str) -> bool) -> Check {
    const WHAT: &str = "namespaces";
    let missing: Vec<&str> = ["net", "mnt", "pid", "ipc", "uts", "cgroup"].into_iter().filter(|name| !has(name)).collect();
    if missing.is_empty() {
        Check::good(WHAT, "all that the engine leaves the system's for")
    } else {
        Check::not_good(Verdict::Bad, WHAT, format!("without {}", missing.join(" ")), "a kernel with CONFIG_NAMESPACES and all below it")
    }
}

fn locked_memory(limit: io::Result<Option<u64>>, rights: u64) -> Check {
    const WHAT: &str = "locked memory";
    match limit {
        Ok(None) => Check::good(WHAT, "unlimited: keys never reach swap"),
        _ if rights & SYS_RESOURCE != 0 => Check::good(WHAT, "penstockd may lift the limit: keys never reach swap"),
        Ok(Some(bytes)) => Check::not_good(
            Verdict::Care,
            WHAT,
            format!("at most {bytes} bytes: keys may reach swap"),
            "turn swap off, or start penstockd with unlimited locked memory (LimitMEMLOCK=infinity) or CAP_SYS_RESOURCE",
        ),
        Err(error) => Check::not_good(Verdict::Unknown, WHAT, error.to_string(), ""),
    }
}

/// What a worker takes at the most, in KiB: its buffers, slots and tables.
const CORE_KIB: u64 = 32 << 10;

fn memory(meminfo: &str, cores: usize) -> Check {
    const WHAT: &str = "memory";
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let available = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    let wanted = CORE_KIB * cores as u64;
    match available {
        None => Check::not_good(Verdict::Unknown, WHAT, "nothing is known of it", "mount /proc"),
        Some(kib) if kib < wanted => Check::not_good(
            Verdict::Care,
            WHAT,
            format!("{} MiB are free where {cores} cores may take {} MiB", kib >> 10, wanted >> 10),
            "free some, or configure fewer cores",
        ),
        Some(kib) => Check::good(WHAT, format!("{} MiB are free", kib >> 10)),
    }
}

fn autogroup(value: &str) -> Check {
    const WHAT: &str = "scheduler";
    if value == "1" {
        Check::not_good(
            Verdict::Care,
            WHAT,
            "cores are divided between sessions first: the engine's nice value counts only within its own",
            "sysctl kernel.sched_autogroup_enabled=0",
        )
    } else {
        Check::good(WHAT, "the engine's nice value counts")
    }
}

fn clock(synchronised: bool) -> Check {
    const WHAT: &str = "clock";
    if synchronised {
        Check::good(WHAT, "kept right")
    } else {
        Check::not_good(
            Verdict::Care,
            WHAT,
            "nobody keeps it right: times in logs of two sites differ (tunnels do not mind)",
            "run chrony or systemd-timesyncd",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts<const N: usize>(checks: [Check; N]) -> [Verdict; N] {
        checks.map(|check| {
            assert_eq!(check.verdict == Verdict::Good, check.remedy.is_empty(), "what is not good has a remedy: {check:?}");
            check.verdict
        })
    }

    fn refused() -> io::Error {
        io::Error::from_raw_os_error(libc::EPERM)
    }

    #[test]
    fn an_old_kernel_and_missing_rights_are_bad() {
        let kernels = ["6.18.44-x", "6.1.0", "6.0.19", "5.15.0-91-generic", ""].map(kernel);
        assert_eq!(verdicts(kernels), [Verdict::Good, Verdict::Good, Verdict::Bad, Verdict::Bad, Verdict::Unknown]);
        let all = capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n");
        assert_eq!(verdicts([root(all), root(all & !(1 << 21)), root(0)]), [Verdict::Good, Verdict::Bad, Verdict::Unknown]);
        assert_eq!(verdicts([filters("kill_process errno allow"), filters("")]), [Verdict::Good, Verdict::Bad]);
        assert_eq!(verdicts([namespaces(|_| true), namespaces(|name| name != "pid")]), [Verdict::Good, Verdict::Bad]);
        assert_eq!(
            verdicts([judge_tun(Ok(true)), judge_tun(Ok(false)), judge_tun(Err("no device".into()))]),
            [Verdict::Good, Verdict::Care, Verdict::Bad]
        );
    }

    #[test]
    fn what_only_makes_it_slower_or_looser_asks_for_care() {
        use Verdict::{Care, Good};
        assert_eq!(verdicts(["flags : fpu aes vaes", "Features : fp aes", "flags : fpu"].map(processor)), [Good, Good, Care]);
        assert_eq!(verdicts([ring(Ok(true)), ring(Ok(false)), ring(Err(refused()))]), [Good, Care, Care]);
        assert_eq!(verdicts([landlock(Ok(7)), landlock(Ok(4)), landlock(Err(refused()))]), [Good, Care, Care]);
        assert_eq!(
            verdicts([judge_buffers(true, "1"), judge_buffers(false, "8388608"), judge_buffers(false, "212992")]),
            [Good, Good, Care]
        );
        let limited = || Ok(Some(8 << 20));
        assert_eq!(
            verdicts([locked_memory(Ok(None), 0), locked_memory(limited(), SYS_RESOURCE), locked_memory(limited(), 0)]),
            [Good, Good, Care]
        );
        let meminfo = "MemTotal: 900000 kB\nMemAvailable:   65536 kB\n";
        assert_eq!(verdicts([memory(meminfo, 2), memory(meminfo, 3)]), [Good, Care]);
        assert_eq!(verdicts([autogroup("0"), autogroup(""), autogroup("1"), clock(true), clock(false)]), [Good, Good, Care, Good, Care]);
    }

    #[test]
    fn every_check_is_made_here_and_says_what_it_found() {
        let checks = all();
        assert_eq!(checks.len(), 14);
        assert!(checks.iter().all(|check| !check.found.is_empty()), "{checks:?}");
    }
}
