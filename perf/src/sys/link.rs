//! Whole frames on a link: the packet socket (packet(7)), and waiting for two of them.

use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use libc::c_int;
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use super::{checked, force_receive_buffer, set_number};

/// What one socket keeps while its reader has no turn.
const BUFFER_BYTES: usize = 64 << 20;

/// Every frame that arrives at `device` of the calling thread's namespace; what is sent leaves through it. Reads and sends do not wait.
pub(crate) fn packet_socket(device: &str) -> io::Result<Socket> {
    let all = (libc::ETH_P_ALL as u16).to_be();
    // Protocol 0 takes nothing until the socket is bound to its device.
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    set_number(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
    set_number(&socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)?;
    force_receive_buffer(&socket, BUFFER_BYTES)?;
    let name = CString::new(device)?;
    // SAFETY: `name` is a string that ends in a zero byte and outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    socket.bind(&link_address(index as c_int, all))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn link_address(index: c_int, protocol: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is smaller than the storage, and every bit pattern is a valid one.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as u16;
    link.sll_protocol = protocol;
    link.sll_ifindex = index;
    // SAFETY: the storage holds a sockaddr_ll with its family set, of the length given.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}

/// Frames that a packet socket had no room for since this was last asked (`PACKET_STATISTICS`, packet(7)).
pub(crate) fn overflows(socket: &Socket) -> io::Result<u64> {
    let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    let pointer = (&raw mut statistics).cast();
    // SAFETY: the option fills a tpacket_stats, whose length is given; both outlive the call.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS, pointer, &raw mut length) };
    checked(result).map(|_| statistics.tp_drops.into())
}

/// Waits until one of two sockets can be read, at most so long; with microseconds, which `poll` has not.
pub(crate) fn wait_readable(sockets: &[Socket; 2], timeout: Duration) -> io::Result<()> {
    let mut wanted = sockets.each_ref().map(|socket| libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    let timeout = libc::timespec { tv_sec: timeout.as_secs() as libc::time_t, tv_nsec: timeout.subsec_nanos().into() };
    // SAFETY: array and timeout outlive the call, the length is the array's; no signal mask is given.
    let result = unsafe { libc::ppoll(wanted.as_mut_ptr(), 2, &raw const timeout, std::ptr::null()) };
    match checked(result) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}
