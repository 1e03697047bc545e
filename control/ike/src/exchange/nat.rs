//! NAT detection (RFC 7296 section 2.23): each side sends hashes of the addresses that it knows, and the other one compares
//! them with those that it sees.
//!
//! In IKE_SA_INIT a Penstock pretends a NAT in front of itself, so that every peer encapsulates ([`super::init`]). Under the
//! protection of IKE_AUTH, and of an INFORMATIONAL that confirms a move, two Penstocks tell each other the truth with the same
//! notifications, as RFC 4555 section 3.8 has it. No other peer is sent any there.

use std::net::{IpAddr, SocketAddr};

use crate::crypto::{equal, sha1};
use crate::exchange::Came;
use crate::message::{Chain, Payloads, notify};
use crate::sa::IkeSa;

/// The hash of an address and port under the initiator's SPI and the responder's.
pub(crate) fn hash((spi_i, spi_r): (u64, u64), address: SocketAddr) -> Vec<u8> {
    let ip = match address.ip() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    sha1(&[&spi_i.to_be_bytes(), &spi_r.to_be_bytes(), &ip, &address.port().to_be_bytes()])
}

/// What a message's notifications say, each if there were any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// The peer sent to an address that is not ours.
    pub(crate) here: Option<bool>,
    /// The peer's own address is not the one we see.
    pub(crate) there: Option<bool>,
}

/// Compares the hashes of a message with the way it came.
pub(crate) fn said(payloads: &Payloads<'_>, came: &Came) -> Said {
    let differs = |kind, address| {
        payloads.notify(kind)?;
        let hash = hash((came.header.spi_i, came.header.spi_r), address);
        // Who has several addresses may send a hash of each.
        Some(!payloads.notifies.iter().any(|notify| notify.kind == kind && equal(notify.data, &hash)))
    };
    Said { here: differs(notify::NAT_DETECTION_DESTINATION_IP, came.to), there: differs(notify::NAT_DETECTION_SOURCE_IP, came.from) }
}

/// Says to another Penstock what our address is, and what we take the peer's to be.
pub(crate) fn tell(chain: &mut Chain, sa: &IkeSa, local: SocketAddr, remote: SocketAddr) {
    // The kernel's choice is not known yet: nothing true can be said.
    if !sa.penstock || local.ip().is_unspecified() {
        return;
    }
    let spis = if sa.initiator { (sa.spi, sa.remote_spi) } else { (sa.remote_spi, sa.spi) };
    chain.notify(notify::NAT_DETECTION_SOURCE_IP, &hash(spis, local));
    chain.notify(notify::NAT_DETECTION_DESTINATION_IP, &hash(spis, remote));
}

/// Takes in what another Penstock said so; whether that changed anything.
pub(crate) fn learn(sa: &mut IkeSa, payloads: &Payloads<'_>, came: &Came) -> bool {
    let before = sa.nat;
    if sa.penstock {
        let said = said(payloads, came);
        (sa.nat.here, sa.nat.there) = (said.here.unwrap_or(before.here), said.there.unwrap_or(before.there));
    }
    sa.nat != before
}
