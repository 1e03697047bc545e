//! Control's own sockets: that of port 500, with bare IKE messages, and that of the group: IKE behind the non-ESP marker (RFC 3948 section 2.2), keepalives, and now and
//! then an ESP packet that the kernel merged behind an IKE one and that belongs to the engine.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use socket2::SockAddr;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use penstock_ike::FIRST_PORT;

use super::intake::{Endpoints, Gate, Intake};
use crate::sys;

/// Four zero bytes before every IKE message on this port.
pub const NON_ESP_MARKER: [u8; 4] = [0; 4];

/// The largest datagram, or row of merged ones.
const BUFFER_BYTES: usize = 65_536;

/// What keeps a NAT's memory of us fresh.
pub const KEEPALIVE: [u8; 1] = [0xff];

/// A datagram with its addresses.
#[derive(Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The sender.
    pub from: SocketAddr,
    /// Our address and port that it came to.
    pub to: SocketAddr,
    /// The type of service or traffic class.
    pub tos: u8,
    /// What it is.
    pub kind: Kind,
}

/// What a datagram on this port is.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// An IKE message without its marker.
    Ike(Vec<u8>),
    /// An ESP packet.
    Esp(Vec<u8>),
    /// A NAT keepalive (RFC 3948 section 2.3), or too short for anything.
    Other,
}

/// One of the two sockets.
#[derive(Debug)]
pub struct IkeSocket {
    fd: AsyncFd<OwnedFd>,
    port: u16,
    /// Whether IKE messages stand behind the non-ESP marker: not on port 500.
    marked: bool,
    /// Datagrams of a buffer in which the kernel had merged several (`UDP_GRO`).
    merged: RefCell<VecDeque<Datagram>>,
    /// How many of strangers are taken.
    intake: RefCell<Intake>,
    v6: bool,
    /// Where datagrams are read to: one for all of them, because a flood would have it made and zeroed anew for each.
    buffer: RefCell<Vec<u8>>,
}

impl IkeSocket {
    /// Takes the socket into the runtime. In a flood of strangers' first messages those from `endpoints` come first.
    ///
    /// # Errors
    /// If the runtime cannot watch it, or it is no socket.
    pub fn new(fd: OwnedFd, port: u16, endpoints: Endpoints) -> io::Result<Self> {
        let v6 = socket2::SockRef::from(&fd).local_addr()?.is_ipv6();
        let (merged, buffer, intake) = (RefCell::default(), RefCell::default(), RefCell::new(Intake::new(endpoints)));
        let socket = Self { fd: sys::watch(fd)?, port, marked: port != FIRST_PORT, merged, intake, v6, buffer };
        socket.gate().open()?;
        Ok(socket)
    }

