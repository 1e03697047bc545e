//! One worker a core: a pinned thread that owns a path, its buffers, a TUN queue and UDP sockets, and does nothing but move
//! packets between them. What differs between a ring and plain system calls stands in [`crate::ring`] and [`crate::plain`]; what
//! both do in a round stands here.

pub mod core;
pub mod desk;
pub mod pace;
mod reporter;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use penstock_uapi::Role;

use crate::handoff::mail::Mailroom;
use crate::path::Config;
use crate::sys::process;
use crate::sys::uring::File;
use crate::{plain, ring, sandbox};
use desk::Desk;

/// Which members of the reuseport group a core reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// [`Role::Shared4`] and [`Role::Shared6`].
    First,
    /// [`Role::Second4`] and [`Role::Second6`].
    Second,
}

impl Set {
    /// As numbered in [`penstock_uapi::request::Start::set`].
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::First, Self::Second].get(usize::from(number)).copied()
    }

    /// The part that a descriptor plays for a worker: the set in use is its shared one. `None` if it is only kept open.
    fn part(self, role: Role) -> Option<Role> {
        match (self, role) {
            (_, Role::Ike4 | Role::Ike6 | Role::Listen)
            | (Self::First, Role::Second4 | Role::Second6)
            | (Self::Second, Role::Shared4 | Role::Shared6) => None,
            (Self::Second, Role::Second4) => Some(Role::Shared4),
            (Self::Second, Role::Second6) => Some(Role::Shared6),
            (_, role) => Some(role),
        }
    }
}

/// A core's descriptors. The admin thread keeps its own, to hand them back.
#[derive(Debug)]
pub struct Files {
    by_role: Vec<(Role, OwnedFd)>,
}

impl Files {
    /// Duplicates of the descriptors attached for one core; of those that are only kept open (control's own sockets, and the set that is
    /// not `set`) there are none.
    ///
    /// # Errors
    /// If there are no more descriptors.
    pub fn duplicate(attached: &[(Role, OwnedFd)], set: Set) -> std::io::Result<Self> {
        let used = attached.iter().filter_map(|(role, fd)| Some((set.part(*role)?, fd)));
        let by_role = used.map(|(role, fd)| Ok((role, fd.try_clone()?))).collect::<std::io::Result<_>>()?;
        Ok(Self { by_role })
    }

    /// The descriptor that a worker knows as `file`; the bell is not among them.
    #[must_use]
    pub fn get(&self, file: File) -> Option<BorrowedFd<'_>> {
        let role = match file {
            File::Own4 => Role::Own4,
            File::Own6 => Role::Own6,
            File::Shared4 => Role::Shared4,
            File::Shared6 => Role::Shared6,
            File::Tun => Role::Tun,
            File::Bell => return None,
        };
        self.by_role.iter().find(|(is, _)| *is == role).map(|(_, fd)| fd.as_fd())
    }
}

/// Everything that a worker is made from.
#[derive(Debug)]
pub struct Plan {
    /// For the path.
    pub path: Config,
    /// The CPU to run on.
    pub cpu: u16,
    /// Descriptors.
    pub files: Files,
    /// Queues to and from the admin thread.
    pub desk: Arc<Desk>,
    /// Lines to the other cores.
    pub mail: Mailroom,
    /// When the engine's milliseconds began.
    pub epoch: Instant,
    /// Use a ring.
    pub ring: bool,
    /// Use `IORING_OP_READ_MULTISHOT`.
    pub read_multishot: bool,
    /// Sleep through packets that come one by one and often.
    pub gather: bool,
    /// Use `UDP_SEGMENT`.
    pub gso: bool,
    /// How long to poll before sleeping.
    pub poll: Duration,
    /// Drop what waits in the TUN queue already.
    pub drop_stale: bool,
    /// Read the TUN queue from the start.
    pub reads_tun: bool,
    /// Lay the stricter system call filter over the thread before packets move.
    pub sandbox: bool,
}

/// What a worker says once, when it is ready.
#[derive(Debug)]
pub struct Ready {
    /// Which core.
    pub core: u16,
    /// Whether it uses a ring.
    pub ring: bool,
    /// What did not go as asked, for the log.
    pub notes: Vec<String>,
}

/// Starts a worker's thread. It never ends.
///
/// # Errors
/// If no thread can be made.
pub fn spawn(plan: Plan, ready: Sender<Result<Ready, String>>) -> std::io::Result<()> {
    let name = format!("core-{}", plan.path.core);
    std::thread::Builder::new().name(name).spawn(move || run(plan, &ready)).map(drop)
}

fn run(plan: Plan, ready: &Sender<Result<Ready, String>>) {
    let mut notes = Vec::new();
    pin(&plan, &mut notes);
    let (core, strict) = (plan.path.core, plan.sandbox);
    let ring = match plan.ring.then(|| ring::open(&plan)) {
        Some(Ok(uring)) => Some(uring),
        Some(Err(error)) => {
            notes.push(format!("core {core}: no ring ({error}): plain system calls"));
            None
        }
        None => None,
    };
    let is_ring = ring.is_some();
    let parts = core::Core::new(plan);
    if strict && let Err(error) = sandbox::tighten() {
        let _ = ready.send(Err(format!("core {core}: system calls cannot be restricted: {error}")));
        return;
    }
    let _ = ready.send(Ok(Ready { core, ring: is_ring, notes }));
    match ring {
        Some(uring) => ring::Shell::new(uring, parts).run(),
        None => plain::Shell::new(parts).run(),
    }
}

/// Pins the thread. A container's CPU mask may not hold the CPU: then packets move all the same, and the log says so.
fn pin(plan: &Plan, notes: &mut Vec<String>) {
    let (core, cpu) = (plan.path.core, usize::from(plan.cpu));
    // `set_for_current` would leave the mask that we were given, so it is looked at first.
    if !process::may_run_on(cpu) {
        notes.push(format!("core {core}: CPU {cpu} is not allowed here: not pinned"));
        return;
    }
    if !core_affinity::set_for_current(core_affinity::CoreId { id: cpu }) || !process::is_pinned_to(cpu) {
        notes.push(format!("core {core}: cannot be pinned to CPU {cpu}"));
    }
}
