//! The packet socket (packet(7)): what the standard library has no words for, and the only unsafe code of the tests.
#![allow(unsafe_code, reason = "binding a packet socket to a link needs its own address family")]

use std::ffi::CString;
use std::io;

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
    let on: i32 = 1;
    let length = size_of::<i32>() as libc::socklen_t;
    let fd = std::os::fd::AsRawFd::as_raw_fd(socket);
    // SAFETY: the option's value is an int that outlives the call, of the length given.
    let result = unsafe { libc::setsockopt(fd, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, (&raw const on).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
