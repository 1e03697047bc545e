//! Inbound: from a received buffer to packets and super-packets in the inbox.

use penstock_uapi::{Counter, Drop, Spi};

use super::{EVENT_MS, Event, Io, Path, Receive, ecn};
use crate::esp;
use crate::esp::packet::{NEXT_HEADER_IPV4, NEXT_HEADER_IPV6, NEXT_HEADER_NONE};
use crate::packet::ip::Ip;
use crate::policy::{Cell, PolicyTable};
use crate::sa::pair::{Pair, bump};
use crate::slots::{Source, WriteSlot};
use crate::tun::merge::{Merge, Settled};

use std::sync::atomic::Ordering;

/// RFC 3948 section 2.3.
const KEEPALIVE: [u8; 1] = [0xff];

impl Path {
    /// A UDP receive: one or more datagrams of `receive.stride` bytes, the last one perhaps shorter.
    pub fn inbound(&mut self, now_ms: u64, receive: &Receive, datagrams: &[u8], io: &mut Io<'_>) {
        self.now.add(Counter::UdpReceives, 1);
        if datagrams.is_empty() {
            self.now.add(Counter::InboundFrames, 1);
            return self.now.drop(Drop::Runt, 1);
        }
        // UDP_GRO merges before the socket is picked, so each datagram is judged by its own first bytes.
        for frame in datagrams.chunks(receive.stride.max(1)) {
            self.now.add(Counter::InboundFrames, 1);
            if let Err(reason) = self.frame(now_ms, receive, frame, io) {
                self.now.drop(reason, 1);
            }
        }
    }

    /// A frame that another core or control received and that this one owns.
    pub fn inbound_handed(&mut self, now_ms: u64, receive: &Receive, frame: &[u8], io: &mut Io<'_>) {
        self.now.add(Counter::InboundHandoffIn, 1);
        let opened = esp::packet::spi(frame).ok_or(Drop::Runt).and_then(|spi| self.open(now_ms, spi, receive, frame, io));
        if let Err(reason) = opened {
            self.now.drop(reason, 1);
        }
    }

    fn frame(&mut self, now_ms: u64, receive: &Receive, frame: &[u8], io: &mut Io<'_>) -> Result<(), Drop> {
        if frame == KEEPALIVE {
            self.now.add(Counter::Keepalives, 1);
            return Ok(());
        }
        let spi = esp::packet::spi(frame).ok_or(Drop::Runt)?;
        if spi == 0 {
            // The non-ESP marker (RFC 3948 section 2.2).
            if !io.events.stray_ike(receive, frame.get(4..).unwrap_or_default()) {
                return Err(Drop::StrayIkeLost);
            }
            self.now.add(Counter::StrayIke, 1);
            return Ok(());
        }
        let core = Spi::new(spi).map(|spi| u16::from(spi.core())).filter(|core| *core < self.config.cores);
        match core {
            Some(core) if core == self.config.core => self.open(now_ms, spi, receive, frame, io),
            Some(core) => {
                if !io.mail.inbound(core, receive, frame) {
                    return Err(Drop::InboundHandoffFull);
                }
                self.now.add(Counter::InboundHandoffOut, 1);
                Ok(())
            }
            None => self.unknown(now_ms, spi, receive, io),
        }
    }

    fn unknown(&mut self, now_ms: u64, spi: u32, receive: &Receive, io: &mut Io<'_>) -> Result<(), Drop> {
        if now_ms >= self.unknown_spi_ms {
            self.unknown_spi_ms = now_ms.saturating_add(EVENT_MS);
            self.tell(Event::UnknownSpi { spi, from: receive.from }, io);
        }
        Err(Drop::UnknownSpi)
    }

