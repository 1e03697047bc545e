//! Addresses, MTU, routes and rules through rtnetlink. Everything is brought *to* a desired state: what is there and
//! right is left alone, what is missing is added, what an earlier run left and nobody wants is removed. Ours is told
//! from others' by the device's alias and the protocol number of routes and rules; nothing else is touched.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_core::ErrorMessage;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::RouteProtocol;

pub mod link;
pub mod mtu;
pub mod route;
pub mod rule;
pub mod super_packet;
pub mod watch;

/// The protocol number of our routes and rules, as `ip route` shows it: what tells them from others'.
pub const PROTOCOL: u8 = 112;

/// What a device's alias begins with if this daemon made it.
pub const ALIAS: &str = "Penstock";

/// The desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The TUN device.
    pub device: String,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
    /// Its MTU in bytes.
    pub mtu: u16,
    /// What leads into it.
    pub routes: Vec<Route>,
    /// The mark of our own sockets.
    pub mark: u32,
    /// The table of our routes.
    pub table: u32,
}

/// A route into the device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// The destination.
    pub subnet: IpNet,
    /// The preferred source address.
    pub source: Option<IpAddr>,
}

/// What the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {reason}")]
pub struct NetlinkError {
    what: String,
    reason: String,
    code: i32,
}

impl NetlinkError {
    fn new(what: impl Into<String>, error: rtnetlink::Error) -> Self {
        let (reason, code) = match error {
            rtnetlink::Error::NetlinkError(message) => (reason(&message), message.raw_code()),
            other => (other.to_string(), 0),
        };
        Self { what: what.into(), reason, code }
    }

    /// Whether the kernel answered with this errno.
    fn is(&self, errno: i32) -> bool {
        self.code == -errno
    }
}

fn reason(message: &ErrorMessage) -> String {
    io::Error::from_raw_os_error(-message.raw_code()).to_string()
}

/// A connection to the kernel's routing tables.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: rtnetlink::Handle,
}

impl Netlink {
    /// Opens the connection; its driver runs in the current runtime.
    ///
    /// # Errors
    /// If the socket cannot be had.
    pub fn connect() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Brings the device, its addresses, the routes and the rules to the plan. The device must be there.
    ///
    /// # Errors
    /// The first refusal; what was done before it stays, and another call goes on from there.
    pub async fn apply(&self, plan: &Plan) -> Result<(), NetlinkError> {
        self.bring(plan, &[]).await
    }

    /// Brings everything from one plan for a device to another. What both have is not touched.
    ///
    /// # Errors
    /// As [`Netlink::apply`].
    pub async fn change(&self, from: &Plan, to: &Plan) -> Result<(), NetlinkError> {
        self.bring(to, &from.addresses).await
    }

    /// `earlier` are addresses that we gave a device which is not ours to clear.
    async fn bring(&self, plan: &Plan, earlier: &[IpNet]) -> Result<(), NetlinkError> {
        let link = self.prepare_link(plan).await?;
        self.add_addresses(plan, &link).await?;
        self.raise_link(&link).await?;
        self.apply_routes(plan, link.index).await?;
        // Only now: with an address the kernel removes the routes that name it as their source.
        self.delete_stale_addresses(plan, &link, earlier).await?;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            self.apply_rules(family, &rule::wanted(plan, family)).await?;
        }
        Ok(())
    }

    /// Takes away what [`Netlink::apply`] made. The device goes too if this daemon made it.
    ///
    /// # Errors
    /// The first refusal; what is gone already is none.
    pub async fn remove(&self, plan: &Plan) -> Result<(), NetlinkError> {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            self.apply_rules(family, &[]).await?;
        }
        let Some(link) = self.link(&plan.device).await? else { return Ok(()) };
        if link.ours {
            return self.delete_link(&link).await;
        }
        self.apply_routes(&Plan { routes: Vec::new(), ..plan.clone() }, link.index).await?;
        self.delete_addresses(&link, &plan.addresses).await
    }
}

fn protocol() -> RouteProtocol {
    RouteProtocol::from(PROTOCOL)
}

fn family_of(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
