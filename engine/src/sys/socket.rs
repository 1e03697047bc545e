//! recvmsg and sendmsg: frames with descriptors beside them, and datagrams with control messages.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::outcome;

/// The most descriptors that one frame may bring; more are closed by the kernel and the frame counts as truncated.
pub const DESCRIPTORS_MAX: usize = 16;

const HEADER_BYTES: usize = 16;
const RIGHTS_BYTES: usize = HEADER_BYTES + DESCRIPTORS_MAX * size_of::<RawFd>();

/// A control buffer, aligned as `cmsghdr` must be.
#[repr(C, align(8))]
struct Rights([u8; RIGHTS_BYTES]);

/// What a receive brought.
#[derive(Clone, Copy, Debug, Default)]
pub struct Received {
    /// Bytes of payload.
    pub length: usize,
    /// Bytes of the sender's address.
    pub name_length: usize,
    /// Bytes of control messages.
    pub control_length: usize,
    /// Payload was cut (`MSG_TRUNC`).
    pub truncated: bool,
    /// Control messages were cut (`MSG_CTRUNC`).
    pub control_truncated: bool,
}

/// A bound `SOCK_SEQPACKET` socket that the parent left open under this number, listening or not. Call it first of all, before this process
/// opens anything of its own.
///
/// # Errors
/// `InvalidInput` if the number is one of the standard streams or something else, `EBADF` if it is not open.
pub fn inherited_socket(fd: RawFd) -> io::Result<OwnedFd> {
    if fd <= 2 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the caller calls this before anything was opened, so nobody else owns the number; one that is not open fails the
    // checks below.
    let socket = socket2::Socket::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let fits = socket.r#type()? == socket2::Type::SEQPACKET && socket.domain()? == socket2::Domain::UNIX;
    if fits { Ok(socket.into()) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// The user at the other end of a Unix socket when it connected (`SO_PEERCRED`).
///
/// # Errors
/// As getsockopt(2).
pub fn peer_user(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut credentials = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    let pointer = (&raw mut credentials).cast();
    // SAFETY: pointer and length describe `credentials`, which outlives the call.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, pointer, &raw mut length) };
    outcome(result).map(|_| credentials.uid)
}

fn empty_header() -> libc::msghdr {
    // SAFETY: all-zero bytes are a valid `msghdr`: null pointers and zero lengths.
    unsafe { std::mem::zeroed() }
}

/// Receives one frame and the descriptors beside it, without waiting. All descriptors are closed on exec.
///
/// # Errors
/// As recvmsg(2); `WouldBlock` if there is none.
pub fn receive_frame(socket: BorrowedFd<'_>, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<Received> {
    let mut rights = Rights([0; RIGHTS_BYTES]);
    let received = receive(socket, buffer, &mut [], &mut rights.0, libc::MSG_CMSG_CLOEXEC)?;
    let mut control = rights.0.get(..received.control_length).unwrap_or_default();
    while let Some((header, _)) = control.split_first_chunk::<HEADER_BYTES>() {
        let [l0, l1, l2, l3, l4, l5, l6, l7, v0, v1, v2, v3, n0, n1, n2, n3] = *header;
        let length = usize::from_ne_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
        let Some(data) = control.get(HEADER_BYTES..length) else { break };
        if i32::from_ne_bytes([v0, v1, v2, v3]) == libc::SOL_SOCKET && i32::from_ne_bytes([n0, n1, n2, n3]) == libc::SCM_RIGHTS {
            for number in data.as_chunks::<4>().0 {
                // SAFETY: the kernel has just made these descriptors for us (unix(7), SCM_RIGHTS); nobody else has them.
                descriptors.push(unsafe { OwnedFd::from_raw_fd(RawFd::from_ne_bytes(*number)) });
            }
        }
        control = control.get(length.next_multiple_of(8)..).unwrap_or_default();
    }
    Ok(received)
}

/// Sends one frame with descriptors beside it, without waiting.
///
/// # Errors
/// As sendmsg(2); `InvalidInput` for too many descriptors.
pub fn send_frame(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut rights = Rights([0; RIGHTS_BYTES]);
    let length = HEADER_BYTES + size_of_val(descriptors);
    let used = length.next_multiple_of(8);
    let control = match descriptors {
        [] => &[][..],
        _ => {
            let control = rights.0.get_mut(..used).ok_or(io::ErrorKind::InvalidInput)?;
            control[..8].copy_from_slice(&length.to_ne_bytes());
            control[8..12].copy_from_slice(&libc::SOL_SOCKET.to_ne_bytes());
            control[12..16].copy_from_slice(&libc::SCM_RIGHTS.to_ne_bytes());
            for (room, descriptor) in control[HEADER_BYTES..].as_chunks_mut::<4>().0.iter_mut().zip(descriptors) {
                *room = descriptor.as_raw_fd().to_ne_bytes();
            }
            // The message's own length is not rounded up: its padding must not be read as one more descriptor.
            control
        }
    };
    send(socket, bytes, &[], control, libc::MSG_NOSIGNAL)
}

/// Receives one datagram, without waiting.
///
/// # Errors
/// As recvmsg(2); `WouldBlock` if there is none.
pub fn receive_datagram(socket: BorrowedFd<'_>, data: &mut [u8], name: &mut [u8], control: &mut [u8]) -> io::Result<Received> {
    receive(socket, data, name, control, 0)
}

/// Sends one datagram, without waiting.
///
/// # Errors
/// As sendmsg(2).
pub fn send_datagram(socket: BorrowedFd<'_>, data: &[u8], name: &[u8], control: &[u8]) -> io::Result<usize> {
    send(socket, data, name, control, 0)
}

fn receive(socket: BorrowedFd<'_>, data: &mut [u8], name: &mut [u8], control: &mut [u8], flags: i32) -> io::Result<Received> {
    let mut vector = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    let mut header = empty_header();
    if !name.is_empty() {
        header.msg_name = name.as_mut_ptr().cast();
        header.msg_namelen = name.len() as libc::socklen_t;
    }
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = control.len();
    // SAFETY: every pointer of the header leads to a slice or a variable that is ours alone for the length of the call, with its
    // own length beside it.
    let result = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags | libc::MSG_DONTWAIT) };
    Ok(Received {
        length: outcome(result as i64)?,
        name_length: (header.msg_namelen as usize).min(name.len()),
        control_length: header.msg_controllen.min(control.len()),
        truncated: header.msg_flags & libc::MSG_TRUNC != 0,
        control_truncated: header.msg_flags & libc::MSG_CTRUNC != 0,
    })
}