    /// Opens a frame for an SPI of this core. `Err` is a drop before authentication; what dies after it is counted within.
    pub(super) fn open(&mut self, now_ms: u64, spi: u32, receive: &Receive, frame: &[u8], io: &mut Io<'_>) -> Result<(), Drop> {
        // One buffer to open into, and one more for a packet of another flow.
        let buffers = io.inbox.free_count() + usize::from(self.merge.is_open());
        let Some(pair) = self.pairs.get_mut(spi) else { return self.unknown(now_ms, spi, receive, io) };
        if let Some(parking) = &mut pair.parking {
            if !parking.park(now_ms, receive, frame) {
                return Err(Drop::Parked);
            }
            self.parked += 1;
            return Ok(());
        }
        if buffers < 2 {
            return Err(Drop::InboundNoBuffer);
        }
        let table = &self.policies.table;
        let place = table.place_near(pair.policy, pair.policy_place);
        pair.policy_place = place.unwrap_or_default();
        let cell = place.and_then(|at| table.cell(at, self.config.core));
        let opened = match open_frame(pair, &mut self.merge, (table, place), receive, frame, io) {
            Ok(opened) => opened,
            Err(reason) => {
                // Forgeries use a key up, too, and its time may be over.
                self.tell_inbound_limit(spi, io);
                return Err(reason);
            }
        };
        self.now.add(Counter::OpenedPackets, 1);
        self.now.add(Counter::OpenedBytes, opened.bytes as u64);
        if let Some(cell) = cell {
            count(pair, cell, opened.bytes as u64, now_ms);
        }
        if let Some(reason) = opened.dropped {
            self.now.drop(reason, 1);
        }
        self.heard(now_ms, spi, receive, opened.newest, io);
        Ok(())
    }

    fn tell_inbound_limit(&mut self, spi: u32, io: &mut Io<'_>) {
        let inbound = self.pairs.get_mut(spi).and_then(|pair| pair.inbound.as_mut());
        if let Some(hard) = inbound.and_then(super::Inbound::limit) {
            self.tell(Event::Limit { spi, hard, outbound: false }, io);
        }
    }

    /// The peer was heard on a pair: a waiting outbound SA takes over, a moved endpoint is followed or reported, limits are told.
    fn heard(&mut self, now_ms: u64, spi: u32, receive: &Receive, newest: bool, io: &mut Io<'_>) {
        self.tell_inbound_limit(spi, io);
        let Some(pair) = self.pairs.get_mut(spi) else { return };
        let (mut told, mut activate) = (None, false);
        if let Some(outbound) = pair.outbound.as_deref_mut() {
            activate = outbound.waits && pair.ends_ms.is_none();
            if newest && outbound.remote != receive.from {
                // A peer's cores send from a port each: only where one port is shared does another one mean a move.
                let shared = outbound.source == Source::Shared;
                if (shared || outbound.remote.ip() != receive.from.ip()) && now_ms >= outbound.moved_ms {
                    outbound.moved_ms = now_ms.saturating_add(EVENT_MS);
                    told = Some(Event::PeerMoved { spi, from: receive.from });
                }
                if shared {
                    // Only by the newest authenticated packet of this very pair.
                    outbound.remote = receive.from;
                }
            }
        }
        if let Some(event) = told {
            self.tell(event, io);
        }
        if activate {
            self.activate(now_ms, spi);
            if self.waiting.woken {
                self.release(now_ms, io);
            }
            self.tell(Event::OutboundActive { spi }, io);
        }
    }
}

fn count(pair: &Pair, cell: &Cell, bytes: u64, now_ms: u64) {
    bump(&pair.shared.inbound_packets, 1);
    bump(&pair.shared.inbound_bytes, bytes);
    bump(&cell.inbound_packets, 1);
    bump(&cell.inbound_bytes, bytes);
    cell.inbound_ms.store(now_ms.max(1), Ordering::Relaxed);
}

/// What an authentic frame held.
struct Opened {
    bytes: usize,
    newest: bool,
    /// Why it is not delivered, if it is not.
    dropped: Option<Drop>,
}

