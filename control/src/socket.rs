//! UDP sockets: the reuseport group on the IKE and ESP port, and each core's socket with a source port of its own.
//!
//! ```text
//!   port 4500 ─► group, steered by SPI ─┬─ 0: control (IKE)        own ports ─┬─ core 0
//!   (one group for IPv4, one for IPv6)  ├─ 1: core 0                          └─ core 1
//!                                       ├─ 2: core 1
//!                                       └─ 3, 4: cores 0 and 1 of an engine that relieves another
//! ```
//! The first member binds without SO_REUSEPORT and sets it afterwards: so a port in use is noticed, although a
//! second program of the same user could otherwise join the group unseen.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use penstock_uapi::Role;
use socket2::{Domain, Protocol, Socket, Type};

use crate::steer::Steering;
use crate::sys;

pub mod ike;
pub mod intake;

/// Receive and send buffers, in bytes as asked for; the kernel doubles them for its own overhead.
///
/// A core must survive a gap in which the scheduler runs something else: 20 Gbit/s x 3 ms = 7.5 MB. More would only
/// let a queue grow that a loaded ping has to stand in (8 MiB at 20 Gbit/s are 3.4 ms).
const BUFFER_BYTES: i32 = 8 << 20;

/// How long a bind is tried: a ring of a process that died gives its port back a moment later.
const BIND_PATIENCE: Duration = Duration::from_millis(1500);

/// What all sockets share.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The port of IKE and ESP.
    pub port: u16,
    /// The IPv4 address to listen on; `None`: no IPv4.
    pub v4: Option<Ipv4Addr>,
    /// The IPv6 address to listen on; `None`: no IPv6.
    pub v6: Option<Ipv6Addr>,
    /// The mark on all sockets.
    pub mark: u32,
    /// How many cores.
    pub cores: u16,
    /// Let the kernel merge received datagrams.
    pub gro: bool,
}

/// Why sockets cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The port is taken.
    #[error("UDP port {0} is in use by another program")]
    InUse(SocketAddr),
    /// A right is missing.
    #[error("marking UDP sockets is not permitted")]
    NotPermitted,
    /// The address is not one of this machine.
    #[error("{0} is not an address of this machine")]
    NotHere(SocketAddr),
    /// Something else.
    #[error("cannot {what} a UDP socket on {address}: {error}")]
    Other {
        /// What was tried.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// The kernel's reason.
        error: io::Error,
    },
    /// A descriptor that was handed back is something else.
    #[error("descriptor is not the {role} socket on port {port}: {found}")]
    Foreign {
        /// What it should be.
        role: &'static str,
        /// The port it should have.
        port: u16,
        /// What it is.
        found: String,
    },
}

/// The sockets of one family: control's own, and per core the group's member and the one with its own port.
#[derive(Debug)]
pub struct Family {
    /// Member 0 of the group.
    pub ike: OwnedFd,
    /// Members 1 to n.
    pub shared: Vec<OwnedFd>,
    /// One a core.
    pub own: Vec<OwnedFd>,
}

/// Opens the sockets of every family of the plan. IPv6 that the kernel lacks is left out; `note` gets the reason.
///
/// # Errors
/// A port in use, an address that is not here, or a refusal by the kernel.
pub fn open(plan: &Plan, note: &mut impl FnMut(String)) -> Result<(Option<Family>, Option<Family>), SocketError> {
    let v4 = plan.v4.map(|ip| family(plan, ip.into())).transpose()?;
    let v6 = match plan.v6.map(|ip| family(plan, ip.into())).transpose() {
        Err(SocketError::Other { error, .. }) if no_such_family(&error) && v4.is_some() => {
            note(format!("no IPv6 here ({error}): peers are reached over IPv4 only"));
            None
        }
        // Where IPv6 is compiled in and turned off, `::` cannot be bound.
        Err(SocketError::NotHere(address)) if address.ip().is_unspecified() && v4.is_some() => {
            note("IPv6 is turned off here: peers are reached over IPv4 only".to_owned());
            None
        }
        other => other?,
    };
    Ok((v4, v6))
}