fn send(socket: BorrowedFd<'_>, data: &[u8], name: &[u8], control: &[u8], flags: i32) -> io::Result<usize> {
    let mut vector = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    let mut header = empty_header();
    if !name.is_empty() {
        header.msg_name = name.as_ptr().cast_mut().cast();
        header.msg_namelen = name.len() as libc::socklen_t;
    }
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    if !control.is_empty() {
        header.msg_control = control.as_ptr().cast_mut().cast();
        header.msg_controllen = control.len();
    }
    // SAFETY: every pointer of the header leads to a slice that outlives the call, with its length beside it, and sendmsg only
    // reads through them.
    let result = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, flags | libc::MSG_DONTWAIT) };
    outcome(result as i64)
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::net::UnixDatagram;

    use super::{peer_user, receive_frame, send_frame};

    #[test]
    fn descriptors_cross_beside_a_frame() {
        let (here, there) = UnixDatagram::pair().expect("a pair");
        for count in 0..=super::DESCRIPTORS_MAX {
            let sent = vec![here.as_fd(); count];
            assert_eq!(send_frame(here.as_fd(), b"frame", &sent).expect("it is sent"), 5);
            let mut descriptors: Vec<OwnedFd> = Vec::new();
            let mut buffer = [0; 16];
            let received = receive_frame(there.as_fd(), &mut buffer, &mut descriptors).expect("it is there");
            assert_eq!((received.length, descriptors.len()), (5, count));
            assert!(!received.truncated && !received.control_truncated);
        }
        assert!(send_frame(here.as_fd(), b"frame", &[here.as_fd(); super::DESCRIPTORS_MAX + 1]).is_err());
    }

    #[test]
    fn the_peers_user_is_known() {
        let (here, _there) = UnixDatagram::pair().expect("a pair");
        assert_eq!(peer_user(here.as_fd()).expect("credentials"), super::super::process::user());
    }
}
