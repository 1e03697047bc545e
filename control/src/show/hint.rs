//! A short hint for every reason why packets die: what it usually means and where to look.

use penstock_uapi::{Counter, Drop};

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
    use super::drop_hint;
    use penstock_uapi::Drop;

    #[test]
    fn every_reason_has_a_hint_and_unknown_names_have_none() {
        for reason in Drop::ALL {
            assert!(drop_hint(reason.name()).len() > 10, "{}", reason.name());
        }
        assert_eq!(drop_hint("invented_later"), "");
    }
}
