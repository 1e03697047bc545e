//! The names of everything the engine counts. Sums match exactly; the rules stand at [`Counter`].

macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$case_doc:meta])* $case:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(usize)]
        pub enum $name { $($(#[$case_doc])* $case,)* }

        impl $name {
            /// Every case, in the order in which values travel.
            pub const ALL: &'static [Self] = &[$(Self::$case,)*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name that people and scripts see.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$case => $text,)* }
            }

            /// The place of this case in [`Self::ALL`].
            #[must_use]
            pub fn index(self) -> usize {
                self as usize
            }
        }
    };
}

named! {
    /// What one core counts. These sums hold exactly whenever the core is between two batches:
    ///
    /// * `outbound_packets + outbound_handoff_in = sealed_packets + outbound_handoff_out +` waiting now ` + ` drops of [`Stage::Outbound`]
    /// * `sealed_packets = sent_packets + ` drops of [`Stage::Send`] ` + ` packets in flight
    /// * `inbound_frames + inbound_handoff_in = opened_packets + inbound_handoff_out + keepalives + stray_ike +` parked now ` + ` drops of [`Stage::Inbound`]
    /// * `opened_packets = delivered_packets + ` drops of [`Stage::Deliver`] ` + ` packets in flight
    Counter {
        /// Super-packets and packets read from the TUN queue.
        TunReads = "tun_reads",
        /// Packets read from the TUN queue, a super-packet counted as the packets it is cut into.
        OutboundPackets = "outbound_packets",
        /// Inner bytes of those.
        OutboundBytes = "outbound_bytes",
        /// Outbound packets given to the core that owns the peer's only SA.
        OutboundHandoffOut = "outbound_handoff_out",
        /// Outbound packets taken from other cores.
        OutboundHandoffIn = "outbound_handoff_in",
        /// Packets sealed.
        SealedPackets = "sealed_packets",
        /// Inner bytes sealed.
        SealedBytes = "sealed_bytes",
        /// UDP sends, each a run of one or more packets.
        UdpSends = "udp_sends",
        /// Packets that the kernel took for sending.
        SentPackets = "sent_packets",
        /// UDP receives, each a buffer of one or more datagrams.
        UdpReceives = "udp_receives",
        /// Datagrams received that were meant as ESP, IKE or keepalive.
        InboundFrames = "inbound_frames",
        /// Inbound frames given to the core that owns their SA.
        InboundHandoffOut = "inbound_handoff_out",
        /// Inbound frames taken from other cores or from control.
        InboundHandoffIn = "inbound_handoff_in",
        /// NAT keepalives (RFC 3948 section 2.3).
        Keepalives = "keepalives",
        /// IKE messages found on a core's socket and passed to control.
        StrayIke = "stray_ike",
        /// Packets authenticated and decrypted.
        OpenedPackets = "opened_packets",
        /// Inner bytes of those.
        OpenedBytes = "opened_bytes",
        /// Writes to the TUN queue, each a packet or a merged super-packet.
        TunWrites = "tun_writes",
        /// Packets that the kernel took from us, a merged super-packet counted as its parts.
        DeliveredPackets = "delivered_packets",
        /// Datagrams that the kernel threw away because a socket's receive buffer was full (SO_RXQ_OVFL).
        ReceiveQueueOverflows = "receive_queue_overflows",
        /// Receives whose control messages did not fit (MSG_CTRUNC).
        ControlTruncations = "control_truncations",
        /// Flows seen to change between handoff and the core's own SA.
        FlowMoves = "flow_moves",
        /// Times the ring had no buffer left and a multishot request was armed again.
        BufferShortages = "buffer_shortages",
        /// Times the worker went to sleep.
        Sleeps = "sleeps",
        /// Events for control that found their queue full.
        EventsLost = "events_lost",
    }
}

