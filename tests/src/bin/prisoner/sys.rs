//! The system calls of the prisoner, by number and with raw arguments: an intruder writes no others.
#![allow(unsafe_code, reason = "an intruder's calls are made as an intruder would make them")]

use std::io;

use io_uring::IoUring;
use io_uring::squeue::Entry;

/// Makes a system call. What it does to this process is the point of it.
pub(crate) fn call<const N: usize>(number: i64, arguments: [usize; N]) -> io::Result<usize> {
    let mut all = [0; 6];
    all.iter_mut().zip(arguments).for_each(|(place, argument)| *place = argument);
    let [a, b, c, d, e, f] = all;
    // SAFETY: addresses among the arguments are those of the caller's live buffers, large enough for the call; and the calls
    // that change what this process may do are made by a process that does nothing else.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Does something in a child, so that this process stays as it is when it succeeds.
pub(crate) fn in_a_child(action: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    // SAFETY: this process has one thread, so the child may do all that the parent could.
    let child = unsafe { libc::fork() };
    match child {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let errno = action().err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO));
            // SAFETY: it ends the child and returns to nobody.
            unsafe { libc::_exit(errno) }
        }
        child => {
            let mut status = 0;
            // SAFETY: the pointer is to a live int.
            let result = unsafe { libc::waitpid(child, &raw mut status, 0) };
            if result < 0 {
                return Err(io::Error::last_os_error());
            }
            match (libc::WIFEXITED(status), libc::WEXITSTATUS(status)) {
                (true, 0) => Ok(()),
                (true, errno) => Err(io::Error::from_raw_os_error(errno)),
                (false, _) => Err(io::Error::from_raw_os_error(libc::EIO)),
            }
        }
    }
}

/// Puts one request into a ring and gives what came of it.
pub(crate) fn through(ring: &mut IoUring, entry: &Entry) -> io::Result<()> {
    // SAFETY: whatever an entry of these tests points to is static or outlives the wait below.
    unsafe { ring.submission().push(entry) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let result = ring.completion().next().map_or(-libc::EIO, |completion| completion.result());
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}
