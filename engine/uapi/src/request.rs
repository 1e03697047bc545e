//! What control asks of the engine. Every request is answered once with [`crate::Status`].

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::address::{Endpoint, Prefix};
use crate::frame::{Body, Kind};

/// "PENS", the first word of a hello.
pub const MAGIC: u32 = 0x534e_4550;

macro_rules! body {
    ($name:ident, $kind:ident) => {
        impl Body for $name {
            const KIND: Kind = Kind::$kind;
        }
    };
}

/// The first message of a client.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Hello {
    /// [`MAGIC`].
    pub magic: U32,
    /// [`crate::VERSION`].
    pub version: U16,
    /// 1: wants to write; 0: reads only.
    pub writer: u8,
    /// Zero.
    pub reserved: u8,
}
body!(Hello, Hello);

/// Hands over the descriptors of one core, which stand beside the frame in the order of [`crate::Role::ALL`]. With
/// core 0 come control's own sockets too ([`crate::Role::Ike4`], [`crate::Role::Ike6`]), only to be kept open.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AttachCore {
    /// Which core, from 0.
    pub core: U16,
    /// The CPU to pin its worker to.
    pub cpu: U16,
    /// The bits of the roles handed over.
    pub roles: U32,
}
body!(AttachCore, AttachCore);

/// Starts the workers. Cores 0 to n-1 must be attached.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Start {
    /// How many cores.
    pub cores: U16,
    /// The TUN device's MTU in bytes.
    pub mtu: U16,
    /// Bytes of the virtio header in front of every packet on the TUN queues (10 or 12).
    pub vnet_header_bytes: u8,
    /// The engine generation of the SPIs, 0 to 3.
    pub generation: u8,
    /// [`feature`] bits that may be used; what the kernel lacks is left out by the engine.
    pub features: U16,
    /// How long a worker polls before it sleeps, in microseconds; 0 sleeps at once.
    pub poll_us: U32,
    /// 1: packets that wait in the TUN queues since before this engine are to be dropped where they are older than a second.
    pub drop_stale: u8,
    /// Which set of the group's members the workers read: 0 for [`crate::Role::Shared4`] and [`crate::Role::Shared6`], 1 for
    /// [`crate::Role::Second4`] and [`crate::Role::Second6`]. The others are only kept open.
    pub set: u8,
    /// 1: another engine reads the TUN queues until [`TakeQueues`]. If the writer goes before, this engine ends.
    pub waits: u8,
    /// Zero.
    pub reserved: u8,
}
body!(Start, Start);

/// Tells an engine that was started to wait ([`Start::waits`]) that the TUN queues are its own now.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TakeQueues {
    /// Zero.
    pub reserved: U32,
}
body!(TakeQueues, TakeQueues);

/// Bits of [`Start::features`] and [`crate::reply::Welcome::features`].
pub mod feature {
    /// io_uring instead of plain system calls.
    pub const RING: u16 = 1;
    /// IORING_OP_READ_MULTISHOT on the TUN queue (Linux 6.7).
    pub const READ_MULTISHOT: u16 = 2;
    /// UDP_GRO on receive.
    pub const GRO: u16 = 4;
    /// UDP_SEGMENT on send.
    pub const GSO: u16 = 8;
    /// UDP super-packets to and from the TUN queue (Linux 6.2).
    pub const USO: u16 = 16;
    /// A worker to which many packets come one by one sleeps through tens of microseconds of them (Linux 6.12).
    pub const GATHER: u16 = 32;
    /// Those that there are only with a ring, and the ring.
    pub const ON_RING: u16 = RING | READ_MULTISHOT | GATHER;
    /// All of them.
    pub const ALL: u16 = 63;
    /// Names as `--without` takes them.
    pub const NAMES: [(u16, &str); 6] =
        [(RING, "ring"), (READ_MULTISHOT, "read-multishot"), (GATHER, "gather"), (GRO, "gro"), (GSO, "gso"), (USO, "uso")];
}

/// Opens a new table of policies; nothing takes effect before its [`PolicyCommit`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PolicyBegin {
    /// A number larger than that of the table in force.
    pub generation: U64,
}
body!(PolicyBegin, PolicyBegin);

