//! What control would open: TUN queues and the UDP sockets of each core, in the namespace of the calling thread.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use penstock_uapi::Role;
use socket2::{Domain, Protocol, Socket, Type};

const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
/// CSUM, TSO4, TSO6, USO4, USO6.
const OFFLOADS: libc::c_ulong = 0x01 | 0x02 | 0x04 | 0x20 | 0x40;
const UDP_GRO: i32 = 104;

/// `struct ifreq`, as far as TUNSETIFF reads it.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: libc::c_short,
    rest: [u8; 22],
}

/// A queue of the device, which is made if it is not there.
pub(crate) fn tun(name: &str) -> OwnedFd {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").expect("/dev/net/tun");
    let flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE) as libc::c_short;
    let mut request = Request { name: [0; 16], flags, rest: [0; 22] };
    request.name.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    // SAFETY: the request has the size and layout of `struct ifreq` and lives on this stack.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) };
    assert_eq!(result, 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
    // SAFETY: the argument is a number.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETOFFLOAD, OFFLOADS) };
    assert_eq!(result, 0, "TUNSETOFFLOAD: {}", std::io::Error::last_os_error());
    File::into(file)
}

fn set(socket: &Socket, level: i32, name: i32, value: i32) {
    // SAFETY: pointer and length describe `value`.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size_of::<i32>() as libc::socklen_t) };
    assert_eq!(result, 0, "option {level}/{name}: {}", std::io::Error::last_os_error());
}

/// A socket as a core has it.
pub(crate) fn udp(address: SocketAddr, share: bool, gro: bool) -> Socket {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP)).expect("a socket");
    if address.is_ipv6() {
        socket.set_only_v6(true).expect("v6 only");
        for (name, value) in [(libc::IPV6_RECVPKTINFO, 1), (libc::IPV6_RECVTCLASS, 1), (libc::IPV6_MTU_DISCOVER, 3)] {
            set(&socket, libc::IPPROTO_IPV6, name, value);
        }
    } else {
        for (name, value) in [(libc::IP_PKTINFO, 1), (libc::IP_RECVTOS, 1), (libc::IP_MTU_DISCOVER, 3)] {
            set(&socket, libc::IPPROTO_IP, name, value);
        }
    }
    let buffers = [(libc::SO_RXQ_OVFL, 1), (libc::SO_RCVBUFFORCE, 8 << 20), (libc::SO_SNDBUFFORCE, 8 << 20)];
    buffers.into_iter().for_each(|(name, value)| set(&socket, libc::SOL_SOCKET, name, value));
    set(&socket, libc::IPPROTO_UDP, UDP_GRO, gro.into());
    if share {
        socket.set_reuse_port(true).expect("a shared port");
    }
    socket.bind(&address.into()).expect("the address is here and free");
    socket
}

/// Picks the member of a reuseport group from the first word: control's socket for IKE, else the core that the SPI names.
fn steer(socket: &Socket, cores: u32) {
    let instruction = |code: u32, yes, no, k| libc::sock_filter { code: code as u16, jt: yes, jf: no, k };
    use libc::{BPF_A, BPF_ABS, BPF_ADD, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_LEN, BPF_MOD, BPF_RET, BPF_W};
    let mut program = [
        instruction(BPF_LD | BPF_W | BPF_LEN, 0, 0, 0),
        instruction(BPF_JMP | BPF_JGE | BPF_K, 0, 6, 8),
        instruction(BPF_LD | BPF_W | BPF_ABS, 0, 0, 0),
        instruction(BPF_JMP | BPF_JEQ | BPF_K, 4, 0, 0),
        instruction(BPF_ALU | BPF_AND | BPF_K, 0, 0, 0xff),
        instruction(BPF_ALU | BPF_MOD | BPF_K, 0, 0, cores),
        instruction(BPF_ALU | BPF_ADD | BPF_K, 0, 0, 1),
        instruction(BPF_RET | BPF_A, 0, 0, 0),
        instruction(BPF_RET | BPF_K, 0, 0, 0),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: pointer and length describe `filter`, which describes `program`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "steering: {}", std::io::Error::last_os_error());
}

/// What one core gets, and control's sockets with the first.
#[derive(Debug)]
pub(crate) struct Descriptors(pub(crate) Vec<(Role, OwnedFd)>);

/// Opens everything for `cores` cores on `port`, without the TUN queues.
pub(crate) fn sockets(cores: usize, port: u16, gro: bool) -> Vec<Descriptors> {
    let mut all: Vec<Descriptors> = (0..cores).map(|_| Descriptors(Vec::new())).collect();
    for (any, ike_role, shared_role, own_role) in
        [("0.0.0.0", Role::Ike4, Role::Shared4, Role::Own4), ("::", Role::Ike6, Role::Shared6, Role::Own6)]
    {
        let address = |port| SocketAddr::new(any.parse().expect("an address"), port);
        let ike = udp(address(port), true, gro);
        for core in &mut all {
            core.0.push((shared_role, udp(address(port), true, gro).into()));
            core.0.push((own_role, udp(address(0), false, gro).into()));
        }
        steer(&ike, cores as u32);
        all[0].0.push((ike_role, ike.into()));
    }
    all
}

impl Descriptors {
    /// Their roles as bits, and themselves in travelling order.
    pub(crate) fn in_order(&mut self) -> (u32, Vec<std::os::fd::BorrowedFd<'_>>) {
        self.0.sort_by_key(|(role, _)| role.bit());
        let roles = self.0.iter().fold(0, |bits, (role, _)| bits | role.bit());
        (roles, self.0.iter().map(|(_, fd)| fd.as_fd()).collect())
    }
}
