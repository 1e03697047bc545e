//! What one direction of the wire makes of each frame: which frames leave instead of it, and how much later.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use super::chance::{Decision, draw};
use super::frame::Datagram;
use super::script::Faults;

/// The draw for the port of somebody who moves, and for the bytes of garbage.
const MOVE: u64 = 1 << 40;
const GARBAGE: u64 = 1 << 41;

/// What happened in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Frames that came.
    pub frames: u64,
    /// UDP datagrams among them.
    pub datagrams: u64,
    /// IKE messages among those, lost ones too.
    pub ike: u64,
    /// Lost by chance, alone or in bursts.
    pub lost: u64,
    /// Frames that came in a black-out.
    pub blacked_out: u64,
    /// Larger than the size limit.
    pub too_big: u64,
    /// Frames for which there was no room at the rate.
    pub queue_full: u64,
    /// Changed.
    pub altered: u64,
    /// Forged copies.
    pub forged: u64,
    /// Those among them without an SPI: shorter than eight bytes, or the first word zero.
    pub forged_without_spi: u64,
    /// Copies sent at once or later.
    pub duplicates: u64,
    /// Held back to be overtaken.
    pub held: u64,
    /// Cut into fragments.
    pub fragmented: u64,
    /// Garbage.
    pub garbage: u64,
    /// Sent under another source address or port.
    pub moved: u64,
    /// Sent again from the library.
    pub replayed: u64,
    /// Frames that left.
    pub sent: u64,
    /// Frames that the kernel would not send.
    pub refused: u64,
    /// Frames that came while the relay had no room for them.
    pub overflowed: u64,
}

/// A frame on its way.
pub(super) struct Outgoing {
    pub(super) frame: Vec<u8>,
    /// How much later.
    pub(super) after: Duration,
    /// So many later datagrams overtake it.
    pub(super) held_for: u32,
}

/// Where senders seem to be, and where they are.
#[derive(Default)]
pub(super) struct Moves(HashMap<(IpAddr, u16), (IpAddr, u16)>);

impl Moves {
    /// The frame as the datagram's sender seems to have sent it, after `number` datagrams.
    fn lead_away(&mut self, frame: &[u8], datagram: &Datagram, seed: u64, number: u64, faults: &Faults) -> Option<Vec<u8>> {
        let epoch = number.checked_div(faults.move_every)?;
        if epoch == 0 || !datagram.source.is_ipv4() {
            return None;
        }
        let here = faults.move_to.get((epoch as usize).checked_rem(faults.move_to.len()).unwrap_or(0));
        let address = here.map_or(datagram.source, |address| IpAddr::V4(*address));
        let port = 1024 + (draw(seed, datagram.ports[0].into(), epoch, MOVE) % 60_000) as u16;
        self.0.insert((address, port), (datagram.source, datagram.ports[0]));
        Some(datagram.readdressed(frame, [address, datagram.destination], [port, datagram.ports[1]]))
    }

    /// The frame to where its destination truly is, if that seems to have moved.
    pub(super) fn lead_home(&self, frame: &[u8]) -> Option<(Vec<u8>, IpAddr)> {
        let datagram = Datagram::find(frame)?;
        let (address, port) = *self.0.get(&(datagram.destination, datagram.ports[1]))?;
        Some((datagram.readdressed(frame, [datagram.source, address], [datagram.ports[0], port]), address))
    }
}

/// One direction.
#[derive(Default)]
pub(super) struct Direction {
    pub(super) counts: Counts,
    pub(super) moves: Moves,
    /// Hardware address of the end that sends.
    pub(super) hardware: [u8; 6],
    held: BTreeMap<(u64, u64), Outgoing>,
}

/// What is to be done about one frame.
#[derive(Default)]
pub(super) struct Treatment {
    /// Onward.
    pub(super) forward: Vec<Outgoing>,
    /// What its sender seems to have sent, if that seems to be elsewhere.
    pub(super) moved: Option<Vec<u8>>,
    /// To its sender, by ICMP.
    pub(super) back: Option<Vec<u8>>,
}