/// Opens a frame into the inbox, behind what is merged there.
fn open_frame(
    pair: &mut Pair,
    merge: &mut Merge,
    (table, place): (&PolicyTable, Option<usize>),
    receive: &Receive,
    frame: &[u8],
    io: &mut Io<'_>,
) -> Result<Opened, Drop> {
    let inbound = pair.inbound.as_mut().filter(|inbound| !inbound.expired).ok_or(Drop::InboundKeyExhausted)?;
    let (slot, at) = landing(merge, frame.len(), io).ok_or(Drop::InboundNoBuffer)?;
    let room = slot.data.get_mut(at..).ok_or(Drop::InboundNoBuffer)?;
    let authenticated = match inbound.opener.open(frame, room) {
        Ok(authenticated) => authenticated,
        Err(reason) => {
            merge.undo(&mut slot.data);
            return Err(reason);
        }
    };
    let newest = authenticated.is_newest();
    let checked = authenticated.decapsulate().and_then(|(next_header, inner)| {
        let bytes = inner.len();
        check(next_header, inner, receive.tos, table, place).map(|ip| (ip, bytes))
    });
    match checked {
        Ok((ip, bytes)) => {
            deliver(merge, &ip, io);
            Ok(Opened { bytes, newest, dropped: None })
        }
        Err(reason) => {
            merge.undo(&mut slot.data);
            Ok(Opened { bytes: 0, newest, dropped: Some(reason) })
        }
    }
}

/// Where the next frame is opened: behind the open group, or in a fresh buffer if nothing can join the group.
fn landing<'s>(merge: &mut Merge, room: usize, io: &'s mut Io<'_>) -> Option<(&'s mut WriteSlot, usize)> {
    let mut at = merge.landing(&io.inbox.open()?.data, room);
    if at.is_none() && merge.is_open() {
        let (bytes, packets) = merge.close(&mut io.inbox.open()?.data)?;
        io.inbox.close(bytes, packets);
        at = merge.landing(&io.inbox.open()?.data, room);
    }
    let at = at?;
    io.inbox.open().map(|slot| (slot, at))
}

/// Takes the packet at the landing into the group, or closes the group and starts another with it.
fn deliver(merge: &mut Merge, ip: &Ip, io: &mut Io<'_>) {
    let settled = io.inbox.open().map(|slot| merge.settle(&mut slot.data, ip));
    if settled != Some(Settled::Apart) {
        return;
    }
    // `Path::open` made sure that there is a second buffer.
    let Some(mut full) = io.inbox.take_open() else { return };
    if let Some(fresh) = io.inbox.open() {
        merge.take_apart(&mut full.data, ip.total, &mut fresh.data);
        if let Some((bytes, packets)) = merge.close(&mut full.data) {
            io.inbox.close_taken(full, bytes, packets);
        }
        if let Some(fresh) = io.inbox.open()
            && merge.landing(&fresh.data, ip.total).is_some()
        {
            merge.settle(&mut fresh.data, ip);
        }
    }
}

/// What an inner packet must be before it is delivered (RFC 4301 section 5.2, RFC 4303 section 3.4.4).
fn check(next_header: u8, inner: &mut [u8], outer_tos: u8, table: &PolicyTable, place: Option<usize>) -> Result<Ip, Drop> {
    match next_header {
        NEXT_HEADER_NONE => return Err(Drop::Dummy),
        NEXT_HEADER_IPV4 | NEXT_HEADER_IPV6 => {}
        _ => return Err(Drop::BadNextHeader),
    }
    let mut ip = Ip::parse(inner).ok_or(Drop::InboundMalformed)?;
    if ip.v6 != (next_header == NEXT_HEADER_IPV6) {
        return Err(Drop::InboundMalformed);
    }
    // The source must lead back to the same peer by the longest prefix, not merely lie in one of its subnets.
    let back = table.route(ip.source).ok_or(Drop::SourceNotPeer)?;
    // And both ends must be within what was agreed for this very SA.
    let own = table.candidates(back).iter().find(|candidate| Some(candidate.place()) == place).ok_or(Drop::SourceNotPeer)?;
    if !table.holds(own, ip.destination) {
        return Err(Drop::DestinationNotLocal);
    }
    if !ecn::carry_over(inner, &mut ip, outer_tos) {
        return Err(Drop::Ecn);
    }
    Ok(ip)
}
