//! A short hint for every reason why packets die: what it usually means and where to look.

use penstock_uapi::{Counter, Drop};

use crate::admin::{Peer, PeerState};

/// What to try when a peer is not up: what the daemon says, or what its reason usually calls for; nothing for one that is up.
#[must_use]
pub fn remedy(peer: &Peer) -> Option<String> {
    if peer.state == PeerState::Up || peer.remedy.is_some() {
        return peer.remedy.clone().filter(|_| peer.state != PeerState::Up);
    }
    if peer.state == PeerState::Down {
        return Some(format!("penstock up {}", peer.name));
    }
    if let Some(refused) = refused(peer) {
        return Some(refused);
    }
    let reason = peer.reason.as_deref().unwrap_or_default();
    Some(match peer.state {
        PeerState::Waiting if peer.endpoint.is_empty() => {
            "does its penstockd run, and does UDP from there reach us? a firewall between?".into()
        }
        PeerState::Waiting => format!("penstock up {} tries at once", peer.name),
        _ if ["does not answer", "no answer"].iter().any(|word| reason.contains(word)) => {
            format!("does penstockd run there, and does UDP reach {}? a firewall between, or another port?", peer.endpoint)
        }
        _ => format!("penstockd's log says more; penstock up {} tries at once", peer.name),
    })
}

/// What to compare where one side has refused the other; nothing if that is not what the peer's reason says.
fn refused(peer: &Peer) -> Option<String> {
    let reason = peer.reason.as_deref()?;
    let says = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    if says(&["AUTHENTICATION_FAILED", "says it is"]) {
        Some(format!("compare both sites: the key; \"{}\" must be their remote_id, \"{}\" their local_id", peer.local_id, peer.remote_id))
    } else if says(&["TS_UNACCEPTABLE", "selectors", "no common subnets"]) {
        Some("local_subnets here must be subnets there, and the other way round".into())
    } else if says(&["first difference: key exchange", "which we did not offer"]) {
        Some("let the other site offer X25519, P-256 or P-384 (curve25519, ecp256 or ecp384 in other daemons' words)".into())
    } else if says(&["IKE proposal", "for IKE"]) {
        Some("compare ike_suites here with the IKE proposals there; AES-GCM with X25519, P-256 or P-384 fits always".into())
    } else if says(&["ESP proposal", "NO_PROPOSAL_CHOSEN", "proposal"]) {
        Some("compare suites here with the ESP proposals there; only AES-GCM with a 16-octet ICV fits".into())
    } else {
        None
    }
}

/// The hint for a reason by its name; nothing for a name that a newer daemon made up.
pub(super) fn drop_hint(name: &str) -> &'static str {
    Drop::ALL.iter().find(|reason| reason.name() == name).map_or("", |reason| hint(*reason))
}

fn hint(reason: Drop) -> &'static str {
    match reason {
        Drop::OutboundMalformed => "a broken packet was sent into the interface",
        Drop::NoRoute => "no peer has this destination: add it to a peer's subnets, or correct a route to the interface",
        Drop::SourceNotLocal => "the source is in no local_subnets: a masquerade rule?",
        Drop::NoSa => "the peer was not up; nothing left in clear",
        Drop::TooBig => "larger than the interface's MTU: did someone change the MTU?",
        Drop::KeyExhausted => "a key reached its limit before it was renewed: does penstockd run?",
        Drop::Stale => "waited too long while the engine was started again",
        Drop::Loop => "our own encrypted packets came back into the interface: is the ip rule for the mark gone?",
        Drop::OutboundNoBuffer => "more packets than send buffers: the network is slower than the senders",
        Drop::OutboundHandoffFull => "one core has the peer's only SA and cannot keep up",
        Drop::SendFiltered => "a local firewall rule refuses our UDP packets",
        Drop::SendUnreachable => "no route to the peer's endpoint, or the link is down",
        Drop::SendTooBig => "the path to the peer takes smaller packets: lower the interface's mtu",
        Drop::SendNoBuffer => "the network card's queue was full",
        Drop::SendFailed => "the kernel refused to send",
        Drop::Runt => "too short for ESP: a scan, or another program's packets",
        Drop::Truncated => "larger than any packet of a peer can be",
        Drop::UnknownSpi => "for an SA that is gone: normal just after a restart, else a stray peer",
        Drop::Replay => "received before: the network doubles packets, or someone replays them",
        Drop::ReplayWindow => "far too late: heavy reordering? raise the peer's window",
        Drop::BadIcv => "altered on the way, or not from the peer",
        Drop::InboundKeyExhausted => "a key reached its limit before it was renewed: does penstockd run?",
        Drop::Parked => "came before its key and did not fit the waiting room",
        Drop::StrayIkeLost => "more IKE messages than penstockd could take: a flood?",
        Drop::InboundNoBuffer => "more packets than the core could decrypt",
        Drop::InboundHandoffFull => "one core has the peer's only SA and cannot keep up",
        Drop::BadPadding => "the peer pads against RFC 4303: a bug there",
        Drop::BadNextHeader => "the peer sent something that is no IP packet",
        Drop::Dummy => "the peer's cover traffic, as intended",
        Drop::InboundMalformed => "the peer sent a broken inner packet",
        Drop::SourceNotPeer => "the peer sent from outside its subnets: do both sites name the same prefixes?",
        Drop::DestinationNotLocal => "the peer sent to outside local_subnets: do both sites name the same prefixes?",
        Drop::Ecn => "congested on the way, and the sender cannot be told otherwise",
        Drop::TunRefused => "the interface took no packet: is it down?",
    }
}

