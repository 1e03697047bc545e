//! Outbound: from a TUN read to sealed frames in the outbox.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use penstock_uapi::reply::phase;
use penstock_uapi::{Counter, Drop};

use super::waiting::WAITING_MS_MAX;
use super::{Event, Io, Path, ecn};
use crate::esp::packet::{NEXT_HEADER_IPV4, NEXT_HEADER_IPV6, frame_bytes};
use crate::esp::seal::SealError;
use crate::packet::ip::{Ip, UDP};
use crate::policy::{Candidate, Reach};
use crate::sa::Outbound;
use crate::sa::pair::bump;
use crate::slots::Envelope;
use crate::tun::split::Split;
use crate::tun::vnet;

/// How long to wait before control is asked again for a first SA.
const ACQUIRE_MS: u64 = 1000;
/// How long to wait before control is asked again for a core's own SA.
const ACQUIRE_CORE_MS: u64 = 5000;
/// For how long after a handoff a change to the core's own SA may overtake packets.
const MOVE_MS: u64 = 2000;

/// Where a packet goes next.
enum Way {
    /// Sealed here, with the pair of this SPI.
    Here(u32),
    /// To the core with the fallback SA.
    Core(u16),
}

impl Path {
    /// A TUN read: virtio header and packet. The packet is overwritten.
    pub fn outbound(&mut self, now_ms: u64, read: &mut [u8], io: &mut Io<'_>) {
        self.now.add(Counter::TunReads, 1);
        let packets = match Read::parse(read, self.config.vnet_header_bytes) {
            Some(parsed) => {
                self.now.add(Counter::OutboundPackets, parsed.packets);
                self.now.add(Counter::OutboundBytes, parsed.ip.total as u64);
                if self.waiting.woken || !self.waiting.is_empty() && self.waited_ms != now_ms {
                    // Those that waited came first.
                    self.release(now_ms, io);
                }
                match self.forward(now_ms, read, &parsed, io) {
                    Ok(()) => return,
                    Err((Drop::NoSa, Some(policy))) if self.waiting.keep(now_ms, policy, parsed.packets, read) => return,
                    Err((reason, _)) => (parsed.packets, reason),
                }
            }
            None => {
                self.now.add(Counter::OutboundPackets, 1);
                (1, Drop::OutboundMalformed)
            }
        };
        self.now.drop(packets.1, packets.0);
    }

    /// Sends a read on its way, or says why not, and which policy it is for if it only lacks an SA.
    fn forward(&mut self, now_ms: u64, read: &mut [u8], parsed: &Read, io: &mut Io<'_>) -> Result<(), (Drop, Option<u32>)> {
        match self.way(now_ms, parsed, io)? {
            (at, Way::Here(spi)) => self.seal(read, parsed, at, spi, io),
            (at, Way::Core(core)) => self.hand_over(now_ms, read, parsed, at, core, io),
        }
        Ok(())
    }

    /// Reads that waited for an SA leave, if there is one now or their time is over.
    pub(super) fn release(&mut self, now_ms: u64, io: &mut Io<'_>) {
        self.waited_ms = now_ms;
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.sift(|waiter, read| {
            let sent = match Read::parse(read, self.config.vnet_header_bytes) {
                Some(parsed) => self.forward(now_ms, read, &parsed, io).map_err(|(reason, _)| reason),
                None => Err(Drop::OutboundMalformed),
            };
            match sent {
                Ok(()) => true,
                Err(Drop::NoSa) if now_ms.saturating_sub(waiter.since_ms) < WAITING_MS_MAX => false,
                Err(reason) => {
                    self.now.drop(reason, waiter.packets);
                    true
                }
            }
        });
        waiting.woken = false;
        self.waiting = waiting;
    }

    /// A TUN read of another core, for the SA that this one owns.
    pub fn outbound_handed(&mut self, policy: u32, read: &mut [u8], io: &mut Io<'_>) {
        let Some(parsed) = Read::parse(read, self.config.vnet_header_bytes) else {
            self.now.add(Counter::OutboundHandoffIn, 1);
            return self.now.drop(Drop::OutboundMalformed, 1);
        };
        self.now.add(Counter::OutboundHandoffIn, parsed.packets);
        // The table may have changed since; the other core has checked the addresses against the same or an older one.
        let place = self.policies.table.place(policy);
        let active = place.and_then(|at| self.policies.states.get(at).map(|state| (at, state.active)));
        match active {
            Some((at, spi)) if spi != 0 => self.seal(read, &parsed, at, spi, io),
            _ => self.now.drop(Drop::NoSa, parsed.packets),
        }
    }