/// One policy: a peer and, by its pairs, what may pass. Policies of one name are one peer's: each is for the children that agreed
/// on its pairs, and what is counted for the peer is counted at the one with the smallest number.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Policy {
    /// Control's number for it; keeps its meaning from table to table.
    pub policy: U32,
    /// 1: its pairs are those of the table in force, whose policy of this number has this name; no [`PolicyPairs`] follow. Else 0.
    pub keep: U32,
    /// The peer's name, UTF-8, padded with zeros: what a new control recognises it by.
    pub name: [u8; 64],
}
body!(Policy, Policy);

/// One agreed pair of inner subnets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Pair {
    /// Inner sources outbound, inner destinations inbound.
    pub local: Prefix,
    /// Inner destinations outbound, inner sources inbound.
    pub remote: Prefix,
}

/// Adds pairs to a policy of the open table; the [`Pair`]s stand behind it, in order of preference.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PolicyPairs {
    /// The policy.
    pub policy: U32,
    /// How many pairs follow.
    pub count: U32,
}
body!(PolicyPairs, PolicyPairs);

/// Puts the open table in force in every core, whole or not at all. SAs of policies that are gone are removed.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PolicyCommit {
    /// As in [`PolicyBegin`].
    pub generation: U64,
    /// How many policies the table must have.
    pub policies: U32,
    /// How many pairs in all.
    pub pairs: U32,
}
body!(PolicyCommit, PolicyCommit);

/// Announces an inbound SPI before its key is known: packets for it are parked (at most 64 KiB and 2 s).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ExpectSpi {
    /// The SPI; its low byte names the core.
    pub spi: U32,
    /// The policy that the SA will belong to.
    pub policy: U32,
}
body!(ExpectSpi, ExpectSpi);

/// AES-GCM with a 16-byte ICV (RFC 4106), as numbered in [`Key::suite`].
pub mod suite {
    /// 128-bit key.
    pub const AES_128_GCM_16: u8 = 1;
    /// 256-bit key.
    pub const AES_256_GCM_16: u8 = 2;
}

/// Key, salt and the rules of their use. Wiped when dropped; never printed.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Zeroize, ZeroizeOnDrop)]
#[repr(C)]
pub struct Key {
    /// The AES key, 16 or 32 bytes from the front.
    pub key: [u8; 32],
    /// The salt of the nonce (RFC 4106 section 4).
    pub salt: [u8; 4],
    /// A [`suite`].
    pub suite: u8,
    /// 1: extended sequence numbers (RFC 4303 section 2.2.1).
    pub esn: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

impl core::fmt::Debug for Key {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Key").field("suite", &self.suite).field("esn", &self.esn).finish_non_exhaustive()
    }
}

/// When a key is used up. Zero means the engine's own bound, which cannot be raised, only lowered.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Limits {
    /// Packets after which a new key is asked for.
    pub soft_packets: U64,
    /// Packets after which the key is no longer used.
    pub hard_packets: U64,
    /// 16-byte cipher blocks after which a new key is asked for (default 2^35).
    pub soft_blocks: U64,
    /// 16-byte cipher blocks after which the key is no longer used (default 2^36).
    pub hard_blocks: U64,
    /// Milliseconds of life after which the key is no longer used (default 70 minutes).
    pub hard_ms: U64,
    /// Failed authentications after which an inbound key is no longer used (default 2^36).
    pub failures: U64,
}

/// Installs an inbound SA; packets are opened with it from the answer on.
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct InstallInbound {
    /// The SPI; its low byte names the core.
    pub spi: U32,
    /// The policy whose subnets it may carry.
    pub policy: U32,
    /// Bits of the replay window, 1,024 to 65,536; rounded up to a multiple of 64.
    pub window: U32,
    /// Zero.
    pub reserved: U32,
    /// When the key is used up.
    pub limits: Limits,
    /// The key.
    pub key: Key,
}
body!(InstallInbound, InstallInbound);

/// When an outbound SA takes over from its predecessor.
pub mod switch {
    /// At once (the initiator, who has the response).
    pub const NOW: u8 = 0;
    /// On the first authenticated packet of the paired inbound SA, when the predecessor's pair is retired, or after
    /// [`super::InstallOutbound::switch_ms`] if that is not zero (the responder).
    pub const ON_INBOUND: u8 = 1;
}