/// The sockets of port 500, for the first messages of peers that begin there: one for each family of the plan that this machine has.
///
/// # Errors
/// A port in use, an address that is not here, or a refusal by the kernel.
pub fn open_first(plan: &Plan) -> Result<Vec<OwnedFd>, SocketError> {
    let mut sockets = Vec::new();
    for ip in [plan.v4.map(IpAddr::V4), plan.v6.map(IpAddr::V6)].into_iter().flatten() {
        match bound(plan, SocketAddr::new(ip, penstock_ike::FIRST_PORT), Duration::ZERO, false) {
            Ok(socket) => sockets.push(socket.into()),
            // Where there is no IPv6, port 4500 has none either, and that is told once.
            Err(SocketError::Other { error, .. }) if no_such_family(&error) && ip.is_ipv6() => (),
            Err(SocketError::NotHere(address)) if address.ip().is_unspecified() && ip.is_ipv6() => (),
            Err(error) => return Err(error),
        }
    }
    Ok(sockets)
}

fn no_such_family(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

fn family(plan: &Plan, ip: IpAddr) -> Result<Family, SocketError> {
    let address = SocketAddr::new(ip, plan.port);
    let ike = bound(plan, address, BIND_PATIENCE, false)?;
    reuse_port(&ike, address)?;
    // Before the group's program has picked a member, the kernel asks one that it finds by the hash of addresses and ports whether it
    // may merge (net/ipv4/udp_offload.c, `udp4_gro_lookup_skb`): a member that says no spoils it for all packets of that peer.
    merging(plan, &ike).map_err(|error| SocketError::Other { what: "set up", address, error })?;
    let shared = shared(plan, address)?;
    let own = own(plan, ip)?;
    let steering = Steering { cores: plan.cores, set: 0, relief: None };
    steer(ike.as_fd(), steering).map_err(|error| SocketError::Other { what: "steer", address, error })?;
    Ok(Family { ike: ike.into(), shared, own })
}

/// A set of members for the group of this address, one a core.
fn shared(plan: &Plan, address: SocketAddr) -> Result<Vec<OwnedFd>, SocketError> {
    (0..plan.cores).map(|_| of_core(plan, address, true)).collect()
}

/// A socket with a source port of its own for each core.
fn own(plan: &Plan, ip: IpAddr) -> Result<Vec<OwnedFd>, SocketError> {
    (0..plan.cores).map(|_| of_core(plan, SocketAddr::new(ip, 0), false)).collect()
}

fn of_core(plan: &Plan, address: SocketAddr, share: bool) -> Result<OwnedFd, SocketError> {
    let socket = bound(plan, address, BIND_PATIENCE, share)?;
    for_packets(plan, &socket).map_err(|error| SocketError::Other { what: "set up", address, error })?;
    Ok(socket.into())
}

/// What an engine that relieves another needs of a family.
#[derive(Debug)]
pub struct Reliefs {
    /// A second set of members of the group, one a core; none if there is one already.
    pub shared: Option<Vec<OwnedFd>>,
    /// Sockets with source ports of their own, one a core.
    pub own: Vec<OwnedFd>,
}

/// Opens further sockets beside those of [`open`]: source ports of their own, and a second set of members if `shared`.
///
/// # Errors
/// If the kernel refuses.
pub fn open_further(plan: &Plan, ip: IpAddr, shared: bool) -> Result<Reliefs, SocketError> {
    let address = SocketAddr::new(ip, plan.port);
    Ok(Reliefs { shared: shared.then(|| self::shared(plan, address)).transpose()?, own: own(plan, ip)? })
}

/// Says which member of the group gets what; `ike` is any member.
///
/// # Errors
/// If the kernel refuses.
pub(crate) fn steer(ike: BorrowedFd<'_>, steering: Steering) -> io::Result<()> {
    sys::attach_reuseport_filter(ike, &mut steering.program())
}

fn reuse_port(socket: &Socket, address: SocketAddr) -> Result<(), SocketError> {
    socket.set_reuse_port(true).map_err(|error| SocketError::Other { what: "share", address, error })
}

fn bound(plan: &Plan, address: SocketAddr, patience: Duration, share: bool) -> Result<Socket, SocketError> {
    let other = |what| move |error| SocketError::Other { what, address, error };
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP)).map_err(other("open"))?;
    for_control(plan, &socket, address.is_ipv6()).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => SocketError::NotPermitted,
        _ => other("set up")(error),
    })?;
    if share {
        reuse_port(&socket, address)?;
    }
    let start = Instant::now();
    loop {
        let error = match socket.bind(&address.into()) {
            Ok(()) => return Ok(socket),
            Err(error) => error,
        };
        match error.raw_os_error() {
            Some(libc::EADDRINUSE) if start.elapsed() < patience => std::thread::sleep(Duration::from_millis(50)),
            Some(libc::EADDRINUSE) => return Err(SocketError::InUse(address)),
            Some(libc::EADDRNOTAVAIL) => return Err(SocketError::NotHere(address)),
            _ => return Err(other("bind")(error)),
        }
    }
}