    fn route(&mut self, destination: IpAddr) -> Option<Reach> {
        if let Some((last, reach)) = self.last_route
            && last == destination
        {
            return Some(reach);
        }
        let reach = self.policies.table.route(destination)?;
        self.last_route = Some((destination, reach));
        Some(reach)
    }

    /// Of the policies of the peer that a packet goes to, the one that holds its addresses and can send; else one that holds them.
    fn choose(&self, reach: Reach, source: IpAddr) -> Option<usize> {
        let table = &self.policies.table;
        let mut holding = table.candidates(reach).iter().filter(|candidate| table.holds(candidate, source)).map(Candidate::place);
        let sends = |at: &usize| {
            self.policies.states.get(*at).is_some_and(|state| state.active != 0)
                || table.policies.get(*at).is_some_and(|policy| policy.lasting.fallback().is_some())
        };
        let first = holding.next()?;
        if sends(&first) { Some(first) } else { holding.find(sends).or(Some(first)) }
    }

    fn way(&mut self, now_ms: u64, read: &Read, io: &mut Io<'_>) -> Result<(usize, Way), (Drop, Option<u32>)> {
        let ip = &read.ip;
        let reach = self.route(ip.destination).ok_or((Drop::NoRoute, None))?;
        // RFC 4301 section 5.1: both ends of the packet must be within what was agreed for the SA that it leaves by.
        let at = self.choose(reach, ip.source).ok_or((Drop::SourceNotLocal, None))?;
        let policy = self.policies.table.policies.get(at).ok_or((Drop::NoRoute, None))?;
        let state = self.policies.states.get_mut(at).ok_or((Drop::NoRoute, None))?;
        if state.active != 0 {
            return Ok((at, Way::Here(state.active)));
        }
        let fallback = policy.lasting.fallback().filter(|core| *core != self.config.core && *core < self.config.cores);
        let number = policy.id;
        let acquire = Event::Acquire { policy: number, per_core: fallback.is_some() };
        let pause = if fallback.is_some() { ACQUIRE_CORE_MS } else { ACQUIRE_MS };
        if now_ms >= state.acquire_ms {
            state.acquire_ms = now_ms.saturating_add(pause);
            self.tell(acquire, io);
        }
        fallback.map(|core| (at, Way::Core(core))).ok_or((Drop::NoSa, Some(number)))
    }

    fn hand_over(&mut self, now_ms: u64, read: &[u8], parsed: &Read, at: usize, core: u16, io: &mut Io<'_>) {
        let Some(policy) = self.policies.table.policies.get(at) else { return self.now.drop(Drop::NoRoute, parsed.packets) };
        if io.mail.outbound(core, policy.id, read) {
            self.now.add(Counter::OutboundHandoffOut, parsed.packets);
            if let Some(state) = self.policies.states.get_mut(at) {
                state.handed_ms = now_ms.max(1);
            }
        } else {
            self.now.drop(Drop::OutboundHandoffFull, parsed.packets);
        }
    }

