//! What a process can give up: rights, places, dumps. All of it is called before the first worker runs.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

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
    limit(libc::RLIMIT_CORE, 0)
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

/// Asks the scheduler for short turns instead of its usual ones of milliseconds for the calling thread, and for those that it will make:
/// whoever wakes up for a short one takes the core from whoever is in a long one (sched_attr::sched_runtime of a normal task, Linux
/// 6.12; without effect before). The nice value stays.
///
/// # Errors
/// As sched_setattr(2).
pub fn come_soon(slice: Duration) -> io::Result<()> {
    let slice = u64::try_from(slice.as_nanos()).unwrap_or(u64::MAX);
    // SAFETY: `attributes` is what the call fills, and its size is passed.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::sched_attr>();
    // SAFETY: a structure of that size, for the calling thread.
    outcome(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) })?;
    attributes.sched_runtime = slice;
    // SAFETY: as above; the kernel only reads it.
    outcome(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) }).map(drop)
}

/// Timers of the calling thread, and of those that it will make, go off as soon as they can (PR_SET_TIMERSLACK); without this up to 50 us later, so that several
/// share an interrupt.
///
/// # Errors
/// As prctl(2).
pub fn be_punctual() -> io::Result<()> {
    control(libc::PR_SET_TIMERSLACK, 1)
}

/// Closes what a careless parent left open, but for the standard streams and `keep`. To be called first of all, before this process
/// opens anything of its own.
///
/// # Errors
/// As close_range(2) (Linux 5.9).
pub fn close_inherited(keep: Option<RawFd>) -> io::Result<()> {
    let close = |first: u32, last: u32| {
        // SAFETY: the caller calls this before anything was opened, so nobody owns these numbers.
        outcome(if first > last { 0 } else { unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } }).map(drop)
    };
    match keep.and_then(|fd| u32::try_from(fd).ok()).filter(|fd| *fd > 2) {
        Some(keep) => {
            close(3, keep - 1)?;
            close(keep.saturating_add(1), u32::MAX)
        }
        None => close(3, u32::MAX),
    }
}

/// Leaves the network, the mounts, the names, the message queues and the control groups of the system behind. The processes
/// are left behind by whoever starts this one: a process cannot change its own process namespace.
///
/// # Errors
/// As unshare(2), which needs CAP_SYS_ADMIN.
pub fn unshare() -> io::Result<()> {
    let all = libc::CLONE_NEWNET | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;
    // SAFETY: no pointers; threads are not affected because there is only one yet.
    outcome(unsafe { libc::unshare(all) }).map(drop)
}

/// Whether this process is the first of a process namespace of its own: it sees, and can signal, no other.
#[must_use]
pub fn is_alone() -> bool {
    std::process::id() == 1
}

fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: libc::c_ulong, options: &CStr) -> io::Result<()> {
    // SAFETY: all four strings end in a zero byte and outlive the call.
    let result = unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast()) };
    outcome(result).map(drop)
}

/// Makes an empty read-only file system the root of this process, mounted over `directory`, and takes every other one out of its
/// mount namespace. Gives `false` where the system runs from an initial RAM file system, which cannot be exchanged
/// (pivot_root(2)): then the old one is only out of reach, not gone. [`unshare`] comes first.
///
/// # Errors
/// As mount(2), pivot_root(2) and chroot(2).
pub fn empty_root(directory: &Path) -> io::Result<bool> {
    // Nothing that is done here is to be seen outside.
    mount(c"none", c"/", c"none", libc::MS_REC | libc::MS_PRIVATE, c"")?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC | libc::MS_RDONLY;
    let target = CString::new(directory.as_os_str().as_bytes())?;
    mount(c"none", &target, c"tmpfs", flags, c"size=4k,mode=0")?;
    std::env::set_current_dir(directory)?;
    // SAFETY: both strings end in a zero byte and outlive the call.
    let pivoted = outcome(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) });
    let exchanged = match pivoted {
        Ok(_) => {
            // The old root now lies over the new one: this takes it off.
            // SAFETY: the string ends in a zero byte and outlives the call.
            outcome(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) })?;
            true
        }
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            std::os::unix::fs::chroot(".")?;
            false
        }
        Err(error) => return Err(error),
    };
    std::env::set_current_dir("/")?;
    Ok(exchanged)
}

fn limit(resource: libc::__rlimit_resource_t, value: libc::rlim_t) -> io::Result<()> {
    let both = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: the pointer leads to a live structure that is only read.
    outcome(unsafe { libc::setrlimit(resource, &raw const both) }).map(drop)
}

/// Allows this process `count` descriptors, or as many as it may have if that is less, and never more again.
///
/// # Errors
/// As setrlimit(2).
pub fn limit_descriptors(count: u64) -> io::Result<()> {
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer leads to a live structure that the kernel fills.
    outcome(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut now) })?;
    limit(libc::RLIMIT_NOFILE, now.rlim_max.min(count))
}

/// Keeps all memory of this process, now and later, out of swap: keys lie in it. Pages are locked when they are touched, so none
/// is used that would not be used anyway.
///
/// # Errors
/// As setrlimit(2) and mlockall(2): it takes CAP_SYS_RESOURCE or an unlimited RLIMIT_MEMLOCK. A limit that is reached later
/// would make allocations fail.
pub fn lock_memory() -> io::Result<()> {
    limit(libc::RLIMIT_MEMLOCK, libc::RLIM_INFINITY)?;
    // SAFETY: numbers only.
    outcome(unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) }).map(drop)
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