/// What every socket has, control's own among them.
fn for_control(plan: &Plan, socket: &Socket, v6: bool) -> io::Result<()> {
    socket.set_mark(plan.mark)?;
    let set = |level, name, value| sys::set_option(socket.as_fd(), level, name, value);
    if v6 {
        socket.set_only_v6(true)?;
        set(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        set(libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
        // Never fragment and never trust a forged "packet too big": path MTU is found out by ourselves.
        set(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
    } else {
        set(libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
        set(libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
        set(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
    }
}

/// What the sockets of a core have besides.
fn for_packets(plan: &Plan, socket: &Socket) -> io::Result<()> {
    let set = |level, name, value| sys::set_option(socket.as_fd(), level, name, value);
    set(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)?;
    set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER_BYTES)?;
    set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, BUFFER_BYTES)?;
    merging(plan, socket)
}

/// Whether datagrams may come merged.
fn merging(plan: &Plan, socket: &Socket) -> io::Result<()> {
    sys::set_option(socket.as_fd(), libc::IPPROTO_UDP, libc::UDP_GRO, plan.gro.into())
}

/// Checks that a descriptor handed back by an engine is the socket that [`open`] made for this role.
///
/// # Errors
/// If it is anything else.
pub fn verify(role: Role, port: u16, fd: BorrowedFd<'_>) -> Result<(), SocketError> {
    let foreign = |found: String| SocketError::Foreign { role: role.name(), port, found };
    let read = |name| sys::option(fd, libc::SOL_SOCKET, name).map_err(|error| foreign(error.to_string()));
    let (domain, protocol) = (read(libc::SO_DOMAIN)?, read(libc::SO_PROTOCOL)?);
    let v6 = matches!(role, Role::Shared6 | Role::Second6 | Role::Own6 | Role::Ike6);
    if protocol != libc::IPPROTO_UDP || domain != if v6 { libc::AF_INET6 } else { libc::AF_INET } {
        return Err(foreign(format!("domain {domain}, protocol {protocol}")));
    }
    let is = port_of(fd).map_err(|error| foreign(error.to_string()))?;
    let own = matches!(role, Role::Own4 | Role::Own6);
    if (own && is != 0 && is != port) || (!own && is == port) { Ok(()) } else { Err(foreign(format!("port {is}"))) }
}

/// The local port of a socket.
fn port_of(fd: BorrowedFd<'_>) -> io::Result<u16> {
    let address = socket2::SockRef::from(&fd).local_addr()?;
    address.as_socket().map(|address| address.port()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};
    use std::os::fd::AsFd;
    use std::time::Duration;

    use penstock_uapi::{Role, Spi};

    use super::{Plan, SocketError};
    use crate::steer::Steering;

    /// Needs no right: without a mark and forced buffers the group is the same.
    fn group(cores: u16) -> Option<(u16, super::Family)> {
        let port = UdpSocket::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
        let plan = Plan { port, v4: Some(Ipv4Addr::LOCALHOST), v6: None, mark: 1, cores, gro: true };
        let (v4, _) = super::open(&plan, &mut |_| ()).ok()?;
        Some((port, v4?))
    }

    #[test]
    fn a_datagram_reaches_the_member_that_its_first_word_names() {
        // Given a group of three cores (marks need CAP_NET_ADMIN: without it there is nothing to test here)
        let Some((port, family)) = group(3) else { return };
        let members: Vec<UdpSocket> = std::iter::once(family.ike).chain(family.shared).map(UdpSocket::from).collect();
        for member in &members {
            member.set_nonblocking(false).expect("a socket");
            member.set_read_timeout(Some(Duration::from_millis(500))).expect("a socket");
        }
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let entrance = |at: u8| Spi::compose_with_entrance(77, 0, 1, at).value().to_be_bytes();
        let (first, last) = ([entrance(0), [0, 0, 0, 1]].concat(), [entrance(5), [0, 0, 0, 1]].concat());
        let cases: [(&[u8], usize); 8] = [
            (&[0, 0, 0, 0, 1, 2, 3, 4], 0),          // IKE
            (&[0xff], 0),                            // keepalive
            (&[1, 2, 3, 0, 0, 0, 0], 0),             // runt
            (&[9, 9, 9, 0, 0, 0, 0, 1], 1),          // core 0
            (&[9, 9, 9, 2, 0, 0, 0, 1, 5, 5, 5], 3), // core 2
            (&[9, 9, 9, 4, 0, 0, 0, 1], 2),          // core 4 modulo 3
            (&first, 1),                             // core 1's, by the entrance 0
            (&last, 3),                              // core 1's, by the entrance 5 modulo 3
        ];
        // When each datagram is sent, then the named member has it
        for (bytes, member) in cases {
            sender.send_to(bytes, ("127.0.0.1", port)).expect("sent");
            let mut buffer = [0; 64];
            let length = members[member].recv(&mut buffer).unwrap_or_else(|e| panic!("{bytes:?} at {member}: {e}"));
            assert_eq!(&buffer[..length], bytes);
        }
    }

    #[test]
    fn while_one_engine_relieves_another_the_generation_says_which_set_it_is() {
        let Some((port, family)) = group(2) else { return };
        let plan = Plan { port, v4: Some(Ipv4Addr::LOCALHOST), v6: None, mark: 1, cores: 2, gro: false };
        let second = super::open_further(&plan, Ipv4Addr::LOCALHOST.into(), true).expect("further members").shared.expect("a set");
        let ike = family.ike.try_clone().expect("a descriptor");
        let members: Vec<UdpSocket> = std::iter::once(family.ike).chain(family.shared).chain(second).map(UdpSocket::from).collect();
        for member in &members {
            member.set_nonblocking(false).expect("a socket");
            member.set_read_timeout(Some(Duration::from_millis(500))).expect("a socket");
        }
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let spi = |generation: u8, core: u8| Spi::compose(77, generation, core).expect("not zero").value();
        let entrance = |generation: u8, at: u8| Spi::compose_with_entrance(77, generation, 1, at).value();
        let both = Steering { cores: 2, set: 0, relief: Some((2, 1)) };
        let after = Steering { cores: 2, set: 1, relief: None };
        let cases = [
            (both, spi(1, 0), 1),
            (both, spi(1, 1), 2),
            (both, spi(2, 0), 3),
            (both, spi(2, 1), 4),
            (both, entrance(2, 0), 3),
            (both, entrance(1, 0), 1),
            (both, 0, 0),
            (after, spi(1, 0), 3),
            (after, spi(2, 1), 4),
            (after, 0, 0),
        ];
        for (steering, spi, member) in cases {
            super::steer(ike.as_fd(), steering).expect("a program");
            let bytes = [spi.to_be_bytes(), [0, 0, 0, 1]].concat();
            sender.send_to(&bytes, ("127.0.0.1", port)).expect("sent");
            let mut buffer = [0; 64];
            members[member].recv(&mut buffer).unwrap_or_else(|error| panic!("{spi:08x} at {member} with {steering:?}: {error}"));
        }
    }

    #[test]
    fn every_member_of_the_group_may_be_asked_whether_to_merge() {
        let Some((_, family)) = group(2) else { return };
        for member in std::iter::once(&family.ike).chain(&family.shared) {
            assert_eq!(crate::sys::option(member.as_fd(), libc::IPPROTO_UDP, libc::UDP_GRO).expect("an option"), 1);
        }
    }

    #[test]
    fn a_port_in_use_is_noticed_and_what_is_handed_back_is_verified() {
        let Some((port, family)) = group(1) else { return };
        let plan = Plan { port, v4: Some(Ipv4Addr::LOCALHOST), v6: None, mark: 1, cores: 1, gro: false };
        assert!(matches!(super::open(&plan, &mut |_| ()), Err(SocketError::InUse(_))));
        super::verify(Role::Ike4, port, family.ike.as_fd()).expect("it is");
        super::verify(Role::Shared4, port, family.shared[0].as_fd()).expect("it is");
        super::verify(Role::Own4, port, family.own[0].as_fd()).expect("it is");
        assert!(super::verify(Role::Shared4, port, family.own[0].as_fd()).is_err());
        assert!(super::verify(Role::Shared6, port, family.shared[0].as_fd()).is_err());
        assert!(super::verify(Role::Own4, port, std::io::stderr().as_fd()).is_err());
    }
}
