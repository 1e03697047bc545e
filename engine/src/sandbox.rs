//! What the engine gives up, and when. It holds keys and reads what strangers send, so it keeps nothing that it does not need.
//!
//! ```text
//!   main:   own namespaces ─ empty root ─ other user ─ no capability ─ no dumps ─ [filter: set-up and run]
//!   worker: its ring made, restricted, enabled ───────────────────────────────── [filter: run]
//!   admin:  all workers ready ────────────────────────────────────────────────── [filter: run]
//! ```
//! Rings can only be made once control has handed over descriptors, long after the process has given up everything else. So there
//! are two filters: the first allows what setting up takes (threads, rings, affinity) but already no file, socket, exec or ioctl;
//! the second takes away the making of rings and threads. Filters only ever add up.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::chroot;
use std::path::Path;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, SeccompRule, TargetArch, apply_filter};

use crate::sys::process;

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

/// Gives everything up that is not needed for setting up. With a jail, the process must be root still.
///
/// # Errors
/// If any step fails: a process that is only half locked in does not go on.
pub fn enter(jail: &Jail<'_>) -> Result<(), SandboxError> {
    if let Some(directory) = jail.directory {
        step("leave the system's namespaces", process::unshare())?;
        step("enter the jail", chroot(directory))?;
        step("enter the jail", std::env::set_current_dir("/"))?;
    }
    if let Some(user) = jail.user {
        // The bounding set can only be emptied while the right to do so is there.
        step("drop capabilities", process::empty_bounding_set())?;
        step("become another user", process::become_user(user))?;
    }
    step("drop capabilities", process::drop_capabilities())?;
    step("forbid new privileges", process::forbid_new_privileges())?;
    step("forbid dumps", process::forbid_dumps())?;
    restrict(RUN.iter().chain(SET_UP))
}

/// Takes the making of threads and rings away from the calling thread.
///
/// # Errors
/// If the filter is refused.
pub fn tighten() -> Result<(), SandboxError> {
    restrict(RUN.iter())
}

/// What moving packets and answering control takes.
const RUN: &[i64] = &[
    libc::SYS_io_uring_enter,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_preadv2,
    libc::SYS_ppoll,
    // Clients: they are accepted, their user is asked for, their descriptors are duplicated and closed.
    libc::SYS_accept4,
    libc::SYS_getsockopt,
    libc::SYS_fcntl,
    libc::SYS_close,
    libc::SYS_statx,
    // Memory, locks and time of the standard library; closing of a thread's stack.
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // The end by a panic, which is an abort.
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_tgkill,
];

/// What setting up takes besides.
const SET_UP: &[i64] = &[
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_register,
    libc::SYS_clone3,
    libc::SYS_clone,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_mprotect,
    libc::SYS_prctl,
    libc::SYS_seccomp,
    libc::SYS_eventfd2,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
];

fn restrict<'a>(calls: impl Iterator<Item = &'a i64>) -> Result<(), SandboxError> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH).map_err(|_| SandboxError::Processor)?;
    let rules: BTreeMap<i64, Vec<SeccompRule>> = calls.map(|call| (*call, Vec::new())).collect();
    // A refused call says EPERM; whoever then goes on without it has gained nothing.
    let refusal = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, refusal, SeccompAction::Allow, architecture)?;
    let program = BpfProgram::try_from(filter)?;
    apply_filter(&program)?;
    Ok(())
}