    /// Cuts and seals a read with the pair `spi` of the policy at `at`.
    fn seal(&mut self, read: &mut [u8], parsed: &Read, at: usize, spi: u32, io: &mut Io<'_>) {
        let Self { pairs, policies, now, config, .. } = self;
        let cell = policies.table.cell(at, config.core);
        let pair = pairs.get_mut(spi).and_then(|pair| pair.outbound.as_deref_mut().zip(Some(&*pair.shared)));
        let (Some((outbound, shared)), Some(cell)) = (pair, cell) else { return now.drop(Drop::NoSa, parsed.packets) };
        let Some(packet) = read.get_mut(config.vnet_header_bytes..) else { return now.drop(Drop::OutboundMalformed, parsed.packets) };
        if is_loop(packet, &parsed.ip, outbound) {
            return now.drop(Drop::Loop, parsed.packets);
        }
        let Ok(mut split) = Split::new(&parsed.header, packet, &parsed.ip) else {
            return now.drop(Drop::OutboundMalformed, parsed.packets);
        };
        let envelope = Envelope {
            remote: outbound.remote,
            local: outbound.local,
            tos: ecn::enter(parsed.ip.tos, outbound.dscp),
            source: outbound.source,
            spi,
        };
        let next_header = if parsed.ip.v6 { NEXT_HEADER_IPV6 } else { NEXT_HEADER_IPV4 };
        let (mut packets, mut bytes, mut left) = (0u64, 0u64, parsed.packets);
        while let Some(inner) = split.next() {
            left -= 1;
            match seal_one(outbound, inner, next_header, &envelope, config.mtu, io) {
                Ok(()) => {
                    packets += 1;
                    bytes += inner.len() as u64;
                }
                Err(reason) => now.drop(reason, 1),
            }
        }
        // A segment that could not be written, and those behind it.
        now.drop(Drop::OutboundMalformed, left);
        now.add(Counter::SealedPackets, packets);
        now.add(Counter::SealedBytes, bytes);
        for (counter, amount) in [(&shared.outbound_packets, packets), (&shared.outbound_bytes, bytes)] {
            bump(counter, amount);
        }
        bump(&cell.outbound_packets, packets);
        bump(&cell.outbound_bytes, bytes);
        if let Some(hard) = outbound.limit() {
            self.tell(Event::Limit { spi, hard, outbound: true }, io);
        }
    }

    /// The pair of an SPI sends for its policy from now on.
    pub(super) fn activate(&mut self, now_ms: u64, spi: u32) {
        let Some(pair) = self.pairs.get_mut(spi) else { return };
        let Some(outbound) = pair.outbound.as_deref_mut() else { return };
        (outbound.waits, outbound.switch_at_ms) = (false, None);
        self.waiting.woken = !self.waiting.is_empty();
        let fallback = outbound.fallback;
        let Some(at) = self.policies.table.place(pair.policy) else { return };
        pair.enter(phase::ACTIVE);
        let Some(state) = self.policies.states.get_mut(at) else { return };
        let before = std::mem::replace(&mut state.active, spi);
        if before == 0 && state.handed_ms > 0 && now_ms.saturating_sub(state.handed_ms) < MOVE_MS {
            self.now.add(Counter::FlowMoves, 1);
        }
        if let Some(policy) = self.policies.table.policies.get(at)
            && fallback
        {
            policy.lasting.claim(self.config.core);
        }
        if before != 0
            && before != spi
            && let Some(old) = self.pairs.get(before)
            && old.shared.phase.load(Ordering::Relaxed) == phase::ACTIVE
        {
            old.enter(phase::INBOUND);
        }
    }
}

fn seal_one(outbound: &mut Outbound, inner: &[u8], next_header: u8, envelope: &Envelope, mtu: usize, io: &mut Io<'_>) -> Result<(), Drop> {
    if inner.len() > mtu {
        return Err(Drop::TooBig);
    }
    if outbound.expired {
        return Err(Drop::KeyExhausted);
    }
    let frame = io.outbox.reserve(envelope, frame_bytes(inner.len())).ok_or(Drop::OutboundNoBuffer)?;
    let bytes = outbound.sealer.seal(inner, next_header, frame).map_err(|error| match error {
        SealError::Exhausted => Drop::KeyExhausted,
        SealError::NoRoom => Drop::OutboundNoBuffer,
    })?;
    io.outbox.commit(bytes);
    Ok(())
}

/// One of our own encapsulated packets came back: its destination is the endpoint that it would be sent to.
fn is_loop(packet: &[u8], ip: &Ip, outbound: &Outbound) -> bool {
    let to_endpoint = ip.protocol == UDP && !ip.fragment && ip.destination == outbound.remote.ip();
    to_endpoint && packet.get(ip.header + 2..ip.header + 4) == Some(&outbound.remote.port().to_be_bytes())
}

/// What a TUN read says of itself.
struct Read {
    header: vnet::Header,
    ip: Ip,
    /// How many packets it stands for.
    packets: u64,
}

impl Read {
    fn parse(read: &mut [u8], vnet_bytes: usize) -> Option<Self> {
        let (header, packet) = read.split_at_mut_checked(vnet_bytes)?;
        let header = vnet::Header::parse(header)?;
        let ip = Ip::parse(packet)?;
        let packets = Split::new(&header, packet, &ip).ok()?.count().into();
        Some(Self { header, ip, packets })
    }
}