    fn gate(&self) -> Gate<'_> {
        Gate { socket: self.fd.get_ref().as_fd(), v6: self.v6, port: self.port, marked: self.marked }
    }

    /// The descriptor, to hand a duplicate to the engine.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        self.fd.get_ref().try_clone()
    }

    /// Waits for the next datagram; errors of the socket (an ICMP answer to something we sent) are passed over.
    pub async fn receive(&self) -> Datagram {
        let mut buffer = self.buffer.take();
        buffer.resize(BUFFER_BYTES, 0);
        loop {
            if let Some(datagram) = self.merged.borrow_mut().pop_front() {
                self.buffer.replace(buffer);
                return datagram;
            }
            let wake = self.intake.borrow().wake();
            let received = tokio::select! {
                received = self.fd.async_io(Interest::READABLE, |fd| sys::receive(fd.as_fd(), &mut buffer)) => received,
                () = at(wake) => {
                    self.intake.borrow_mut().turn(&self.gate());
                    continue;
                }
            };
            match received {
                Ok(received) => {
                    let datagrams = self.classify(&received, buffer.get(..received.length).unwrap_or_default());
                    self.merged.borrow_mut().extend(datagrams.into_iter().flatten().inspect(|datagram| self.taken(datagram)));
                }
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    fn taken(&self, datagram: &Datagram) {
        if let Kind::Ike(message) = &datagram.kind {
            let mut intake = self.intake.borrow_mut();
            intake.count(datagram.from.ip(), message);
            intake.turn(&self.gate());
        }
    }

    fn classify(&self, received: &sys::Received, bytes: &[u8]) -> Option<Vec<Datagram>> {
        if received.truncated {
            return None;
        }
        let from = received.from.as_ref()?.as_socket()?;
        let mut local = None;
        let (mut tos, mut stride) = (0, bytes.len());
        for (level, kind, data) in &received.messages {
            match (*level, *kind) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => local = v4_of(data).map(IpAddr::V4),
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => local = data.first_chunk::<16>().map(|ip| IpAddr::V6(Ipv6Addr::from(*ip))),
                (libc::IPPROTO_UDP, libc::UDP_GRO) => stride = usize::try_from(i32::from_ne_bytes(*data.first_chunk()?)).ok()?,
                (libc::IPPROTO_IP, libc::IP_TOS) | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => tos = data.first().copied()?,
                _ => (),
            }
        }
        let to = SocketAddr::new(local?, self.port);
        Some(bytes.chunks(stride.max(1)).map(|datagram| Datagram { from, to, tos, kind: self.kind(datagram) }).collect())
    }

    /// Sends an IKE message, behind the marker where there is one, from `local` where it is given. An error is the kernel's and tells
    /// nothing about the peer: IKE sends again by itself.
    ///
    /// # Errors
    /// As `sendmsg`.
    pub fn send(&self, message: &[u8], local: Option<IpAddr>, to: SocketAddr) -> io::Result<()> {
        if self.marked {
            return self.send_bytes(&[&NON_ESP_MARKER, message].concat(), local, to);
        }
        self.send_bytes(message, local, to)
    }

    fn kind(&self, datagram: &[u8]) -> Kind {
        if self.marked { Kind::of(datagram) } else { Kind::Ike(datagram.to_vec()) }
    }

    /// Sends a NAT keepalive (RFC 3948 section 2.3).
    ///
    /// # Errors
    /// As `sendmsg`.
    pub fn send_keepalive(&self, local: Option<IpAddr>, to: SocketAddr) -> io::Result<()> {
        self.send_bytes(&KEEPALIVE, local, to)
    }

    fn send_bytes(&self, bytes: &[u8], local: Option<IpAddr>, to: SocketAddr) -> io::Result<()> {
        let info = local.map(packet_info);
        let control = info.as_ref().map(|(level, kind, data)| (*level, *kind, data.as_slice()));
        let messages = control.as_slice();
        sys::send(self.fd.as_fd(), bytes, Some(&SockAddr::from(to)), messages).map(drop)
    }
}

impl Kind {
    /// Tells what bytes on this port are (RFC 3948 section 2.2 and 2.3).
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        match bytes.split_first_chunk::<4>() {
            Some((&NON_ESP_MARKER, message)) => Self::Ike(message.to_vec()),
            Some((_, rest)) if rest.len() >= 4 => Self::Esp(bytes.to_vec()),
            _ => Self::Other,
        }
    }
}

/// Then; never, if there is no then.
async fn at(then: Option<Instant>) {
    match then {
        Some(then) => tokio::time::sleep_until(then).await,
        None => std::future::pending().await,
    }
}

/// The destination in `struct in_pktinfo`: interface, local address, header destination.
fn v4_of(info: &[u8]) -> Option<Ipv4Addr> {
    info.get(8..12)?.first_chunk::<4>().map(|ip| Ipv4Addr::from(*ip))
}

