//! Where load begins and ends: an address inside a namespace.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use super::Namespace;

/// An address that a namespace has, of the wire or of a network behind the site.
#[derive(Clone, Debug)]
pub struct Host {
    /// The namespace.
    pub namespace: Namespace,
    /// One of its addresses.
    pub address: IpAddr,
}

impl Host {
    /// A UDP socket bound to the address and a free port, or to `port`.
    ///
    /// # Errors
    /// If the address is not there or the port is taken.
    pub fn udp(&self, port: u16) -> Result<UdpSocket> {
        let address = SocketAddr::new(self.address, port);
        self.namespace.enter(|| UdpSocket::bind(address))?.with_context(|| format!("UDP {address} in {}", self.namespace.name()))
    }

    /// A TCP listener on the address and a free port.
    ///
    /// # Errors
    /// If the address is not there.
    pub fn listen(&self) -> Result<TcpListener> {
        let address = SocketAddr::new(self.address, 0);
        self.namespace.enter(|| TcpListener::bind(address))?.with_context(|| format!("TCP {address} in {}", self.namespace.name()))
    }

    /// A TCP connection from the address to `to`.
    ///
    /// # Errors
    /// If nobody answers there.
    pub fn connect(&self, to: SocketAddr) -> Result<TcpStream> {
        let connect = || -> std::io::Result<TcpStream> {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
            socket.bind(&SocketAddr::new(self.address, 0).into())?;
            socket.connect_timeout(&to.into(), std::time::Duration::from_secs(10))?;
            Ok(socket.into())
        };
        self.namespace.enter(connect)?.with_context(|| format!("TCP from {} to {to} in {}", self.address, self.namespace.name()))
    }
}