impl Direction {
    /// Treats the next datagram of this direction.
    pub(super) fn treat(&mut self, frame: &[u8], datagram: &Datagram, seed: u64, side: usize, faults: &Faults) -> Treatment {
        let number = self.counts.datagrams;
        self.counts.datagrams += 1;
        let mut out = Treatment::default();
        if faults.mtu > 0 && datagram.ip_bytes() > faults.mtu as usize {
            self.counts.too_big += 1;
            out.back = faults.icmp.then(|| datagram.too_big(frame, faults.mtu));
            return out;
        }
        let decision = Decision::of(seed, side, number, faults);
        if decision.lost {
            self.counts.lost += 1;
            return out;
        }
        let moved = self.moves.lead_away(frame, datagram, seed, number, faults);
        self.counts.moved += u64::from(moved.is_some());
        let frame = moved.as_deref().unwrap_or(frame);
        let found = Datagram::find(frame).unwrap_or(*datagram);
        self.beside(frame, &found, &decision, faults, &mut out.forward);
        self.itself(frame, &found, &decision, faults, &mut out.forward);
        out.moved = moved;
        out
    }

    /// What travels with it: forged copies and garbage.
    fn beside(&mut self, frame: &[u8], datagram: &Datagram, decision: &Decision, faults: &Faults, out: &mut Vec<Outgoing>) {
        let mut add = |frame| out.push(Outgoing { frame, after: decision.delay, held_for: 0 });
        if datagram.esp(frame).is_some() {
            for forgery in &decision.forgeries {
                let forged = datagram.altered(frame, *forgery, faults.region, faults.flip_bits);
                self.counts.forged_without_spi += u64::from(!names_an_spi(&forged));
                self.counts.forged += 1;
                add(forged);
            }
        }
        if let Some(garbage) = decision.garbage {
            let length = garbage % (u64::from(faults.garbage_bytes) + 1);
            let bytes: Vec<u8> = (0..length).map(|at| draw(garbage, 0, at, GARBAGE) as u8).collect();
            add(datagram.with_payload(frame, &bytes));
            self.counts.garbage += 1;
        }
    }

    /// The datagram, as it leaves, and its copies.
    fn itself(&mut self, frame: &[u8], datagram: &Datagram, decision: &Decision, faults: &Faults, out: &mut Vec<Outgoing>) {
        let changed = decision.altered.map(|alteration| datagram.altered(frame, alteration, faults.region, faults.flip_bits));
        self.counts.altered += u64::from(changed.is_some());
        let frame = changed.unwrap_or_else(|| frame.to_vec());
        self.counts.held += u64::from(decision.held_for > 0);
        for after in &decision.again_after {
            out.push(Outgoing { frame: frame.clone(), after: decision.delay + *after, held_for: 0 });
            self.counts.duplicates += 1;
        }
        let pieces = if decision.fragmented { datagram.fragments(&frame, self.counts.fragmented as u16) } else { vec![frame] };
        self.counts.fragmented += u64::from(pieces.len() > 1);
        out.extend(pieces.into_iter().map(|frame| Outgoing { frame, after: decision.delay, held_for: decision.held_for }));
    }

    /// Keeps a frame until as many datagrams as it says have passed it.
    pub(super) fn hold(&mut self, outgoing: Outgoing) {
        let until = self.counts.datagrams - 1 + u64::from(outgoing.held_for);
        self.held.insert((until, self.counts.datagrams), outgoing);
    }

    /// The frames that were overtaken by enough; with `all`, every one.
    pub(super) fn overtaken(&mut self, all: bool) -> Vec<Outgoing> {
        let rest = if all { BTreeMap::new() } else { self.held.split_off(&(self.counts.datagrams, 0)) };
        std::mem::replace(&mut self.held, rest).into_values().collect()
    }
}

/// Whether a gateway takes it for ESP at all: at least eight bytes, of which the first four are not zero (RFC 3948 section 2).
fn names_an_spi(frame: &[u8]) -> bool {
    Datagram::find(frame).is_some_and(|found| {
        let payload = found.payload(frame);
        payload.len() >= 8 && !payload.starts_with(&[0; 4])
    })
}

