//! What this kernel can do, found out by trying.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::check;

/// `struct io_uring_params` of linux/io_uring.h, of which only the flags matter here.
#[repr(C)]
struct RingParameters {
    entries: [u32; 2],
    flags: u32,
    rest: [u32; 27],
}

/// SUBMIT_ALL, COOP_TASKRUN, SINGLE_ISSUER, DEFER_TASKRUN and R_DISABLED: how a worker makes its ring.
const RING_FLAGS: u32 = 1 << 7 | 1 << 8 | 1 << 12 | 1 << 13 | 1 << 6;

const REGISTER_PROBE: libc::c_long = 8;
const READ_MULTISHOT: usize = 49;
const OPERATIONS: usize = 64;

/// `struct io_uring_probe` with its operations: number, flags.
#[repr(C)]
struct Operations {
    last: u8,
    count: u8,
    reserved: [u16; 7],
    all: [[u8; 8]; OPERATIONS],
}

/// Makes a ring as a worker would; says whether it knows READ_MULTISHOT (Linux 6.7).
pub(crate) fn ring() -> io::Result<bool> {
    let mut parameters = RingParameters { entries: [0; 2], flags: RING_FLAGS, rest: [0; 27] };
    // SAFETY: the pointer is to a live structure of the kernel's size, 120 bytes.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 8, &raw mut parameters) };
    let fd = check(fd as libc::c_int)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows its number.
    let ring = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut operations = Operations { last: 0, count: 0, reserved: [0; 7], all: [[0; 8]; OPERATIONS] };
    // SAFETY: the pointer is to a live structure with room for as many operations as are named.
    let result = unsafe { libc::syscall(libc::SYS_io_uring_register, ring.as_raw_fd(), REGISTER_PROBE, &raw mut operations, OPERATIONS) };
    check(result as libc::c_int)?;
    Ok(operations.all.get(READ_MULTISHOT).is_some_and(|operation| operation[2] & 1 != 0))
}

/// The kernel's Landlock ABI.
pub(crate) fn landlock_abi() -> io::Result<u32> {
    const VERSION: libc::c_long = 1;
    // SAFETY: with this flag no memory is looked at.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, VERSION) };
    u32::try_from(abi).map_err(|_| io::Error::last_os_error())
}

/// Whether somebody keeps this machine's clock right.
pub(crate) fn is_clock_synchronised() -> bool {
    // SAFETY: all zeros is a valid `struct timex`, which asks for nothing to be changed.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live structure.
    let result = unsafe { libc::adjtimex(&raw mut state) };
    result >= 0 && result != libc::TIME_ERROR
}

/// How many bytes a process without rights may lock in memory; `None`: any.
pub(crate) fn locked_memory_limit() -> io::Result<Option<u64>> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live structure.
    check(unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) })?;
    Ok((limit.rlim_max != libc::RLIM_INFINITY).then_some(limit.rlim_max))
}

/// Takes this thread to a network namespace of its own, which goes when the thread ends.
pub(crate) fn leave_network() -> io::Result<()> {
    // SAFETY: a number only; the other threads stay where they are.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map(drop)
}
