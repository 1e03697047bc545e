//! What a process can give up: rights, places, dumps. All of it is called before the first worker runs.
#![allow(unsafe_code)]

use std::io;

use super::outcome;

/// Our effective user.
#[must_use]
pub fn user() -> u32 {
    // SAFETY: the call has no arguments and cannot fail.
    unsafe { libc::geteuid() }
}

fn control(option: i32, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the options used here take numbers, no pointers.
    let result = unsafe { libc::prctl(option, value, 0, 0, 0) };
    outcome(result).map(drop)
}

/// No exec gives new rights, ever again; a system call filter needs this too.
///
/// # Errors
/// As prctl(2).
pub fn forbid_new_privileges() -> io::Result<()> {
    control(libc::PR_SET_NO_NEW_PRIVS, 1)
}

/// No core dump, no tracing by the same user, /proc files owned by root: keys live in this memory.
///
/// # Errors
/// As prctl(2) and setrlimit(2).
pub fn forbid_dumps() -> io::Result<()> {
    control(libc::PR_SET_DUMPABLE, 0)?;
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer leads to a live structure that is only read.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
    outcome(result).map(drop)
}

/// Asks the scheduler to prefer this process and the threads it will make to others on their cores: a nice value from
/// -20 (most) to 19.
///
/// # Errors
/// As setpriority(2); a negative value needs CAP_SYS_NICE.
pub fn prefer(nice: i32) -> io::Result<()> {
    // SAFETY: numbers only.
    outcome(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) }).map(drop)
}

/// Leaves the network, the mounts, the names and the message queues of the system behind.
///
/// # Errors
/// As unshare(2), which needs CAP_SYS_ADMIN.
pub fn unshare() -> io::Result<()> {
    // SAFETY: no pointers; threads are not affected because there is only one yet.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS) };
    outcome(result).map(drop)
}

/// Becomes another user and group for good, with no supplementary group.
///
/// # Errors
/// As setresuid(2), which needs CAP_SETUID and CAP_SETGID.
pub fn become_user(user: u32) -> io::Result<()> {
    // SAFETY: an empty list; the pointer is not followed.
    outcome(unsafe { libc::setgroups(0, std::ptr::null()) })?;
    // SAFETY: numbers only.
    outcome(unsafe { libc::setresgid(user, user, user) })?;
    // SAFETY: numbers only.
    outcome(unsafe { libc::setresuid(user, user, user) }).map(drop)
}

/// `struct __user_cap_header_struct` and data of linux/capability.h, version 3.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// No exec can bring a capability back. Needs CAP_SETPCAP.
///
/// # Errors
/// As prctl(2).
pub fn empty_bounding_set() -> io::Result<()> {
    for capability in 0..64 {
        match control(libc::PR_CAPBSET_DROP, capability) {
            // The kernel knows no more of them.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            other => other?,
        }
    }
    Ok(())
}

/// Gives up every capability.
///
/// # Errors
/// As capset(2).
pub fn drop_capabilities() -> io::Result<()> {
    control(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong)?;
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let data = [const { CapabilityData { effective: 0, permitted: 0, inheritable: 0 } }; 2];
    // SAFETY: header and both data structures have the layout of version 3, live on this stack and are only read.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    outcome(result).map(drop)
}

/// Whether this thread may run on `cpu` and nowhere else.
#[must_use]
pub fn is_pinned_to(cpu: usize) -> bool {
    affinity().is_some_and(|set| {
        // SAFETY: the set was filled by the kernel and is only read.
        let count = unsafe { libc::CPU_COUNT(&set) };
        count == 1 && has(&set, cpu)
    })
}

/// Whether this thread may run on `cpu`.
#[must_use]
pub fn may_run_on(cpu: usize) -> bool {
    affinity().is_some_and(|set| has(&set, cpu))
}

fn has(set: &libc::cpu_set_t, cpu: usize) -> bool {
    // SAFETY: the index is checked against the set's size first, and the set is only read.
    cpu < libc::CPU_SETSIZE as usize && unsafe { libc::CPU_ISSET(cpu, set) }
}

fn affinity() -> Option<libc::cpu_set_t> {
    // SAFETY: all-zero bytes are the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: pointer and size describe `set`; 0 is the calling thread.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    (result == 0).then_some(set)
}
