//! Waiting for descriptors, and the bell: an eventfd that one thread rings and another sleeps on.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::outcome;

/// An eventfd. Ringing it again before it was heard does nothing more.
#[derive(Debug)]
pub struct Bell(File);

impl Bell {
    /// Makes one.
    ///
    /// # Errors
    /// If the process may have no more descriptors.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        outcome(fd)?;
        // SAFETY: the call above just made this descriptor, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self(fd.into()))
    }

    /// Wakes the one who listens.
    pub fn ring(&self) {
        // It can only fail where the counter would overflow: then it rings already.
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }

    /// Stops the ringing.
    pub fn hear(&self) {
        let _ = (&self.0).read(&mut [0; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What to wait for, and what came of it.
#[derive(Debug)]
#[repr(transparent)]
pub struct Interest<'fd> {
    poll: libc::pollfd,
    _borrowed: std::marker::PhantomData<BorrowedFd<'fd>>,
}

impl<'fd> Interest<'fd> {
    /// Waits until `fd` can be read.
    #[must_use]
    pub fn read(fd: BorrowedFd<'fd>) -> Self {
        Self::new(fd, libc::POLLIN)
    }

    /// Waits until `fd` can be read, if `read`, or written, if `write`.
    #[must_use]
    pub fn these(fd: BorrowedFd<'fd>, read: bool, write: bool) -> Self {
        Self::new(fd, if read { libc::POLLIN } else { 0 } | if write { libc::POLLOUT } else { 0 })
    }

    /// Waits for nothing; holds a place in an array.
    #[must_use]
    pub fn nothing() -> Self {
        Self { poll: libc::pollfd { fd: -1, events: 0, revents: 0 }, _borrowed: std::marker::PhantomData }
    }

    fn new(fd: BorrowedFd<'fd>, events: i16) -> Self {
        use std::os::fd::AsRawFd;
        Self { poll: libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 }, _borrowed: std::marker::PhantomData }
    }

    /// Whether there is something to read, an error or the end included.
    #[must_use]
    pub fn readable(&self) -> bool {
        self.poll.revents & !libc::POLLOUT != 0
    }

    /// Whether it can be written.
    #[must_use]
    pub fn writable(&self) -> bool {
        self.poll.revents & (libc::POLLOUT | libc::POLLERR | libc::POLLHUP) != 0
    }
}

/// Waits until one of `interests` is met; `None` waits for ever. A signal ends the wait early.
///
/// # Errors
/// As poll(2), but for `EINTR`.
pub fn poll(interests: &mut [Interest<'_>], timeout: Option<Duration>) -> io::Result<usize> {
    let count = interests.len() as libc::nfds_t;
    let timespec = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let timespec = timespec.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `Interest` is transparent over `pollfd`, so the pointer leads to `count` of them; `timespec` is null or lives on
    // this stack; the signal mask is none.
    let result = unsafe { libc::ppoll(interests.as_mut_ptr().cast(), count, timespec, std::ptr::null()) };
    match outcome(result) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        other => other,
    }
}

/// Reads what is there without waiting, whatever the descriptor's own flags say (`RWF_NOWAIT`).
///
/// # Errors
/// `WouldBlock` if there is nothing; `Unsupported` if the file knows no such flag (a TUN queue before Linux 6.4).
pub fn read_now(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    use std::os::fd::AsRawFd;
    let vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: `vector` describes `buffer`, which is ours alone for the length of the call.
    let result = unsafe { libc::preadv2(fd.as_raw_fd(), &raw const vector, 1, -1, libc::RWF_NOWAIT) };
    outcome(result as i64).map_err(|error| match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => io::ErrorKind::Unsupported.into(),
        _ => error,
    })
}

/// Reads, and waits if there is nothing.
///
/// # Errors
/// As read(2).
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    use std::os::fd::AsRawFd;
    // SAFETY: pointer and length describe `buffer`, which is ours alone for the length of the call.
    let result = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    outcome(result as i64)
}

/// Writes, and waits if there is no room.
///
/// # Errors
/// As write(2).
pub fn write(fd: BorrowedFd<'_>, buffer: &[u8]) -> io::Result<usize> {
    use std::os::fd::AsRawFd;
    // SAFETY: pointer and length describe `buffer`, which is only read.
    let result = unsafe { libc::write(fd.as_raw_fd(), buffer.as_ptr().cast(), buffer.len()) };
    outcome(result as i64)
}
