//! The system call filters: which calls, and with which arguments where a call does more than is needed. What is not named is
//! refused with EPERM; whoever goes on without it has gained nothing.

use std::collections::BTreeMap;

use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{BackendError, apply_filter};
use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch};

use super::SandboxError;

/// One argument of a call: its place, its width, and what must hold for it.
type Condition = (u8, SeccompCmpArgLen, SeccompCmpOp, u64);

/// A call, and the cases in which it is allowed: in each, all conditions hold. No case: always.
type Call = (i64, Vec<Vec<Condition>>);

/// An argument of type int or unsigned that has only bits of `bits`.
fn only(place: u8, bits: i32) -> Condition {
    (place, Dword, MaskedEq(u64::from(!bits as u32)), 0)
}

/// A case for each of `values` of an int argument.
fn one_of<const N: usize>(place: u8, values: [i32; N]) -> Vec<Vec<Condition>> {
    values.iter().map(|value| vec![(place, Dword, Eq, u64::from(*value as u32))]).collect()
}

/// What moving packets and answering control takes.
fn run() -> Vec<Call> {
    let mut calls = unconditional(&[
        libc::SYS_io_uring_enter,
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_preadv2,
        libc::SYS_ppoll,
        // Clients: they are accepted and closed.
        libc::SYS_accept4,
        libc::SYS_close,
        // Memory, locks and time of the standard library; closing of a thread's stack.
        libc::SYS_munmap,
        libc::SYS_brk,
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
    ]);
    let process = u64::from(std::process::id());
    calls.extend([
        (libc::SYS_recvmsg, vec![vec![only(2, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC)]]),
        (libc::SYS_sendmsg, vec![vec![only(2, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)]]),
        // A client's user is asked for, descriptors are looked at.
        (libc::SYS_getsockopt, socket_options()),
        // They are duplicated, and looked at before they are closed where the standard library checks itself.
        (libc::SYS_fcntl, one_of(1, [libc::F_DUPFD_CLOEXEC, libc::F_GETFD])),
        // Of a descriptor, not of a path.
        (libc::SYS_statx, vec![vec![(2, Dword, MaskedEq(libc::AT_EMPTY_PATH as u64), libc::AT_EMPTY_PATH as u64)]]),
        // Memory that nothing else backs, and that is never executed.
        (libc::SYS_mmap, vec![vec![only(2, libc::PROT_READ | libc::PROT_WRITE), (3, Dword, MaskedEq(MAP_ANONYMOUS), MAP_ANONYMOUS)]]),
        (libc::SYS_mremap, vec![vec![only(3, libc::MREMAP_MAYMOVE)]]),
        // aws-lc asks for a page that is wiped by a fork.
        (libc::SYS_madvise, one_of(2, [libc::MADV_DONTNEED, libc::MADV_FREE, libc::MADV_WIPEONFORK])),
        (libc::SYS_tgkill, vec![vec![(0, Dword, Eq, process), (2, Dword, Eq, libc::SIGABRT as u64)]]),
    ]);
    calls
}

const MAP_ANONYMOUS: u64 = libc::MAP_ANONYMOUS as u64;

fn socket_options() -> Vec<Vec<Condition>> {
    let names = [libc::SO_PEERCRED, libc::SO_DOMAIN, libc::SO_TYPE, libc::SO_PROTOCOL];
    names.iter().map(|name| vec![(1, Dword, Eq, libc::SOL_SOCKET as u64), (2, Dword, Eq, *name as u64)]).collect()
}

/// `IORING_REGISTER_*` of linux/io_uring.h, as far as a ring is set up with them.
const REGISTER: [i32; 4] = [2 /* files */, 11 /* restrictions */, 12 /* enable rings */, 22 /* a ring of buffers */];

/// What setting up takes besides.
fn set_up() -> Vec<Call> {
    let mut calls = unconditional(&[
        libc::SYS_io_uring_setup,
        libc::SYS_set_robust_list,
        libc::SYS_rseq,
        libc::SYS_seccomp,
        libc::SYS_eventfd2,
        libc::SYS_sched_getaffinity,
        libc::SYS_sched_setaffinity,
        // Its arguments lie in memory, where no filter sees them: refused by a filter of its own.
        libc::SYS_clone3,
    ]);
    // A thread of this process, and nothing with a namespace of its own.
    let thread = (libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD) as u64;
    let other = (NAMESPACES | libc::CLONE_PTRACE | libc::CLONE_VFORK) as u32;
    calls.extend([
        (libc::SYS_clone, vec![vec![(0, Qword, MaskedEq(thread | u64::from(other)), thread)]]),
        (libc::SYS_io_uring_register, one_of(1, REGISTER)),
        // The memory of a ring is its descriptor's.
        (libc::SYS_mmap, vec![vec![only(2, libc::PROT_READ | libc::PROT_WRITE)]]),
        (libc::SYS_mprotect, vec![vec![only(2, libc::PROT_READ | libc::PROT_WRITE)]]),
        (libc::SYS_prctl, one_of(0, [libc::PR_SET_NAME, libc::PR_SET_NO_NEW_PRIVS])),
    ]);
    calls
}

const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWCGROUP;

fn unconditional(calls: &[i64]) -> Vec<Call> {
    calls.iter().map(|call| (*call, Vec::new())).collect()
}

/// Lays the first filter over this thread and those it will make.
pub(super) fn restrict_to_set_up() -> Result<(), SandboxError> {
    // What both lists have is allowed in the cases of both.
    let mut calls: BTreeMap<i64, Vec<Vec<Condition>>> = BTreeMap::new();
    for (call, cases) in run().into_iter().chain(set_up()) {
        calls.entry(call).or_default().extend(cases);
    }
    restrict(calls)?;
    // The C library then makes threads with clone, whose arguments can be seen.
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    install(clone3, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))
}

/// Lays the second filter over this thread.
pub(super) fn restrict_to_run() -> Result<(), SandboxError> {
    restrict(run().into_iter().collect())
}

fn restrict(calls: BTreeMap<i64, Vec<Vec<Condition>>>) -> Result<(), SandboxError> {
    install(calls, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)
}

fn install(calls: BTreeMap<i64, Vec<Vec<Condition>>>, otherwise: SeccompAction, named: SeccompAction) -> Result<(), SandboxError> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH).map_err(|_| SandboxError::Processor)?;
    let rules = calls.into_iter().map(|(call, cases)| Ok((call, cases.into_iter().map(rule).collect::<Result<_, _>>()?)));
    let rules = rules.collect::<Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError>>()?;
    let filter = SeccompFilter::new(rules, otherwise, named, architecture)?;
    let program = BpfProgram::try_from(filter)?;
    apply_filter(&program)?;
    Ok(())
}

fn rule(conditions: Vec<Condition>) -> Result<SeccompRule, BackendError> {
    let conditions = conditions.into_iter().map(|(place, length, operator, value)| SeccompCondition::new(place, length, operator, value));
    SeccompRule::new(conditions.collect::<Result<_, _>>()?)
}