fn packet_info(local: IpAddr) -> (i32, i32, Vec<u8>) {
    match local {
        IpAddr::V4(ip) => (libc::IPPROTO_IP, libc::IP_PKTINFO, [&[0; 4], ip.octets().as_slice(), &[0; 4]].concat()),
        IpAddr::V6(ip) => (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, [ip.octets().as_slice(), &[0; 4]].concat()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Endpoints, IkeSocket, Kind};
    use crate::socket::intake::TAKEN_MAX;

    #[test]
    fn what_is_on_the_port_is_told_apart() {
        assert_eq!(Kind::of(&[0, 0, 0, 0, 7, 8]), Kind::Ike(vec![7, 8]));
        assert_eq!(Kind::of(&[0, 0, 0, 0]), Kind::Ike(vec![]));
        assert_eq!(Kind::of(&[0, 0, 0]), Kind::Other);
        assert_eq!(Kind::of(&[0xff]), Kind::Other);
        assert_eq!(Kind::of(&[1, 2, 3, 4, 5, 6, 7]), Kind::Other);
        assert_eq!(Kind::of(&[1, 2, 3, 4, 5, 6, 7, 8]), Kind::Esp(vec![1, 2, 3, 4, 5, 6, 7, 8]));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn datagrams_that_the_kernel_merged_are_told_apart() {
        let receiver = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        receiver.set_nonblocking(true).expect("a socket");
        let set = |socket: &std::net::UdpSocket, level, name, value| {
            crate::sys::set_option(std::os::fd::AsFd::as_fd(socket), level, name, value).expect("an option");
        };
        set(&receiver, libc::IPPROTO_IP, libc::IP_PKTINFO, 1);
        set(&receiver, libc::IPPROTO_UDP, libc::UDP_GRO, 1);
        let port = receiver.local_addr().expect("bound").port();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        set(&sender, libc::IPPROTO_UDP, libc::UDP_SEGMENT, 8);
        let socket = IkeSocket::new(receiver.into(), port, Endpoints::default()).expect("a runtime");
        sender.send_to(&[[0, 0, 0, 0, 1, 1, 1, 1], [9; 8], [0, 0, 0, 0, 2, 2, 2, 2]].concat(), ("127.0.0.1", port)).expect("sent");
        for wanted in [Kind::Ike(vec![1; 4]), Kind::Esp(vec![9; 8]), Kind::Ike(vec![2; 4])] {
            assert_eq!(socket.receive().await.kind, wanted);
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_message_keeps_its_local_address_both_ways() {
        let socket = || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
            socket.set_nonblocking(true).expect("a socket");
            crate::sys::set_option(std::os::fd::AsFd::as_fd(&socket), libc::IPPROTO_IP, libc::IP_PKTINFO, 1).expect("an option");
            let port = socket.local_addr().expect("bound").port();
            (IkeSocket::new(socket.into(), port, Endpoints::default()).expect("a runtime"), port)
        };
        let ((a, a_port), (b, b_port)) = (socket(), socket());
        let to = ([127, 0, 0, 3], b_port).into();
        a.send(b"hello", Some([127, 0, 0, 2].into()), to).expect("sent");
        let got = b.receive().await;
        assert_eq!((got.from, got.to, got.kind), (([127, 0, 0, 2], a_port).into(), to, Kind::Ike(b"hello".to_vec())));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_was_kept_out_in_a_flood_is_taken_again_when_nothing_comes_any_more() {
        let receiver = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        receiver.set_nonblocking(true).expect("a socket");
        let socket = IkeSocket::new(receiver.into(), 4500, Endpoints::default()).expect("a runtime");
        let limited = || socket.intake.borrow().wake().is_some();
        (0..64 * TAKEN_MAX).for_each(|_| socket.intake.borrow_mut().count([192, 0, 2, 1].into(), &[0; 28]));
        tokio::time::sleep(std::time::Duration::from_millis(101)).await;
        socket.intake.borrow_mut().turn(&socket.gate());
        assert!(limited());
        assert!(tokio::time::timeout(std::time::Duration::from_secs(2), socket.receive()).await.is_err(), "nobody sends");
        assert!(!limited());
    }
}
