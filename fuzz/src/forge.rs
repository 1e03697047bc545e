//! Forged frames by the billion: made from genuine frames that were never delivered, so that only the ICV stands in their way.
//!
//! A model that knows nothing but the frame's clear bytes says beforehand under which name each forgery has to die; at the end
//! every counter must be what the model says, and the genuine frames must still be accepted, which shows that no forgery has moved a
//! replay window.

use std::collections::HashSet;

use penstock_engine::esp::seal::Sealer;
use penstock_uapi::request::Limits;
use penstock_uapi::{Counter, Drop};

use crate::mutate::Chance;
use crate::site::{Site, key, spi};

/// Live pairs of SAs.
const PAIRS: u32 = 3;
/// Numbers received on each pair before the first forgery: more than its window of 1,024 holds.
const RECEIVED: u64 = 2_000;
const WINDOW: u64 = 1_024;
/// Genuine frames of each pair that are held back.
const HELD: usize = 48;
/// Frames between two ends of a batch.
const BATCH: u64 = 64;

/// How a forgery is made.
const KINDS: [&str; 11] = [
    "1 to 8 bits flipped",
    "cut short",
    "made longer",
    "header of one frame, body of another",
    "SPI of another SA",
    "sealed by the receiver itself",
    "sealed with an old key",
    "ICV of zeros",
    "another sequence number",
    "another IV",
    "noise behind a genuine header",
];

/// What a run did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Forged frames, by [`KINDS`].
    pub tried: [u64; KINDS.len()],
    /// Forged frames that were opened. Anything but 0 is a catastrophe.
    pub accepted: u64,
    /// Why they died, and how many the model expected to die so: name, counted, expected.
    pub reasons: Vec<(&'static str, u64, u64)>,
}

impl Report {
    /// All forged frames.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.tried.iter().sum()
    }

    /// Whether nothing was accepted and every counter is what the model says.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.accepted == 0
            && self.reasons.iter().all(|(_, counted, expected)| counted == expected)
            && self.reasons.iter().map(|(_, counted, _)| counted).sum::<u64>() == self.total()
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{:>14}  forged frames", self.total())?;
        for (kind, tried) in KINDS.iter().zip(&self.tried) {
            writeln!(f, "{tried:>14}    {kind}")?;
        }
        writeln!(f, "{:>14}  accepted", self.accepted)?;
        for (name, counted, expected) in self.reasons.iter().filter(|(_, counted, expected)| counted + expected > 0) {
            let right = if counted == expected { "as foretold".to_owned() } else { format!("but {expected} were foretold") };
            writeln!(f, "{counted:>14}    {name}, {right}")?;
        }
        Ok(())
    }
}

/// What forgeries are made from.
struct Quarry {
    /// Genuine, never delivered.
    held: Vec<Vec<u8>>,
    /// Sealed by site 2 for site 1, with the SPI of site 2 in it.
    own: Vec<Vec<u8>>,
    /// Sealed with a key that site 2 has never had.
    old: Vec<Vec<u8>>,
    known: HashSet<Vec<u8>>,
}

fn inner(number: usize) -> Vec<u8> {
    let payload = vec![number as u8; [0, 12, 64, 300, 1_300][number % 5]];
    let mut bytes = Vec::new();
    let builder = etherparse::PacketBuilder::ipv4([10, 1, 0, 1], [10, 2, 0, 1], 61).udp(1000 + number as u16, 53);
    builder.write(&mut bytes, &payload).expect("a packet fits memory");
    bytes
}

fn frames(spi: u32, key_number: u8, skip: u64, count: usize) -> Vec<Vec<u8>> {
    let mut sealer = Sealer::new(spi, &key(key_number), &Limits::default()).expect("a known suite");
    for _ in 0..skip {
        crate::esp::seal(&mut sealer, &inner(0), 4);
    }
    (0..count).map(|number| crate::esp::seal(&mut sealer, &inner(number), 4)).collect()
}

/// Site 2 with its pairs, each of which has received [`RECEIVED`] frames.
fn receiver() -> (Site, Quarry) {
    let mut site = Site::new(2, 1, 8);
    let mut quarry = Quarry { held: Vec::new(), own: Vec::new(), old: Vec::new(), known: HashSet::new() };
    for number in 0..PAIRS {
        let (opens, seals) = (number as u8 * 2 + 1, number as u8 * 2 + 2);
        site.install(2, number, opens, seals);
        let ours = spi(2, number);
        for frame in frames(ours, opens, 0, RECEIVED as usize) {
            site.hear(0, frame.len(), &frame);
            site.written(|_| ());
        }
        quarry.held.extend(frames(ours, opens, RECEIVED, HELD));
        quarry.own.extend(frames(ours, seals, RECEIVED, HELD));
        quarry.old.extend(frames(ours, 100 + number as u8, RECEIVED, HELD));
    }
    quarry.known.extend(quarry.held.iter().cloned());
    assert_eq!(site.counter(Counter::OpenedPackets), u64::from(PAIRS) * RECEIVED, "the genuine frames are good");
    (site, quarry)
}

