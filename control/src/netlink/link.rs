//! The device: MTU, super-packet size, alias, addresses, state.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{AfSpecInet6, AfSpecUnspec, LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::{AddressMessageBuilder, LinkUnspec};

use super::{ALIAS, Netlink, NetlinkError, Plan};

/// Packets that may wait in a TUN queue, which drops what comes beyond: a core must survive a gap of 3 ms in which the
/// scheduler runs something else, at 1.3 million small packets a second. TCP's super-packets do not fill it: a stream
/// keeps no more on its way than its window, some 6 MB or 100 of them.
const QUEUE_PACKETS: u32 = 4_000;

/// `IN6_ADDR_GEN_MODE_NONE` of linux/if_link.h.
const ADDRESSES_NONE: u8 = 1;

/// A device as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The interface index.
    pub index: u32,
    /// The MTU in bytes.
    pub mtu: u32,
    /// Its `gso_max_size` in bytes.
    pub super_packet: u32,
    /// Made by this daemon, by its alias.
    pub ours: bool,
    /// Administratively up.
    pub up: bool,
}

impl From<&LinkMessage> for Link {
    fn from(message: &LinkMessage) -> Self {
        let up = message.header.flags.contains(LinkFlags::Up);
        let mut link = Self { index: message.header.index, mtu: 0, super_packet: 0, ours: false, up };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::GsoMaxSize(bytes) => link.super_packet = *bytes,
                LinkAttribute::IfAlias(alias) => link.ours = alias.starts_with(ALIAS),
                _ => (),
            }
        }
        link
    }
}

