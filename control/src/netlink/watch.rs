//! Somebody else took away what is ours: the kernel tells, and it is put back.

use std::io;

use futures_util::StreamExt;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::rule::RuleAttribute;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage as Message};
use tokio::sync::mpsc;

use super::{Netlink, NetlinkError, Plan, protocol, rule};

/// What was missing and is there again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PutBack {
    /// The device had another name.
    pub renamed: bool,
    /// The device was down.
    pub raised: bool,
    /// Addresses of the device.
    pub addresses: usize,
    /// Routes into it.
    pub routes: usize,
    /// Rules.
    pub rules: usize,
}

/// Tells when something of ours may have gone; several losses are told once. `index` is the device's, by which it is known under another name.
///
/// # Errors
/// If the socket cannot be had.
pub fn watch(device: String, mut index: u32) -> io::Result<mpsc::Receiver<()>> {
    use MulticastGroup::{Ipv4Ifaddr, Ipv4Route, Ipv4Rule, Ipv6Ifaddr, Ipv6Route, Ipv6Rule, Link};
    let groups = [Link, Ipv4Ifaddr, Ipv6Ifaddr, Ipv4Route, Ipv6Route, Ipv4Rule, Ipv6Rule];
    let (connection, _, mut messages) = rtnetlink::new_multicast_connection(&groups)?;
    tokio::spawn(connection);
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some((message, _)) = messages.next().await {
            let may_be_ours = match message.payload {
                NetlinkPayload::InnerMessage(message) => concerns(&message, &device, &mut index),
                // More happened than the socket could hold.
                NetlinkPayload::Overrun(_) => true,
                _ => false,
            };
            // One that waits already says it all.
            if may_be_ours && matches!(sender.try_send(()), Err(mpsc::error::TrySendError::Closed(()))) {
                return;
            }
        }
    });
    Ok(receiver)
}

fn concerns(message: &RouteNetlinkMessage, device: &str, index: &mut u32) -> bool {
    let named = |link: &LinkMessage| link.attributes.contains(&LinkAttribute::IfName(device.to_owned()));
    match message {
        Message::DelRoute(route) => route.header.protocol == protocol(),
        Message::DelRule(rule) => rule.attributes.contains(&RuleAttribute::Protocol(protocol())),
        Message::DelLink(link) => named(link),
        Message::NewLink(link) if named(link) => {
            // One that was made again has another index.
            *index = link.header.index;
            !link.header.flags.contains(LinkFlags::Up)
        }
        Message::NewLink(link) => link.header.index == *index,
        // Whose it was is found out by looking.
        Message::DelAddress(_) => true,
        _ => false,
    }
}

impl Netlink {
    /// Puts back what of the plan is missing, its name first if the device is now called `name`.
    ///
    /// # Errors
    /// The first refusal; another call goes on from there.
    pub async fn put_back(&self, plan: &Plan, name: &str) -> Result<PutBack, NetlinkError> {
        let gone = || NetlinkError { what: format!("put back what {} had", plan.device), reason: "it is gone".into(), code: 0 };
        let renamed = name != plan.device;
        if renamed {
            self.rename(name, &plan.device).await?;
        }
        let link = self.link(&plan.device).await?.ok_or_else(gone)?;
        let addresses = self.add_addresses(plan, &link).await?;
        if !link.up {
            self.raise_link(&link).await?;
        }
        let routes = self.apply_routes(plan, link.index).await?;
        let mut rules = 0;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            rules += self.apply_rules(family, &rule::wanted(plan, family)).await?;
        }
        Ok(PutBack { renamed, raised: !link.up, addresses, routes, rules })
    }
}