/// Makes one forgery of a kind.
fn forge(quarry: &Quarry, kind: usize, chance: &mut Chance, frame: &mut Vec<u8>) {
    let pick = |from: &[Vec<u8>], chance: &mut Chance| from.get(chance.below(from.len())).cloned().unwrap_or_default();
    frame.clear();
    match kind {
        5 => frame.extend_from_slice(&pick(&quarry.own, chance)),
        6 => frame.extend_from_slice(&pick(&quarry.old, chance)),
        _ => frame.extend_from_slice(&pick(&quarry.held, chance)),
    }
    let other = pick(&quarry.held, chance);
    match kind {
        0 => {
            for _ in 0..=chance.below(8) {
                let bit = chance.below(frame.len() * 8);
                frame[bit / 8] ^= 1 << (bit % 8);
            }
        }
        1 => frame.truncate(1 + chance.below(frame.len() - 1)),
        2 => {
            let more = 1 + chance.below(64);
            (0..more).for_each(|_| frame.push(chance.draw() as u8));
        }
        3 => {
            frame.truncate(16);
            frame.extend_from_slice(other.get(16..).unwrap_or_default());
        }
        4 => frame[..4].copy_from_slice(&other[..4]),
        7 => {
            let icv = frame.len() - 16;
            frame[icv..].fill(0);
        }
        8 => frame[4..8].copy_from_slice(&((chance.draw() >> chance.below(64)) as u32).to_be_bytes()),
        9 => frame[8..16].copy_from_slice(&(chance.draw() >> chance.below(64)).to_be_bytes()),
        10 => frame[16..].iter_mut().for_each(|octet| *octet = chance.draw() as u8),
        _ => {}
    }
    if quarry.known.contains(frame.as_slice()) {
        // The change has changed nothing.
        if let Some(last) = frame.last_mut() {
            *last ^= 1;
        }
    }
}

/// Where a forgery has to end, told from its clear bytes alone (RFC 4303 sections 2 and 3.4, RFC 3948 section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Dropped(Drop),
    Counted(Counter),
}

fn foretell(frame: &[u8]) -> End {
    let word = |at: usize| frame.get(at..at + 4).and_then(<[u8]>::first_chunk).map(|word| u32::from_be_bytes(*word));
    let Some(their) = word(0) else { return if frame == [0xff] { End::Counted(Counter::Keepalives) } else { End::Dropped(Drop::Runt) } };
    if their == 0 {
        return End::Counted(Counter::StrayIke);
    }
    if their > 255 && their & 0xff == 1 {
        return End::Counted(Counter::InboundHandoffOut);
    }
    if !(0..PAIRS).any(|number| spi(2, number) == their) {
        return End::Dropped(Drop::UnknownSpi);
    }
    // Header, IV, four octets of ciphertext, ICV.
    let (Some(low), Some(iv)) = (word(4), frame.get(8..16).and_then(<[u8]>::first_chunk)) else { return End::Dropped(Drop::Runt) };
    if frame.len() < 36 || !frame.len().is_multiple_of(4) {
        return End::Dropped(Drop::Runt);
    }
    let (low, iv) = (u64::from(low), u64::from_be_bytes(*iv));
    let left = RECEIVED - WINDOW;
    if low > left && low <= RECEIVED {
        return End::Dropped(Drop::Replay);
    }
    // What is left of the window is taken for one of the next 2^32, and known for old only if its IV says the same number.
    if low <= left && iv == low { End::Dropped(Drop::ReplayWindow) } else { End::Dropped(Drop::BadIcv) }
}

/// Forges `count` frames from a seed.
///
/// # Panics
/// If a genuine frame is refused afterwards, or if the counters do not add up.
#[must_use]
pub fn run(count: u64, seed: u64) -> Report {
    let (mut site, quarry) = receiver();
    let mut chance = Chance::new(seed);
    let (mut tried, mut drops, mut counters) = ([0; KINDS.len()], [0u64; Drop::COUNT], [0u64; Counter::COUNT]);
    let before: Vec<u64> = Drop::ALL.iter().map(|drop| site.dropped(*drop)).collect();
    let opened = site.counter(Counter::OpenedPackets);
    let mut frame = Vec::with_capacity(2_048);
    for number in 0..count {
        let kind = chance.below(KINDS.len());
        forge(&quarry, kind, &mut chance, &mut frame);
        tried[kind] += 1;
        match foretell(&frame) {
            End::Dropped(drop) => drops[drop.index()] += 1,
            End::Counted(counter) => counters[counter.index()] += 1,
        }
        site.hear(0, frame.len(), &frame);
        if number % BATCH == BATCH - 1 {
            site.written(|_| ());
        }
    }
    site.written(|_| ());
    let accepted = site.counter(Counter::OpenedPackets) - opened;
    let ends = [Counter::Keepalives, Counter::StrayIke, Counter::InboundHandoffOut];
    let dropped = Drop::ALL.iter().zip(&before).map(|(drop, before)| (drop.name(), site.dropped(*drop) - before, drops[drop.index()]));
    let counted = ends.iter().map(|counter| (counter.name(), site.counter(*counter), counters[counter.index()]));
    let reasons = dropped.chain(counted).collect();
    for frame in &quarry.held {
        site.hear(0, frame.len(), frame);
        site.written(|_| ());
    }
    assert_eq!(site.counter(Counter::OpenedPackets) - opened - accepted, quarry.held.len() as u64, "the genuine frames are still taken");
    site.assert_sums();
    Report { tried, accepted, reasons }
}