#[cfg(test)]
mod tests {
    use super::{Direction, Treatment};
    use crate::faulty::Faults;
    use crate::faulty::frame::Datagram;
    use crate::faulty::frame::tests::frame;

    fn esp() -> Vec<u8> {
        frame(1, 2, &(1..=100).collect::<Vec<u8>>())
    }

    fn treat(direction: &mut Direction, faults: &Faults) -> Treatment {
        let frame = esp();
        direction.treat(&frame, &Datagram::find(&frame).expect("UDP"), 5, 0, faults)
    }

    #[test]
    fn what_leaves_is_the_same_for_the_same_seed() {
        let faults =
            Faults { flip: 0.3, duplicate: 0.3, garbage: 0.2, forgeries: 2, move_every: 50, fragment: 0.1, loss: 0.1, ..Faults::default() };
        let run = || {
            let mut direction = Direction::default();
            (0..500).flat_map(|_| treat(&mut direction, &faults).forward).map(|outgoing| outgoing.frame).collect::<Vec<_>>()
        };
        assert_eq!(run(), run());
    }

    #[test]
    fn a_packet_beyond_the_size_limit_is_dropped_and_told_or_not() {
        for icmp in [false, true] {
            let treatment = treat(&mut Direction::default(), &Faults { mtu: 127, icmp, ..Faults::default() });
            assert!(treatment.forward.is_empty() && treatment.back.is_some() == icmp);
        }
        assert_eq!(treat(&mut Direction::default(), &Faults { mtu: 128, ..Faults::default() }).forward.len(), 1);
    }

    #[test]
    fn a_held_frame_is_overtaken_by_no_more_than_the_depth() {
        let faults = Faults { reorder: 0.5, reorder_depth: 10, ..Faults::default() };
        let (mut direction, mut left) = (Direction::default(), Vec::new());
        for number in 0..1000_u64 {
            for mut outgoing in treat(&mut direction, &faults).forward {
                outgoing.frame = number.to_be_bytes().to_vec();
                if outgoing.held_for > 0 { direction.hold(outgoing) } else { left.push(outgoing) }
            }
            left.extend(direction.overtaken(false));
        }
        left.extend(direction.overtaken(true));
        let numbers: Vec<u64> = left.iter().map(|outgoing| u64::from_be_bytes(outgoing.frame[..].try_into().expect("eight"))).collect();
        let mut highest = 0;
        let late: Vec<u64> = numbers
            .iter()
            .map(|number| {
                highest = highest.max(*number);
                highest - number
            })
            .collect();
        assert!(numbers.len() == 1000 && late.iter().all(|late| *late <= 10) && late.contains(&10), "{late:?}");
    }

    #[test]
    fn a_sender_moves_on_time_and_its_answers_find_home() {
        let faults = Faults { move_every: 2, move_to: vec!["10.0.0.77".parse().expect("an address")], ..Faults::default() };
        let mut direction = Direction::default();
        let sources: Vec<_> = (0..6).map(|_| Datagram::find(&treat(&mut direction, &faults).forward[0].frame).expect("UDP")).collect();
        assert_eq!(sources[1].source.to_string(), "10.0.0.1");
        assert!(sources[2..].iter().all(|seen| seen.source.to_string() == "10.0.0.77"));
        assert!(sources[2].ports == sources[3].ports && sources[3].ports != sources[4].ports);
        let answer = Datagram::find(&frame(2, 77, b"hello")).expect("UDP");
        let answer = answer.readdressed(&frame(2, 77, b"hello"), [answer.source, answer.destination], [4500, sources[2].ports[0]]);
        let (home, address) = direction.moves.lead_home(&answer).expect("it moved");
        // Hardware addresses are the links' affair.
        assert_eq!((&home[14..], address.to_string()), (&frame(2, 1, b"hello")[14..], "10.0.0.1".into()));
    }
}