impl Netlink {
    /// The device of that name, if there is one.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let found = self.handle.link().get().match_name(name).execute().try_next().await;
        match found.map_err(|error| NetlinkError::new(format!("look for device {name}"), error)) {
            Ok(message) => Ok(message.as_ref().map(Link::from)),
            Err(error) if error.is(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn link_at(&self, index: u32) -> Result<Option<Link>, NetlinkError> {
        let found = self.handle.link().get().match_index(index).execute().try_next().await;
        Ok(found.map_err(|error| NetlinkError::new(format!("look for device {index}"), error))?.as_ref().map(Link::from))
    }

    /// Gives the device of one name another one.
    ///
    /// # Errors
    /// The kernel's refusal, such as that another device has the name.
    pub(super) async fn rename(&self, from: &str, to: &str) -> Result<(), NetlinkError> {
        let Some(link) = self.link(from).await? else { return Ok(()) };
        let wrap = |error| NetlinkError::new(format!("name device {from} {to} again"), error);
        let set = |message| self.handle.link().set(message).execute();
        let named = || LinkUnspec::new_with_index(link.index).name(to.to_owned()).build();
        match set(named()).await.map_err(wrap) {
            // Before Linux 6.2 only a device that is down gets another name.
            Err(error) if error.is(libc::EBUSY) && link.up => {
                set(LinkUnspec::new_with_index(link.index).down().build()).await.map_err(wrap)?;
                set(named()).await.map_err(wrap)
            }
            other => other,
        }
    }

    /// Says by its alias that this daemon made the device and may remove it.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub async fn claim(&self, name: &str, site: &str) -> Result<(), NetlinkError> {
        let mut message = LinkUnspec::new_with_name(name).build();
        message.attributes.push(LinkAttribute::IfAlias(format!("{ALIAS} {site}")));
        let set = self.handle.link().set(message).execute().await;
        set.map_err(|error| NetlinkError::new(format!("name device {name}"), error))
    }

    /// MTU, super-packets and queue, all before the device is up.
    pub(super) async fn prepare_link(&self, plan: &Plan) -> Result<Link, NetlinkError> {
        let name = &plan.device;
        let absent = || NetlinkError { what: format!("set up device {name}"), reason: "it is gone".into(), code: 0 };
        let mut link = self.link(name).await?.ok_or_else(absent)?;
        let message = LinkUnspec::new_with_index(link.index).mtu(plan.mtu.into()).txqueuelen(QUEUE_PACKETS).multicast(false).build();
        let set = self.handle.link().set(message).execute().await;
        set.map_err(|error| NetlinkError::new(format!("give {name} an MTU of {}", plan.mtu), error))?;
        link.mtu = plan.mtu.into();
        self.fit_super_packets(&link, name).await?;
        // No link-local address of its own: nothing the kernel then announces could be carried. Fails where IPv6 is off.
        let mut message = LinkUnspec::new_with_index(link.index).build();
        let quiet = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(ADDRESSES_NONE.into())]);
        message.attributes.push(LinkAttribute::AfSpecUnspec(vec![quiet]));
        let _ = self.handle.link().set(message).execute().await;
        Ok(link)
    }

    pub(super) async fn raise_link(&self, link: &Link) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(link.index).up().build();
        self.handle.link().set(message).execute().await.map_err(|error| NetlinkError::new("raise the device", error))
    }

    pub(super) async fn delete_link(&self, link: &Link) -> Result<(), NetlinkError> {
        let deleted = self.handle.link().del(link.index).execute().await;
        match deleted.map_err(|error| NetlinkError::new("remove the device", error)) {
            Err(error) if error.is(libc::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// Adds the addresses that are missing; returns how many.
    pub(super) async fn add_addresses(&self, plan: &Plan, link: &Link) -> Result<usize, NetlinkError> {
        let present = self.addresses_of(link.index).await?;
        let missing: Vec<_> = plan.addresses.iter().filter(|address| !present.contains(address)).collect();
        for address in &missing {
            let mut request = self.handle.address().add(link.index, address.addr(), address.prefix_len());
            // Nobody else is on this link to ask; and an IPv6 address that is still tentative cannot be a route's source.
            request.message_mut().header.flags = AddressHeaderFlags::Nodad;
            let added = request.execute().await;
            match added.map_err(|error| NetlinkError::new(format!("give {} the address {address}", plan.device), error)) {
                Err(error) if error.is(libc::EEXIST) => (),
                other => other?,
            }
        }
        Ok(missing.len())
    }

    /// Removes the addresses that an earlier configuration gave our device, and of another's device those that are named.
    pub(super) async fn delete_stale_addresses(&self, plan: &Plan, link: &Link, earlier: &[IpNet]) -> Result<(), NetlinkError> {
        let present = if link.ours { self.addresses_of(link.index).await? } else { earlier.to_vec() };
        let stale: Vec<IpNet> = present.into_iter().filter(|address| !plan.addresses.contains(address)).collect();
        self.delete_addresses(link, &stale).await
    }

    pub(super) async fn delete_addresses(&self, link: &Link, addresses: &[IpNet]) -> Result<(), NetlinkError> {
        for address in addresses {
            let message = match address {
                IpNet::V4(v4) => AddressMessageBuilder::<Ipv4Addr>::new().index(link.index).address(v4.addr(), v4.prefix_len()).build(),
                IpNet::V6(v6) => AddressMessageBuilder::<Ipv6Addr>::new().index(link.index).address(v6.addr(), v6.prefix_len()).build(),
            };
            let deleted = self.handle.address().del(message).execute().await;
            match deleted.map_err(|error| NetlinkError::new(format!("remove the address {address}"), error)) {
                Err(error) if error.is(libc::EADDRNOTAVAIL) => (),
                other => other?,
            }
        }
        Ok(())
    }

    async fn addresses_of(&self, index: u32) -> Result<Vec<IpNet>, NetlinkError> {
        let all = self.dump_addresses().await?;
        Ok(all.iter().filter(|message| message.header.index == index).filter_map(address_of).collect())
    }

    /// Every address of this machine with its prefix length.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub async fn addresses(&self) -> Result<Vec<IpNet>, NetlinkError> {
        Ok(self.dump_addresses().await?.iter().filter_map(address_of).collect())
    }

    async fn dump_addresses(&self) -> Result<Vec<AddressMessage>, NetlinkError> {
        let all = self.handle.address().get().execute().try_collect().await;
        all.map_err(|error| NetlinkError::new("list addresses", error))
    }
}

fn address_of(message: &AddressMessage) -> Option<IpNet> {
    // IFA_LOCAL is the address itself where IFA_ADDRESS names the far end of a point-to-point link.
    let find = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(ip) if local => Some(*ip),
            AddressAttribute::Address(ip) if !local => Some(*ip),
            _ => None,
        })
    };
    let ip: IpAddr = find(true).or_else(|| find(false))?;
    IpNet::new(ip, message.header.prefix_len).ok()
}
