//! The system calls that neither `std` nor `socket2` offers: entering a network namespace, the offload switches of a
//! device, counters of a socket, whole frames on a link. The only files of this crate with `unsafe`, so that they can be read in one sitting.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};

use libc::{c_int, c_void};

mod link;
pub(crate) use link::{overflows, packet_socket, wait_readable};

fn checked(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Whether this process may make namespaces and devices.
#[must_use]
pub fn is_root() -> bool {
    // SAFETY: takes nothing and cannot fail.
    let uid = unsafe { libc::geteuid() };
    uid == 0
}

/// Moves the calling thread, and only it, into the network namespace that `namespace` refers to.
pub(crate) fn enter_network(namespace: impl AsFd) -> io::Result<()> {
    // SAFETY: the descriptor is open for the length of the call; no memory is passed.
    checked(unsafe { libc::setns(namespace.as_fd().as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// Lets the calling thread run soon after it wakes up: turns of 100 us instead of milliseconds (Linux 6.12), and a nice value of -20.
/// A thread that it starts is as others again.
pub(crate) fn come_soon() -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid `sched_attr`.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    attributes.size = size_of::<libc::sched_attr>() as u32;
    (attributes.sched_nice, attributes.sched_runtime) = (-20, 100_000);
    attributes.sched_flags = libc::SCHED_FLAG_RESET_ON_FORK as u64;
    // SAFETY: the kernel only reads the structure, whose size stands in it; 0 is the calling thread.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    checked(result as c_int).map(drop)
}

/// Sends `signal` to one process. Errors: the kernel's, `ESRCH` if there is no such process.
pub(crate) fn signal(pid: u32, signal: c_int) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
    if pid <= 1 {
        return Err(io::ErrorKind::InvalidInput.into()); // 0 and -1 name groups of processes, 1 is never ours
    }
    // SAFETY: plain numbers.
    checked(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Clock ticks a second, the unit of `/proc/PID/stat`.
pub(crate) fn ticks_per_second() -> f64 {
    // SAFETY: a plain number; an unknown name returns -1.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    if ticks > 0 { ticks as f64 } else { 100.0 }
}

/// What the kernel counts at one end of a TCP connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TcpCounts {
    /// Segments sent again (`tcpi_total_retrans`).
    pub(crate) retransmits: u64,
    /// How many of those the receiver said it had already (`tcpi_dsack_dups`, RFC 2883).
    pub(crate) needless: u64,
    /// Segments received before one that belongs in front of them (`tcpi_rcv_ooopack`); what the kernel merged counts once.
    pub(crate) out_of_order: u64,
}

/// Reads the counts of one end (`TCP_INFO`).
pub(crate) fn tcp_counts(socket: impl AsFd) -> io::Result<TcpCounts> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: `info` has `length` bytes and outlives the call.
    checked(unsafe {
        libc::getsockopt(socket.as_fd().as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut length)
    })?;
    // SAFETY: plain numbers, zeroed before the kernel filled in what it knows.
    let info = unsafe { info.assume_init() };
    Ok(TcpCounts {
        retransmits: info.tcpi_total_retrans.into(),
        needless: info.tcpi_dsack_dups.into(),
        out_of_order: info.tcpi_rcv_ooopack.into(),
    })
}

/// Datagrams thrown away at this socket because its receive buffer was full (`SO_MEMINFO`, linux/sock_diag.h).
pub(crate) fn socket_drops(socket: impl AsFd) -> io::Result<u64> {
    const SK_MEMINFO_DROPS: usize = 8;
    let mut values = [0_u32; SK_MEMINFO_DROPS + 1];
    let mut length = size_of_val(&values) as libc::socklen_t;
    // SAFETY: `values` has `length` bytes and outlives the call.
    checked(unsafe {
        libc::getsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, values.as_mut_ptr().cast(), &raw mut length)
    })?;
    Ok(values[SK_MEMINFO_DROPS].into())
}

fn set_number(socket: impl AsFd, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    let pointer: *const c_int = &raw const value;
    let length = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: `value` outlives the call and has `length` bytes.
    checked(unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, pointer.cast(), length) }).map(drop)
}

/// Every send from now on is cut into datagrams of `bytes` each (`UDP_SEGMENT`); 0 ends that.
pub(crate) fn set_udp_segment(socket: &UdpSocket, bytes: u16) -> io::Result<()> {
    set_number(socket, libc::SOL_UDP, libc::UDP_SEGMENT, bytes.into())
}

