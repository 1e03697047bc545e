//! Routes: ours into the device, in a table of their own, and questions about everybody's.

use std::collections::HashSet;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteScope, RouteType};

use super::{Netlink, NetlinkError, Plan, Route, family_of, protocol};

/// A route that the kernel has, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Present {
    subnet: IpNet,
    source: Option<IpAddr>,
    device: Option<u32>,
    table: u32,
    gateway: bool,
    message: RouteMessage,
}

impl Netlink {
    /// Adds the plan's routes, and removes ours that the plan no longer has. What is there and right is not touched, and what is
    /// there with another source is replaced in one step: no packet finds a moment without a route. Returns how many were added.
    pub(super) async fn apply_routes(&self, plan: &Plan, device: u32) -> Result<usize, NetlinkError> {
        let mut count = 0;
        let subnets: HashSet<IpNet> = plan.routes.iter().map(|route| route.subnet).collect();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let all = self.routes(family).await?;
            let ours: Vec<_> =
                all.iter().filter(|route| route.table == plan.table && route.message.header.protocol == protocol()).collect();
            let right: HashSet<Route> = ours
                .iter()
                .filter(|route| route.device == Some(device))
                .map(|route| Route { subnet: route.subnet, source: route.source })
                .collect();
            for stale in ours.iter().filter(|route| !subnets.contains(&route.subnet)) {
                self.delete_route(stale).await?;
            }
            for route in plan.routes.iter().filter(|route| family_of(route.subnet.addr()) == family && !right.contains(route)) {
                self.add_route(plan, device, route).await?;
                count += 1;
            }
        }
        Ok(count)
    }

    async fn add_route(&self, plan: &Plan, device: u32, route: &Route) -> Result<(), NetlinkError> {
        let message = message(plan, device, route);
        let added = self.handle.route().add(message).replace().execute().await;
        added.map_err(|error| NetlinkError::new(format!("route {} to {}", route.subnet, plan.device), error))
    }

    async fn delete_route(&self, route: &Present) -> Result<(), NetlinkError> {
        let deleted = self.handle.route().del(route.message.clone()).execute().await;
        match deleted.map_err(|error| NetlinkError::new(format!("remove the route to {}", route.subnet), error)) {
            Err(error) if error.is(libc::ESRCH) || error.is(libc::ENOENT) => Ok(()),
            other => other,
        }
    }

    async fn routes(&self, family: AddressFamily) -> Result<Vec<Present>, NetlinkError> {
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        let answer: Result<Vec<_>, _> = self.handle.route().get(question).execute().try_collect().await;
        match answer {
            Ok(messages) => Ok(messages.into_iter().filter_map(present).collect()),
            Err(error) => Err(NetlinkError::new("list routes", error)),
        }
    }

    /// The networks that this machine is directly connected to by another device than this one.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub async fn connected(&self, device: &str) -> Result<HashSet<IpNet>, NetlinkError> {
        let ours = self.link(device).await?.map(|link| link.index);
        let mut connected = HashSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let direct = self.routes(family).await?.into_iter().filter(|route| {
                route.table == u32::from(RouteHeader::RT_TABLE_MAIN) && !route.gateway && route.device.is_some() && route.device != ours
            });
            connected.extend(direct.map(|route| route.subnet));
        }
        Ok(connected)
    }

    /// The MTU of the link by which marked packets to this address leave; `None` without a route.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub async fn path_mtu(&self, to: IpAddr, mark: u32) -> Result<Option<u32>, NetlinkError> {
        let question = match to {
            IpAddr::V4(v4) => RouteMessageBuilder::<std::net::Ipv4Addr>::new().destination_prefix(v4, 32).mark(mark).build(),
            IpAddr::V6(v6) => RouteMessageBuilder::<std::net::Ipv6Addr>::new().destination_prefix(v6, 128).mark(mark).build(),
        };
        let Ok(Some(answer)) = self.handle.route().get(question).execute().try_next().await else { return Ok(None) };
        let device = answer.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        });
        match device {
            Some(index) => Ok(self.link_at(index).await?.map(|link| link.mtu)),
            None => Ok(None),
        }
    }
}

fn message(plan: &Plan, device: u32, route: &Route) -> RouteMessage {
    let mut message = match route.subnet {
        IpNet::V4(v4) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .destination_prefix(v4.network(), v4.prefix_len())
            .output_interface(device)
            .table_id(plan.table)
            .protocol(protocol())
            .scope(RouteScope::Link)
            .build(),
        IpNet::V6(v6) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
            .destination_prefix(v6.network(), v6.prefix_len())
            .output_interface(device)
            .table_id(plan.table)
            .protocol(protocol())
            .build(),
    };
    match route.source {
        Some(IpAddr::V4(ip)) => message.attributes.push(RouteAttribute::PrefSource(RouteAddress::Inet(ip))),
        Some(IpAddr::V6(ip)) => message.attributes.push(RouteAttribute::PrefSource(RouteAddress::Inet6(ip))),
        None => (),
    }
    message
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

/// Reads a unicast route; others (local, broadcast, unreachable) are nothing to us.
fn present(message: RouteMessage) -> Option<Present> {
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let (mut destination, mut source, mut device, mut gateway) = (None, None, None, false);
    let mut table = u32::from(message.header.table);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip_of(address),
            RouteAttribute::PrefSource(address) => source = ip_of(address),
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_) => gateway = true,
            _ => (),
        }
    }
    let nowhere = || match message.header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        _ => IpAddr::from([0; 16]),
    };
    let subnet = IpNet::new(destination.unwrap_or_else(nowhere), message.header.destination_prefix_length).ok()?;
    Some(Present { subnet, source, device, table, gateway, message })
}
