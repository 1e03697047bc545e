//! What the engine says unasked, to the writer only. Each kind is bounded in rate; what is left out is counted.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::address::Endpoint;
use crate::frame::{Body, Kind};

/// An IKE message that arrived at a core's socket; its bytes (without the non-ESP marker) stand behind.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct StrayIke {
    /// Where it came from.
    pub from: Endpoint,
    /// Our address and port that it came to.
    pub to: Endpoint,
}
impl Body for StrayIke {
    const KIND: Kind = Kind::StrayIke;
}

/// A packet came for an SPI that no SA has.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct UnknownSpi {
    /// The SPI.
    pub spi: U32,
    /// Where it came from; nothing about this is authenticated.
    pub from: Endpoint,
}
impl Body for UnknownSpi {
    const KIND: Kind = Kind::UnknownSpi;
}

/// Which limit of a key was reached.
pub mod limit {
    /// Soft: a new key is wanted.
    pub const SOFT: u8 = 0;
    /// Hard: the key is no longer used.
    pub const HARD: u8 = 1;
}

/// A key reached one of its limits.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SaLimit {
    /// Our inbound SPI of the pair.
    pub spi: U32,
    /// A [`limit`].
    pub limit: u8,
    /// 1: the outbound key, 0: the inbound one.
    pub outbound: u8,
    /// Zero.
    pub reserved: [u8; 2],
}
impl Body for SaLimit {
    const KIND: Kind = Kind::SaLimit;
}

/// An authenticated packet came from another address or port than the SA's.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PeerMoved {
    /// Our inbound SPI.
    pub spi: U32,
    /// Where the packet came from.
    pub from: Endpoint,
}
impl Body for PeerMoved {
    const KIND: Kind = Kind::PeerMoved;
}

/// A packet wants an SA: the policy has none (`per_core` 0), or this core has none of its own yet.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Acquire {
    /// The policy.
    pub policy: U32,
    /// The core that has the traffic.
    pub core: U16,
    /// 1: the policy has a fallback SA and per-core ones are wanted.
    pub per_core: u8,
    /// Zero.
    pub reserved: u8,
}
impl Body for Acquire {
    const KIND: Kind = Kind::Acquire;
}

/// A waiting outbound SA has taken over.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct OutboundActive {
    /// Our inbound SPI of the pair.
    pub spi: U32,
}
impl Body for OutboundActive {
    const KIND: Kind = Kind::OutboundActive;
}

/// The kernel refused a send as larger than the path (EMSGSIZE).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PathMtu {
    /// Our inbound SPI of the pair.
    pub spi: U32,
    /// Bytes of the UDP payload that was refused.
    pub refused: U16,
    /// Zero.
    pub reserved: U16,
}
impl Body for PathMtu {
    const KIND: Kind = Kind::PathMtu;
}