named! {
    /// Why a packet was not delivered.
    Drop {
        /// Outbound: not a well-formed IPv4 or IPv6 packet, or a super-packet whose parts make no sense.
        OutboundMalformed = "outbound_malformed",
        /// Outbound: no peer's subnets hold the destination.
        NoRoute = "no_route",
        /// Outbound: the source lies in none of the local subnets agreed with the peer (often a masquerade rule).
        SourceNotLocal = "source_not_local",
        /// Outbound: the peer has no outbound SA now.
        NoSa = "no_sa",
        /// Outbound: larger than the interface's MTU and not a super-packet.
        TooBig = "too_big",
        /// Outbound: the key reached its hard limit.
        KeyExhausted = "key_exhausted",
        /// Outbound: waited over a second in the TUN queue while no engine ran.
        Stale = "stale",
        /// Outbound: one of our own encapsulated packets came back through the TUN device.
        Loop = "loop",
        /// Outbound: no send buffer was free.
        OutboundNoBuffer = "outbound_no_buffer",
        /// Outbound: the queue to the core that owns the SA was full.
        OutboundHandoffFull = "outbound_handoff_full",
        /// Send: refused by a local packet filter (EPERM).
        SendFiltered = "send_filtered",
        /// Send: no route to the peer's endpoint, or link down.
        SendUnreachable = "send_unreachable",
        /// Send: larger than the path to the peer allows (EMSGSIZE).
        SendTooBig = "send_too_big",
        /// Send: the kernel had no buffer (ENOBUFS, ENOMEM, EAGAIN).
        SendNoBuffer = "send_no_buffer",
        /// Send: any other error.
        SendFailed = "send_failed",
        /// Inbound: too short for an ESP packet with its ICV, or a ciphertext that is not a multiple of four.
        Runt = "runt",
        /// Inbound: cut short by the kernel because it did not fit a buffer (MSG_TRUNC).
        Truncated = "truncated",
        /// Inbound: no SA with this SPI.
        UnknownSpi = "unknown_spi",
        /// Inbound: a sequence number that was received before.
        Replay = "replay",
        /// Inbound: a sequence number left of the replay window.
        ReplayWindow = "replay_window",
        /// Inbound: the ICV does not match.
        BadIcv = "bad_icv",
        /// Inbound: the SA's key reached its hard limit.
        InboundKeyExhausted = "inbound_key_exhausted",
        /// Inbound: came for an announced SPI, but waited too long or did not fit.
        Parked = "parked",
        /// Inbound: an IKE message that control could not take.
        StrayIkeLost = "stray_ike_lost",
        /// Inbound: no buffer to decrypt into was free.
        InboundNoBuffer = "inbound_no_buffer",
        /// Inbound: the queue to the core that owns the SA was full.
        InboundHandoffFull = "inbound_handoff_full",
        /// Deliver: padding or pad length wrong (RFC 4303 section 2.4).
        BadPadding = "bad_padding",
        /// Deliver: next header is none that a tunnel carries.
        BadNextHeader = "bad_next_header",
        /// Deliver: a dummy packet (RFC 4303 section 2.6), as intended by the sender.
        Dummy = "dummy",
        /// Deliver: not a well-formed IP packet, or longer or shorter than it says.
        InboundMalformed = "inbound_malformed",
        /// Deliver: the inner source is not one of this peer's subnets.
        SourceNotPeer = "source_not_peer",
        /// Deliver: the inner destination is not one of the local subnets agreed with the peer.
        DestinationNotLocal = "destination_not_local",
        /// Deliver: congestion marked outside, but the inner packet cannot carry the mark (RFC 6040 section 4.2).
        Ecn = "ecn",
        /// Deliver: the TUN device refused the write.
        TunRefused = "tun_refused",
    }
}

/// Where on its way a packet died; each [`Drop`] belongs to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From the TUN read to the sealed packet.
    Outbound,
    /// From the sealed packet to the kernel's yes.
    Send,
    /// From the datagram to the authenticated packet.
    Inbound,
    /// From the authenticated packet to the TUN device.
    Deliver,
}

impl Drop {
    /// The stage in whose sum this reason is counted.
    #[must_use]
    pub fn stage(self) -> Stage {
        match self.index() {
            i if i <= Self::OutboundHandoffFull.index() => Stage::Outbound,
            i if i <= Self::SendFailed.index() => Stage::Send,
            i if i <= Self::InboundHandoffFull.index() => Stage::Inbound,
            _ => Stage::Deliver,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Counter, Drop, Stage};
    use std::collections::HashSet;

    #[test]
    fn names_are_unique() {
        let names: HashSet<_> = Counter::ALL.iter().map(|c| c.name()).chain(Drop::ALL.iter().map(|d| d.name())).collect();
        assert_eq!(names.len(), Counter::COUNT + Drop::COUNT);
    }

    #[test]
    fn stages_follow_the_order_of_the_way() {
        assert_eq!(Drop::Loop.stage(), Stage::Outbound);
        assert_eq!(Drop::SendFiltered.stage(), Stage::Send);
        assert_eq!(Drop::Runt.stage(), Stage::Inbound);
        assert_eq!(Drop::BadPadding.stage(), Stage::Deliver);
        assert_eq!(Drop::TunRefused.stage(), Stage::Deliver);
    }
}
