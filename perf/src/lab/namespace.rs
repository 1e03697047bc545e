//! A network namespace: a host of its own as far as devices, addresses, routes and ports go.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

use super::cleanup::{self, Thing};
use super::process;
use crate::sys;

/// A network namespace named `pen-<pid>-<number>-<label>`; gone when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    file: File,
}

impl Drop for Inner {
    fn drop(&mut self) {
        cleanup::remove(&Thing::Namespace(self.name.clone()));
    }
}

/// What a device has counted, from `/proc/net/dev`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceCounters {
    /// Bytes received; on a TUN device, written by the engine.
    pub rx_bytes: u64,
    /// Packets received, a super-packet counted once.
    pub rx_packets: u64,
    /// Received but malformed.
    pub rx_errors: u64,
    /// Received but thrown away.
    pub rx_dropped: u64,
    /// Bytes sent; on a TUN device, read by the engine.
    pub tx_bytes: u64,
    /// Packets sent, a super-packet counted once.
    pub tx_packets: u64,
    /// Could not be sent.
    pub tx_errors: u64,
    /// Thrown away because the queue was full: on a TUN device, the engine did not read fast enough.
    pub tx_dropped: u64,
}

/// The `ip` program; root's PATH may lack the folder it lives in.
pub(super) fn ip_program() -> PathBuf {
    ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip", "/bin/ip"]
        .iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
        .unwrap_or_else(|| "ip".into())
}

/// Runs `ip` and returns what it printed.
///
/// # Errors
/// With what it said on stderr, if it failed.
pub(super) fn ip<I: AsRef<OsStr>>(arguments: impl IntoIterator<Item = I>) -> Result<String> {
    let mut command = Command::new(ip_program());
    command.args(arguments);
    let output = command.output().context("the program ip cannot be run (Debian package iproute2)")?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Namespace {
    /// A fresh namespace whose loopback is up. Its devices use IPv6 addresses at once, without asking whether they are taken.
    ///
    /// # Errors
    /// If this is not root, or `ip` is missing.
    pub fn new(label: &str) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("pen-{}-{}-{label}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        cleanup::note(Thing::Namespace(name.clone()))?;
        ip(["netns", "add", &name]).context("a network namespace cannot be made (this needs root)")?;
        let file = File::open(format!("/run/netns/{name}")).with_context(|| format!("/run/netns/{name}"))?;
        let namespace = Self(Arc::new(Inner { name, file }));
        namespace.ip("link set lo up")?;
        for which in ["all", "default"] {
            namespace.set_sysctl(&format!("net/ipv6/conf/{which}/accept_dad"), "0")?;
            namespace.set_sysctl(&format!("net/ipv6/conf/{which}/dad_transmits"), "0")?;
        }
        Ok(namespace)
    }

    /// The name that `ip netns` knows.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Runs `work` on a thread of its own that is inside. Sockets made there stay inside, whichever thread uses them later.
    ///
    /// # Errors
    /// If the namespace cannot be entered. A panic of `work` goes on here.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let inside = || -> Result<T> {
            sys::enter_network(&self.0.file).with_context(|| format!("namespace {} cannot be entered", self.name()))?;
            Ok(work())
        };
        std::thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A command that will run inside; its process id is the program's own.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(ip_program());
        command.args(["netns", "exec", self.name()]).arg(program);
        command
    }

    /// `ip` inside: `namespace.ip("link set wire0 down")`. Returns what it printed.
    ///
    /// # Errors
    /// With what it said on stderr, if it failed.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        ip(["-n", self.name()].into_iter().chain(arguments.split_ascii_whitespace()))
    }

    /// Writes one of the namespace's own sysctls, named by its path under `/proc/sys`.
    ///
    /// # Errors
    /// If there is no such sysctl or it refuses the value.
    pub fn set_sysctl(&self, path: &str, value: &str) -> Result<()> {
        self.enter(|| fs::write(format!("/proc/sys/{path}"), value))?.with_context(|| format!("sysctl {path} = {value}"))
    }

    /// The processes that run inside.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn processes(&self) -> Result<Vec<u32>> {
        Ok(ip(["netns", "pids", self.name()])?.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect())
    }

    /// Writes the processes that run inside into the journal, so that they are ended whatever becomes of this one.
    ///
    /// # Errors
    /// If `ip` fails or the journal cannot be written.
    pub fn note_processes(&self) -> Result<()> {
        self.processes()?.into_iter().filter_map(process::thing).try_for_each(cleanup::note)
    }

    /// Ends the processes that run inside, politely first.
    pub fn end_processes(&self) {
        let things: Vec<Thing> = self.processes().unwrap_or_default().into_iter().filter_map(process::thing).collect();
        cleanup::end(&things);
    }

    /// What the device has counted so far.
    ///
    /// # Errors
    /// If there is no such device.
    pub fn device_counters(&self, device: &str) -> Result<DeviceCounters> {
        // Not /proc/net: that is the namespace of the process, not of the thread.
        let text = self.enter(|| fs::read_to_string("/proc/thread-self/net/dev"))??;
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'));
        let line = line.with_context(|| format!("namespace {} has no device {device}", self.name()))?;
        let values: Vec<u64> = line.split_ascii_whitespace().filter_map(|value| value.parse().ok()).collect();
        let value = |index: usize| values.get(index).copied().unwrap_or_default();
        Ok(DeviceCounters {
            rx_bytes: value(0),
            rx_packets: value(1),
            rx_errors: value(2),
            rx_dropped: value(3),
            tx_bytes: value(8),
            tx_packets: value(9),
            tx_errors: value(10),
            tx_dropped: value(11),
        })
    }
}
