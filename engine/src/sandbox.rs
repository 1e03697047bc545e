//! What the engine gives up, and when. It holds keys and reads what strangers send, so it keeps nothing that it does not need.
//!
//! ```text
//!   launcher: own processes
//!   main:     own namespaces ─ empty root ─ memory locked ─ other user ─ no capability ─ no dumps ─ Landlock ─ [filter: set-up and run]
//!   worker:   its ring made, restricted, enabled ────────────────────────────────────────────────────────── [filter: run]
//!   admin:    all workers ready ─────────────────────────────────────────────────────────────────────────── [filter: run]
//! ```
//! Rings can only be made once control has handed over descriptors, long after the process has given up everything else. So there
//! are two filters: the first allows what setting up takes (threads, rings, affinity) but already no file, socket, exec or ioctl;
//! the second takes away the making of rings and threads. Filters only ever add up. A system call filter does not see what a ring
//! does: each ring is [restricted by itself](crate::sys::uring), and Landlock holds for rings too.
//!
//! What a kernel cannot do is not passed over: a step that fails ends the process, and of those that an older kernel does not know
//! [`enter`] tells which are in force. Control shows it.

use std::io;
use std::path::Path;

use penstock_uapi::reply::protection;

use crate::limits;
use crate::sys::process;

mod calls;
mod landlock;

/// Why the process could not be locked in.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A step failed.
    #[error("cannot {step}: {error}")]
    Step {
        /// What was tried.
        step: &'static str,
        /// The kernel's reason.
        error: io::Error,
    },
    /// The filter was refused.
    #[error("cannot restrict system calls: {0}")]
    Filter(#[from] seccompiler::Error),
    /// The filter could not be built.
    #[error("cannot build the system call filter: {0}")]
    Backend(#[from] seccompiler::BackendError),
    /// Landlock is there and refuses.
    #[error("cannot deny files by Landlock: {0}")]
    Landlock(#[from] ::landlock::RulesetError),
    /// Not a machine that the filter knows.
    #[error("no system call filter for this processor")]
    Processor,
}

fn step<T>(step: &'static str, result: io::Result<T>) -> Result<T, SandboxError> {
    result.map_err(|error| SandboxError::Step { step, error })
}

/// Where the process goes before it listens.
#[derive(Clone, Debug, Default)]
pub struct Jail<'a> {
    /// The user to become.
    pub user: Option<u32>,
    /// The empty directory that becomes its root.
    pub directory: Option<&'a Path>,
}

/// How tight a sandbox is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// [`protection`] bits that are in force.
    pub protections: u16,
    /// The kernel's Landlock ABI; 0: it has none.
    pub landlock: u8,
}

/// Gives everything up that is not needed for setting up: [`confine`] and the first filter. With a jail, the process must be root
/// still.
///
/// # Errors
/// If any step fails: a process that is only half locked in does not go on.
pub fn enter(jail: &Jail<'_>) -> Result<Level, SandboxError> {
    let mut level = confine(jail)?;
    calls::restrict_to_set_up()?;
    level.protections |= protection::CALLS;
    Ok(level)
}

/// Everything but the filters: what holds even for a system call that no filter refuses.
///
/// # Errors
/// If any step fails.
pub fn confine(jail: &Jail<'_>) -> Result<Level, SandboxError> {
    let mut protections = 0;
    let mut note = |bit, holds| protections |= if holds { bit } else { 0 };
    step("bound its descriptors", process::limit_descriptors(limits::DESCRIPTORS))?;
    // It takes a right that is given up below, or a limit that somebody has raised.
    note(protection::MEMORY, process::lock_memory().is_ok());
    if let Some(directory) = jail.directory {
        step("leave the system's namespaces", process::unshare())?;
        note(protection::NAMESPACES, true);
        note(protection::ROOT, step("make an empty root", process::empty_root(directory))?);
    }
    note(protection::PROCESSES, process::is_alone());
    if let Some(user) = jail.user {
        // The bounding set can only be emptied while the right to do so is there.
        step("drop capabilities", process::empty_bounding_set())?;
        step("become another user", process::become_user(user))?;
    }
    note(protection::USER, process::user() != 0);
    step("drop capabilities", process::drop_capabilities())?;
    step("forbid new privileges", process::forbid_new_privileges())?;
    step("forbid dumps", process::forbid_dumps())?;
    let (denied, landlock) = landlock::deny_everything()?;
    Ok(Level { protections: protections | denied, landlock })
}

/// Takes the making of threads and rings away from the calling thread.
///
/// # Errors
/// If the filter is refused.
pub fn tighten() -> Result<(), SandboxError> {
    calls::restrict_to_run()
}