/// From which socket a core sends.
pub mod source {
    /// The core's own source port.
    pub const OWN: u8 = 0;
    /// The port shared by all cores, to where the newest authenticated packet of the paired inbound SA came from.
    pub const SHARED: u8 = 1;
}

/// Installs the outbound SA that belongs to an installed inbound one.
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct InstallOutbound {
    /// The SPI that the peer chose.
    pub spi: U32,
    /// Our inbound SPI of the same pair; its core owns this SA too.
    pub inbound_spi: U32,
    /// The policy, as in the inbound SA.
    pub policy: U32,
    /// A [`switch`].
    pub switch: u8,
    /// A [`source`].
    pub source: u8,
    /// 1: packets of cores without an SA of their own are handed to this one (the fallback SA of RFC 9611).
    pub fallback: u8,
    /// 1: further per-core SAs are wanted: the engine reports an acquire when another core has traffic.
    pub per_core: u8,
    /// Milliseconds after which a waiting SA takes over anyway; 0: never.
    pub switch_ms: U32,
    /// What the outer DSCP is: 0 to 63 fixed, 255 copied from the inner packet.
    pub dscp: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// Our address (port ignored), or none.
    pub local: Endpoint,
    /// Where packets go.
    pub remote: Endpoint,
    /// When the key is used up.
    pub limits: Limits,
    /// The key.
    pub key: Key,
}
body!(InstallOutbound, InstallOutbound);

/// Ends a pair or an announced SPI. Its outbound SA sends nothing from the answer on; a waiting successor takes over.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Retire {
    /// Our inbound SPI.
    pub spi: U32,
    /// Milliseconds for which the inbound SA goes on receiving.
    pub drain_ms: U32,
}
body!(Retire, Retire);

/// The peer, or this machine, has another address: the outbound SA of a pair goes on from and to there, with its key and counter.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Redirect {
    /// Our inbound SPI of the pair.
    pub spi: U32,
    /// A [`source`].
    pub source: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// Our address (port ignored), or none.
    pub local: Endpoint,
    /// Where packets go.
    pub remote: Endpoint,
}
body!(Redirect, Redirect);

/// Gives the engine an ESP packet that control's own socket received; its bytes stand behind.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Inject {
    /// Where it came from.
    pub from: Endpoint,
    /// Our address that it came to.
    pub to: Endpoint,
    /// The outer type of service or traffic class.
    pub tos: u8,
    /// Zero.
    pub reserved: [u8; 3],
}
body!(Inject, Inject);

/// Asks for all counters and SAs: answered by [`crate::reply::CoreState`]s, [`crate::reply::PolicyState`]s and
/// [`crate::reply::SaState`]s with [`crate::Status::More`], then [`crate::Status::Done`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ReadState {
    /// Zero.
    pub reserved: U32,
}
body!(ReadState, ReadState);

/// Ends the engine. With a time to drain it reads no more of the TUN queues, sends what it has read, ends the outbound SAs, and only then
/// answers; so another engine may take the queues after the answer. A second one can only make the time shorter.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Shutdown {
    /// Milliseconds for which inbound SAs go on receiving.
    pub drain_ms: U32,
}
body!(Shutdown, Shutdown);

#[cfg(test)]
mod tests {
    use super::{Key, feature};

    #[test]
    fn all_features_have_a_name_and_only_the_rings_need_a_ring() {
        assert_eq!(feature::NAMES.iter().map(|(bit, _)| bit).sum::<u16>(), feature::ALL);
        let (needs, without) = (feature::ON_RING, feature::ALL - feature::ON_RING);
        assert_eq!(
            (needs, without),
            (feature::RING + feature::READ_MULTISHOT + feature::GATHER, feature::GRO + feature::GSO + feature::USO)
        );
    }

    #[test]
    fn a_key_does_not_show_in_debug_output() {
        let key = Key { key: [0xab; 32], salt: [0xcd; 4], suite: 2, esn: 1, reserved: [0; 2] };
        assert_eq!(format!("{key:?}"), "Key { suite: 2, esn: 1, .. }");
    }
}