/// The hint for a counter that ought to stay at zero; `None` for all others.
pub(super) fn counter_hint(counter: Counter) -> Option<&'static str> {
    match counter {
        Counter::ReceiveQueueOverflows => Some("datagrams lost before us, the socket's buffer was full: raise net.core.rmem_max"),
        Counter::ControlTruncations => Some("receives whose control messages did not fit"),
        Counter::EventsLost => Some("events that penstockd could not take in time"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{drop_hint, remedy};
    use crate::admin::{Peer, PeerState};
    use penstock_uapi::Drop;

    #[test]
    fn a_peer_that_is_not_up_always_has_something_to_try() {
        let peer = |state: PeerState, reason: &str| Peer {
            name: "london".into(),
            endpoint: "203.0.113.7:4500".into(),
            local_id: "frankfurt".into(),
            remote_id: "uk".into(),
            state,
            reason: Some(reason.into()),
            ..Peer::default()
        };
        for (reason, part) in [
            ("london does not answer: 6 tries in 30 s", "does UDP reach 203.0.113.7:4500"),
            (
                "london refused us: AUTHENTICATION_FAILED: it does not know us as name frankfurt, is not name uk itself, or has another key",
                "\"frankfurt\" must be their remote_id, \"uk\" their local_id",
            ),
            ("we refused london: it says it is paris", "must be their remote_id"),
            (
                "we refused 203.0.113.7:4500, which says it is uk: its proof does not fit the key that we share with it",
                "must be their remote_id",
            ),
            ("london refused us: NO_PROPOSAL_CHOSEN for the first child: it takes nothing of our offer [AES_GCM_16_256]", "compare suites"),
            (
                "london refused us: NO_PROPOSAL_CHOSEN: it takes nothing of our offer [AES_GCM_16_256 + X25519] for IKE",
                "compare ike_suites",
            ),
            ("no common IKE proposal: ours [X], theirs [Y]; first difference: encryption: ours X, theirs Y", "compare ike_suites"),
            (
                "no common IKE proposal: ours [X], theirs [Y]; first difference: key exchange: ours X25519, theirs MODP_1024, which is too weak",
                "curve25519",
            ),
            ("london refused us: TS_UNACCEPTABLE for the first child", "local_subnets here must be subnets there"),
            (
                "london is incompatible: no common subnets: ours [10.43.43.0/24 to 10.43.100.0/24], theirs [10.43.43.0/24 to 10.9.0.0/16]",
                "local_subnets here must be subnets there",
            ),
            ("something new", "penstockd's log says more"),
        ] {
            let tried = remedy(&peer(PeerState::Connecting, reason)).expect("something to try");
            assert!(tried.contains(part), "{reason}: {tried}");
        }
        // One that has to come was refused when it came: that counts, not that it is waited for.
        let came = remedy(&peer(
            PeerState::Waiting,
            "waits for it to come; before, we refused 1.2.3.4:4500, which says it is paris: no such peer",
        ));
        assert!(came.is_some_and(|tried| tried.contains("must be their remote_id")));
        assert_eq!(remedy(&peer(PeerState::Waiting, "waits for it to come")).as_deref(), Some("penstock up london tries at once"));
        assert_eq!(remedy(&peer(PeerState::Down, "closed")).as_deref(), Some("penstock up london"));
        assert_eq!(remedy(&peer(PeerState::Up, "")), None);
        let told = Peer { remedy: Some("do this".into()), ..peer(PeerState::Connecting, "london does not answer") };
        assert_eq!(remedy(&told).as_deref(), Some("do this"));
    }

    #[test]
    fn every_reason_has_a_hint_and_unknown_names_have_none() {
        for reason in Drop::ALL {
            assert!(drop_hint(reason.name()).len() > 10, "{}", reason.name());
        }
        assert_eq!(drop_hint("invented_later"), "");
    }
}
