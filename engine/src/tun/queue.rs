//! A core's queue of the TUN device, as far as it is not plain reading and writing: what a descriptor must be, and how packets that
//! have waited too long are thrown away.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::time::Duration;

use super::split::Split;
use super::vnet;
use crate::limits;
use crate::packet::ip::Ip;
use crate::sys::uring;
use crate::sys::wait::{Interest, poll, read_now};
use crate::worker::core::Core;

/// The device number of /dev/net/tun (linux/miscdevice.h: TUN_MINOR).
const TUN_DEVICE: (u32, u32) = (10, 200);

/// Whether a descriptor is an open /dev/net/tun. That it is attached to an interface shows only when it is read.
#[must_use]
pub fn is_tun(fd: &OwnedFd) -> bool {
    let metadata = fd.try_clone().and_then(|fd| File::from(fd).metadata());
    metadata.is_ok_and(|metadata| {
        let device = metadata.rdev();
        metadata.file_type().is_char_device() && (libc::major(device), libc::minor(device)) == TUN_DEVICE
    })
}

/// Reads without waiting. Where the kernel knows no non-blocking read of a TUN queue, poll says first whether there is anything;
/// nobody else reads this queue, so it is still there then.
///
/// # Errors
/// As read(2).
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    match read_now(fd, buffer) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
        result => return result,
    }
    let mut interests = [Interest::read(fd)];
    poll(&mut interests, Some(Duration::ZERO))?;
    if !interests[0].readable() {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    crate::sys::wait::read(fd, buffer)
}

/// Drops and counts what waits in the core's queue now, if that was ordered: packets from before an outage are of no use to
/// anybody, and their senders have long sent them again.
pub fn drop_stale(core: &mut Core) {
    if !core.drop_stale {
        return;
    }
    let mut buffer = vec![0; limits::BUFFER_BYTES];
    for _ in 0..limits::STALE_READS_MAX {
        let Some(fd) = core.files.get(uring::File::Tun) else { return };
        let Ok(length) = read(fd.as_fd(), &mut buffer) else { return };
        let (packets, bytes) = contents(buffer.get_mut(..length).unwrap_or_default(), core.vnet_header_bytes).unwrap_or((1, 0));
        core.drop_as_stale(packets, bytes);
    }
}

/// How many packets a read stands for, and their inner bytes as read.
fn contents(read: &mut [u8], vnet_header_bytes: usize) -> Option<(u64, u64)> {
    let (header, packet) = read.split_at_mut_checked(vnet_header_bytes)?;
    let header = vnet::Header::parse(header)?;
    let ip = Ip::parse(packet)?;
    let packets = Split::new(&header, packet, &ip).ok()?.count();
    Some((packets.into(), ip.total as u64))
}
