//! What the state machine asks of the daemon, and what it needs from it.

use std::fmt;
use std::net::SocketAddr;

use ipnet::IpNet;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::config::{PeerId, Suite};

/// What the state machine cannot make by itself.
pub trait Host {
    /// Fills `bytes` from a cryptographic random generator.
    fn random(&mut self, bytes: &mut [u8]);
    /// A fresh inbound SPI over 255; `core` as asked by [`crate::Ike::create_child`], `None`: any core. 0: none to give.
    fn allocate_spi(&mut self, peer: PeerId, core: Option<u16>) -> u32;
    /// As [`Host::allocate_spi`] for one more child that the peer asks for (RFC 9611): its core is ours to choose, while
    /// the first child of an IKE SA has to stand where its predecessor stood, so that it can take over from it.
    fn allocate_further_spi(&mut self, peer: PeerId) -> u32 {
        self.allocate_spi(peer, None)
    }
    /// As [`Host::allocate_spi`] for the successor of a pair with this inbound SPI: a rekey stays on its core, so that the
    /// successor takes over between two packets. A host whose SPIs name no core need not write this.
    fn allocate_successor_spi(&mut self, peer: PeerId, inbound_spi: u32) -> u32 {
        let _ = inbound_spi;
        self.allocate_spi(peer, None)
    }
}

/// Names one pair of ESP SAs, from its first step to its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChildId(pub u64);

/// The subnets agreed for a child. Every local one goes with every remote one of the same family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selectors {
    /// Inner sources outbound.
    pub local: Vec<IpNet>,
    /// Inner destinations outbound.
    pub remote: Vec<IpNet>,
}

/// The key of one direction. Wiped when dropped; never printed. The key itself stays where it was made, so that moving this leaves no copy.
#[derive(Clone, PartialEq, Eq)]
pub struct ChildKeys {
    /// The cipher.
    pub suite: Suite,
    /// Extended sequence numbers.
    pub esn: bool,
    /// The AES key, 16 or 32 bytes from the front.
    pub key: Box<[u8; 32]>,
    /// The salt (RFC 4106 section 4).
    pub salt: [u8; 4],
}

impl Drop for ChildKeys {
    fn drop(&mut self) {
        self.key.as_mut_slice().zeroize();
        self.salt.zeroize();
    }
}

impl ZeroizeOnDrop for ChildKeys {}

impl fmt::Debug for ChildKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildKeys").field("suite", &self.suite).field("esn", &self.esn).finish_non_exhaustive()
    }
}

/// When an outbound SA takes over from its predecessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At once.
    Now,
    /// On the first authenticated packet of the paired inbound SA, when the predecessor is retired, or after so many milliseconds (0: never by time).
    OnInbound {
        /// The latest moment, in milliseconds from now; 0: none.
        or_after_ms: u32,
    },
}

/// What NAT detection (RFC 7296 section 2.23) said. Encapsulation in UDP is always on, so this only informs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nat {
    /// The peer reaches us at an address that is not ours: a NAT stands in front of us.
    pub here: bool,
    /// The peer's own address is not the one we see. For a Penstock this is what IKE_AUTH says, because the claim in IKE_SA_INIT is
    /// pretended.
    pub there: bool,
}

/// How important an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Part of the ordinary course.
    Info,
    /// Somebody should look at it.
    Warning,
}

/// What the daemon has to do, in this order.
#[derive(Debug)]
pub enum Output {
    /// Send a datagram, with the non-ESP marker in front. An unspecified `from` address leaves the choice to the kernel.
    Send {
        /// Our address and port.
        from: SocketAddr,
        /// The peer's.
        to: SocketAddr,
        /// The message without the marker.
        message: Vec<u8>,
    },
    /// Announce an SPI to the engine, then call [`crate::Ike::expected`].
    Expect {
        /// The child.
        child: ChildId,
        /// Whose it is.
        peer: PeerId,
        /// Our inbound SPI.
        spi: u32,
    },
    /// Install an inbound SA, then call [`crate::Ike::installed`].
    InstallInbound {
        /// The child.
        child: ChildId,
        /// Whose it is.
        peer: PeerId,
        /// Our inbound SPI.
        spi: u32,
        /// Its key.
        keys: ChildKeys,
        /// What it carries.
        selectors: Selectors,
    },
    /// Install the outbound SA of the pair, then call [`crate::Ike::activated`].
    InstallOutbound {
        /// The child.
        child: ChildId,
        /// Whose it is.
        peer: PeerId,
        /// Our inbound SPI of the pair.
        inbound_spi: u32,
        /// The peer's SPI.
        spi: u32,
        /// Its key.
        keys: ChildKeys,
        /// When it takes over.
        when: When,
        /// Our address (unspecified: the kernel's choice).
        local: SocketAddr,
        /// Where packets go.
        remote: SocketAddr,
        /// Cores without an SA of their own use this one.
        fallback: bool,
        /// More SAs, one a core, are wanted.
        per_core: bool,
        /// What NAT detection said.
        nat: Nat,
    },
    /// The peer, or this machine, has another address: the outbound SA of a pair goes on to there.
    Redirect {
        /// The child.
        child: ChildId,
        /// Whose it is.
        peer: PeerId,
        /// Our inbound SPI of the pair.
        inbound_spi: u32,
        /// Our address (unspecified: the kernel's choice).
        local: SocketAddr,
        /// Where packets go.
        remote: SocketAddr,
        /// What NAT detection said.
        nat: Nat,
    },
    /// Send one octet 0xff, so that the NAT in front of us remembers us (RFC 3948 section 2.3).
    Keepalive {
        /// Our address and port.
        from: SocketAddr,
        /// The peer's.
        to: SocketAddr,
    },
    /// Retire a pair or an announced SPI (unknown ones are no error).
    Retire {
        /// The child.
        child: ChildId,
        /// Whose it was.
        peer: PeerId,
        /// Our inbound SPI.
        inbound_spi: u32,
        /// For how long the inbound SA goes on receiving.
        drain_ms: u32,
    },
    /// A child carries traffic both ways.
    Up {
        /// Whose it is.
        peer: PeerId,
        /// The child.
        child: ChildId,
        /// Our inbound SPI.
        inbound_spi: u32,
        /// What it carries.
        selectors: Selectors,
        /// Whether it is the one that cores without their own use.
        fallback: bool,
        /// The child that it replaces, after a rekey.
        replaces: Option<ChildId>,
    },
    /// The peer has no child left, or a try to reach it failed.
    Down {
        /// Whose.
        peer: PeerId,
        /// Why, for people.
        reason: String,
    },
    /// Nothing was heard of the peer by IKE for a while: look when its last packet came, then call [`crate::Ike::heard`].
    Quiet {
        /// Whose.
        peer: PeerId,
    },
    /// Something worth a line in the log; bounded in rate.
    Event {
        /// Whom it is about, if that is known.
        peer: Option<PeerId>,
        /// How important.
        level: Level,
        /// One line.
        text: String,
    },
}