/// Lets the kernel hand over several datagrams of one flow in one buffer (`UDP_GRO`); see [`receive_merged`].
pub(crate) fn set_udp_gro(socket: &UdpSocket) -> io::Result<()> {
    set_number(socket, libc::SOL_UDP, libc::UDP_GRO, 1)
}

/// Makes the receive buffer this large, beyond what `net.core.rmem_max` allows.
pub(crate) fn force_receive_buffer(socket: impl AsFd, bytes: usize) -> io::Result<()> {
    set_number(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, c_int::try_from(bytes).unwrap_or(c_int::MAX))
}

/// Forbids the kernel to cut datagrams into IP fragments, so that a size beyond the path's MTU is an error.
pub(crate) fn forbid_fragments(socket: &UdpSocket) -> io::Result<()> {
    if socket.local_addr()?.is_ipv4() {
        set_number(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)
    } else {
        set_number(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)
    }
}

/// One receive: the bytes received and, where there is room for it, the IPv4 sender. `note` is given level, kind and data of each control message.
fn receive_noting(
    socket: &UdpSocket,
    buffer: &mut [u8],
    from: Option<&mut libc::sockaddr_in>,
    mut note: impl FnMut((c_int, c_int), *const u8),
) -> io::Result<usize> {
    let mut control = [0_u64; 16];
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast::<c_void>(), iov_len: buffer.len() };
    // SAFETY: a msghdr is plain pointers and numbers, and all zero means none of them.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    if let Some(from) = from {
        message.msg_name = (&raw mut *from).cast();
        message.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    }
    // SAFETY: buffer, vector, address and control outlive the call, and their true lengths are given.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel has set the control length of `message`, and its control buffer lives.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: the CMSG functions return null or a whole header within the control buffer, which is aligned for it.
        let this = unsafe { header.read() };
        // SAFETY: `header` is valid, so is the place of its data.
        note((this.cmsg_level, this.cmsg_type), unsafe { libc::CMSG_DATA(header) });
        // SAFETY: as for CMSG_FIRSTHDR; `header` came from there or from here.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Ok(received)
}

/// One receive from a socket with UDP_GRO: the bytes received, and the length of each datagram among them but the last.
pub(crate) fn receive_merged(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, usize)> {
    let mut stride = None;
    let received = receive_noting(socket, buffer, None, |kind, data| {
        if kind == (libc::SOL_UDP, libc::UDP_GRO) {
            // SAFETY: the data of UDP_GRO is one int (net/ipv4/udp.c, udp_cmsg_recv).
            stride = usize::try_from(unsafe { data.cast::<c_int>().read_unaligned() }).ok();
        }
    })?;
    Ok((received, stride.unwrap_or(received).max(1)))
}

/// Each receive tells to which of this machine's addresses the datagram came; see [`receive_with_destination`].
pub(crate) fn tell_destination(socket: &UdpSocket) -> io::Result<()> {
    set_number(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
}

/// One datagram: its length, its sender, and which of our IPv4 addresses it came to.
pub(crate) fn receive_with_destination(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr, Ipv4Addr)> {
    let ip = |address: libc::in_addr| Ipv4Addr::from(u32::from_be(address.s_addr));
    // SAFETY: an address is plain numbers, and all zero is one.
    let mut from: libc::sockaddr_in = unsafe { MaybeUninit::zeroed().assume_init() };
    let mut to = None;
    let received = receive_noting(socket, buffer, Some(&mut from), |kind, data| {
        if kind == (libc::IPPROTO_IP, libc::IP_PKTINFO) {
            // SAFETY: the data of IP_PKTINFO is this structure (net/ipv4/ip_sockglue.c).
            to = Some(ip(unsafe { data.cast::<libc::in_pktinfo>().read_unaligned() }.ipi_addr));
        }
    })?;
    let to = to.ok_or(io::ErrorKind::InvalidData)?;
    Ok((received, SocketAddr::new(ip(from.sin_addr).into(), u16::from_be(from.sin_port)), to))
}

/// Sends a datagram from one of this machine's IPv4 addresses.
pub(crate) fn send_from(socket: &UdpSocket, bytes: &[u8], from: Ipv4Addr, to: SocketAddr) -> io::Result<()> {
    let to = socket2::SockAddr::from(to);
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast::<c_void>(), iov_len: bytes.len() };
    let mut control = [0_u64; 16];
    let info = libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: libc::in_addr { s_addr: u32::from(from).to_be() },
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    // SAFETY: a msghdr is plain pointers and numbers, and all zero means none of them.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_name = to.as_ptr().cast_mut().cast();
    message.msg_namelen = to.len();
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: this only counts, and what it counts is far below the buffer's size.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(size_of_val(&info) as u32) } as usize;
    // SAFETY: as the line before.
    let length = unsafe { libc::CMSG_LEN(size_of_val(&info) as u32) } as usize;
    // SAFETY: the control buffer is large enough for a header and aligned for it.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    // SAFETY: `header` lies in the control buffer.
    unsafe { header.write(libc::cmsghdr { cmsg_len: length, cmsg_level: libc::IPPROTO_IP, cmsg_type: libc::IP_PKTINFO }) };
    // SAFETY: `header` is valid, so is the place of its data.
    let data = unsafe { libc::CMSG_DATA(header) };
    // SAFETY: the buffer has room for this structure behind the header.
    unsafe { data.cast::<libc::in_pktinfo>().write_unaligned(info) };
    // SAFETY: address, buffer, vector and control outlive the call, which only reads them.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, 0) };
    usize::try_from(sent).map(drop).map_err(|_| io::Error::last_os_error())
}

