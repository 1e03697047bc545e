//! The packet socket (packet(7)) and UDP segmentation (udp(7)): what the standard library has no words for, and the only unsafe
//! code of the tests.
#![allow(unsafe_code, reason = "binding a packet socket to a link needs its own address family")]

use std::ffi::CString;
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

/// Opens a packet socket on one link of the namespace that this thread is in. It sees every frame that arrives there
/// (and those that leave, unless `arriving_only`), and what is sent on it leaves through that link.
pub(crate) fn packet_socket(link: &str, arriving_only: bool) -> io::Result<Socket> {
    let all = u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?.to_be();
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(all))))?;
    let name = CString::new(link)?;
    // SAFETY: `name` is a string that ends in a zero byte and outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    let index = i32::try_from(index).map_err(io::Error::other)?;
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    socket.bind(&link_address(index, all))?;
    if arriving_only {
        ignore_outgoing(&socket)?;
    }
    Ok(socket)
}

fn link_address(index: i32, protocol: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is smaller than the storage, and every bit pattern is a valid one.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as u16;
    link.sll_protocol = protocol;
    link.sll_ifindex = index;
    // SAFETY: the storage holds a sockaddr_ll with its family set, of the length given.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}

/// PACKET_IGNORE_OUTGOING (Linux 4.20).
fn ignore_outgoing(socket: &Socket) -> io::Result<()> {
    const PACKET_IGNORE_OUTGOING: i32 = 23;
    set_option(socket.as_fd(), libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
}

/// Makes each send of this socket a row of datagrams of so many bytes, the last one maybe shorter (UDP_SEGMENT, Linux 4.18).
pub(crate) fn set_segment_size(socket: &UdpSocket, bytes: u16) -> io::Result<()> {
    set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, bytes.into())
}

fn set_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    let length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the option's value is an int that outlives the call, of the length given.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A duplicate of a descriptor of another process (pidfd_getfd(2), Linux 5.6). Needs the right to trace it.
pub(crate) fn descriptor_of(pid: u32, fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers.
    let process = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let process = owned(process)?;
    // SAFETY: plain numbers; the first is open for the length of the call.
    let duplicate = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) };
    owned(duplicate)
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call made it for us just now, and nobody else closes it.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}

/// Gives a socket buffers of any size (SO_RCVBUFFORCE, SO_SNDBUFFORCE).
pub(crate) fn force_buffers(socket: &Socket, receive: usize, send: usize) -> io::Result<()> {
    for (name, bytes) in [(libc::SO_RCVBUFFORCE, receive), (libc::SO_SNDBUFFORCE, send)] {
        set_option(socket.as_fd(), libc::SOL_SOCKET, name, i32::try_from(bytes).map_err(io::Error::other)?)?;
    }
    Ok(())
}
