//! The only place of this crate, beside the queue between cores, where `unsafe` is allowed: system calls that no library wraps
//! safely, the memory that a ring shares with the kernel, and code for CPUs that have more than the compiler may assume. Each
//! module's face is safe to use from anywhere.

pub mod process;
pub mod socket;
pub mod uring;
pub mod vectors;
pub mod wait;

/// The outcome of a system call that gives -1 for an error.
fn outcome(result: impl Into<i64>) -> std::io::Result<usize> {
    let result: i64 = result.into();
    usize::try_from(result).map_err(|_| std::io::Error::last_os_error())
}