/// The offload switches of a device by name, as `ethtool -k` shows them, through `SIOCETHTOOL` (linux/ethtool.h).
/// Belongs to the namespace in which it was made, whichever thread uses it.
pub(crate) struct Features {
    socket: UdpSocket,
    device: [libc::c_char; libc::IFNAMSIZ],
    names: Vec<String>,
}

impl Features {
    const GET_STRINGS: u32 = 0x1b;
    const GET_STRING_SET_INFO: u32 = 0x37;
    const GET: u32 = 0x3a;
    const SET: u32 = 0x3b;
    const STRING_SET_FEATURES: u32 = 4;
    const STRING_BYTES: usize = 32;

    /// The switches of `device`, which must be in the calling thread's namespace.
    pub(crate) fn of(device: &str) -> io::Result<Self> {
        let mut name = [0; libc::IFNAMSIZ];
        if device.len() >= name.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (to, from) in name.iter_mut().zip(device.bytes()) {
            *to = from as libc::c_char;
        }
        let mut features = Self { socket: UdpSocket::bind(("127.0.0.1", 0))?, device: name, names: Vec::new() };
        let mut info = [Self::GET_STRING_SET_INFO, 0, 1 << Self::STRING_SET_FEATURES, 0, 0];
        features.request(&mut info)?;
        let count = info[4] as usize;
        let mut strings = vec![0_u32; 3 + count * Self::STRING_BYTES / 4];
        strings[0] = Self::GET_STRINGS;
        strings[1] = Self::STRING_SET_FEATURES;
        strings[2] = info[4];
        features.request(&mut strings)?;
        let bytes: Vec<u8> = strings.iter().skip(3).flat_map(|word| word.to_ne_bytes()).collect();
        features.names = bytes
            .chunks_exact(Self::STRING_BYTES)
            .map(|name| String::from_utf8_lossy(name.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned())
            .collect();
        Ok(features)
    }

    /// Turns the named switches on or off and makes sure that they are. Names that this kernel does not know are left out.
    pub(crate) fn set(&self, switches: &[(&str, bool)]) -> io::Result<()> {
        let words = self.names.len().div_ceil(32);
        let mut request = vec![0_u32; 2 + words * 2];
        request[0] = Self::SET;
        request[1] = words as u32;
        let wanted = || switches.iter().filter_map(|(name, on)| Some((self.names.iter().position(|known| known == name)?, *name, *on)));
        for (index, _, on) in wanted() {
            request[2 + index / 32 * 2] |= 1 << (index % 32);
            request[3 + index / 32 * 2] |= u32::from(on) << (index % 32);
        }
        self.request(&mut request)?;
        let mut state = vec![0_u32; 2 + words * 4];
        state[0] = Self::GET;
        state[1] = words as u32;
        self.request(&mut state)?;
        for (index, name, on) in wanted() {
            let active = state[2 + index / 32 * 4 + 2] >> (index % 32) & 1 == 1;
            if active != on {
                return Err(io::Error::other(format!("the device keeps {name} {}", if active { "on" } else { "off" })));
            }
        }
        Ok(())
    }

    /// `words` opens with the command and is as large as that command's structure, with the counts in it filled in.
    fn request(&self, words: &mut [u32]) -> io::Result<()> {
        // SAFETY: an ifreq is plain bytes and pointers, and all zero is a valid one.
        let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
        request.ifr_name = self.device;
        request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
        // SAFETY: the kernel writes what the command's structure holds, at most the counts that `words` names; both live.
        checked(unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) }).map(drop)
    }
}
