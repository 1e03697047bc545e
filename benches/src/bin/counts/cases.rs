//! What is counted. Each case prepares itself, warms up, and then runs once within [`counted`], the only code that is counted.

use std::hint::black_box;

use penstock_benches::gateway::{Gateway, Scale, VNET_BYTES};
use penstock_benches::traffic::{BATCH, Load, Peers, reads};
use penstock_benches::{SUITES, key};
use penstock_engine::esp::packet::{NEXT_HEADER_IPV4, frame_bytes};
use penstock_engine::esp::replay::Window;
use penstock_engine::esp::{Opener, Sealer};
use penstock_engine::handoff::queue::queue;
use penstock_engine::packet::checksum::Sum;
use penstock_engine::packet::ip::Ip;
use penstock_engine::tun::merge::Merge;
use penstock_engine::tun::split::Split;
use penstock_engine::tun::vnet::Header;
use penstock_uapi::Counter;
use penstock_uapi::request::Limits;

/// Valgrind counts while this runs; see [`crate::callgrind`].
#[inline(never)]
pub(crate) fn counted(work: &mut dyn FnMut()) {
    work();
    // Something behind the call, so that it stays one.
    black_box(());
}

/// From or to the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Outbound,
    Inbound,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// The whole path of packets through a core, between a read and a send or between a receive and a write.
    Path(Direction, Load, Scale),
    /// What is due every 50 ms, for so many peers.
    Tick(u32),
    /// One packet of so many bytes.
    Seal(usize),
    Open(usize),
    Checksum(usize),
    Replay,
    /// A look-up among so many prefixes.
    Route(Scale),
    /// An item through the queue between two cores.
    Handoff,
    Split,
    Merge,
}

/// A case with its name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Case {
    pub(crate) name: String,
    kind: Kind,
}

/// Peers and prefixes that must not make a difference.
const SCALES: [(u32, u32); 6] = [(1, 1), (100, 100), (10_000, 10_000), (1, 1000), (1, 100_000), (10_000, 100_000)];

/// Batches that are counted, behind as many that are not.
const fn batches(load: Load) -> usize {
    match load {
        Load::Tcp => 2,
        Load::Small => 32,
        Load::Uso => 4,
    }
}

impl Case {
    /// Every case, in the order in which they are shown.
    pub(crate) fn all() -> Vec<Self> {
        let mut cases = Vec::new();
        for direction in [Direction::Outbound, Direction::Inbound] {
            for load in [Load::Tcp, Load::Small, Load::Uso] {
                for v6 in [false, true] {
                    for (peers, prefixes) in SCALES {
                        // Super-packets of UDP are looked up like those of TCP.
                        if load != Load::Uso || (peers, prefixes) == SCALES[0] {
                            cases.push(Self::of(Kind::Path(direction, load, Scale { peers, prefixes, v6 })));
                        }
                    }
                }
            }
        }
        let parts = [64, 1400].into_iter().flat_map(|bytes| [Kind::Seal(bytes), Kind::Open(bytes), Kind::Checksum(bytes)]);
        cases.extend(parts.chain([Kind::Split, Kind::Merge, Kind::Replay, Kind::Handoff]).map(Self::of));
        for v6 in [false, true] {
            for prefixes in [1, 1000, 100_000] {
                cases.push(Self::of(Kind::Route(Scale { peers: 1, prefixes, v6 })));
            }
        }
        cases.extend([1, 100, 10_000].map(|peers| Self::of(Kind::Tick(peers))));
        cases
    }

    fn of(kind: Kind) -> Self {
        let family = |scale: &Scale| if scale.v6 { "v6" } else { "v4" };
        let name = match &kind {
            Kind::Path(direction, load, scale) => {
                let direction = if *direction == Direction::Outbound { "out" } else { "in" };
                let load = match load {
                    Load::Tcp => "tcp",
                    Load::Small => "small",
                    Load::Uso => "uso",
                };
                format!("{direction}-{load}-{}/{}x{}", family(scale), scale.peers, scale.prefixes)
            }
            Kind::Tick(peers) => format!("tick/{peers}"),
            Kind::Seal(bytes) => format!("seal/{bytes}"),
            Kind::Open(bytes) => format!("open/{bytes}"),
            Kind::Checksum(bytes) => format!("checksum/{bytes}"),
            Kind::Replay => "replay".into(),
            Kind::Route(scale) => format!("route-{}/{}", family(scale), scale.prefixes),
            Kind::Handoff => "handoff".into(),
            Kind::Split => "split".into(),
            Kind::Merge => "merge".into(),
        };
        Self { name, kind }
    }

    /// For a case that has to cost the same at every scale: the name of the one that it is compared with.
    pub(crate) fn reference(&self) -> Option<String> {
        match self.kind {
            Kind::Path(direction, load, scale) if (scale.peers, scale.prefixes) != SCALES[0] => {
                Some(Self::of(Kind::Path(direction, load, Scale::one(scale.v6))).name)
            }
            _ => None,
        }
    }

    /// Runs the case; gives how many packets (or ticks, look-ups, items) were counted.
    pub(crate) fn run(&self) -> u64 {
        match self.kind {
            Kind::Path(Direction::Outbound, load, scale) => outbound(load, &scale),
            Kind::Path(Direction::Inbound, load, scale) => inbound(load, &scale),
            Kind::Tick(peers) => tick(peers),
            Kind::Seal(bytes) => seal(bytes),
            Kind::Open(bytes) => open(bytes),
            Kind::Checksum(bytes) => checksum(bytes),
            Kind::Replay => replay(),
            Kind::Route(scale) => route(&scale),
            Kind::Handoff => handoff(),
            Kind::Split => split(),
            Kind::Merge => merge(),
        }
    }
}

fn outbound(load: Load, scale: &Scale) -> u64 {
    let mut gateway = Gateway::new(scale);
    let mut batches = reads(load, scale, 2 * batches(load));
    let counted_ones = batches.split_off(batches.len() / 2);
    for mut batch in batches {
        gateway.send(&mut batch);
    }
    let before = gateway.moment().counter(Counter::SentPackets);
    let mut ready = counted_ones;
    counted(&mut || {
        for batch in &mut ready {
            black_box(gateway.send(batch));
        }
    });
    let sent = gateway.moment().counter(Counter::SentPackets) - before;
    let expected = ready.len() * BATCH * load.packets(scale.v6);
    assert_eq!(sent, expected as u64, "every packet was sealed");
    sent
}

fn inbound(load: Load, scale: &Scale) -> u64 {
    let mut gateway = Gateway::new(scale);
    let mut received = Peers::default().receives(load, scale, 2 * batches(load));
    let counted_ones = received.split_off(received.len() / 2);
    for batch in received {
        gateway.receive(&batch);
    }
    let before = gateway.moment().counter(Counter::DeliveredPackets);
    counted(&mut || {
        for batch in &counted_ones {
            black_box(gateway.receive(batch));
        }
    });
    let delivered = gateway.moment().counter(Counter::DeliveredPackets) - before;
    let expected = counted_ones.len() * BATCH * load.packets(scale.v6);
    assert_eq!(delivered, expected as u64, "every packet was delivered");
    delivered
}

fn tick(peers: u32) -> u64 {
    let mut gateway = Gateway::new(&Scale { peers, prefixes: peers, v6: false });
    gateway.tick(50);
    counted(&mut || (0..100).for_each(|_| gateway.tick(50)));
    100
}

const PACKETS: usize = 64;

fn sealer() -> Sealer {
    Sealer::new(1 << 20, &key(SUITES[1].0), &Limits::default()).expect("a known suite")
}

fn seal(bytes: usize) -> u64 {
    let (inner, mut out, mut sealer) = (vec![0x45; bytes], vec![0; frame_bytes(bytes)], sealer());
    let mut work = || {
        for _ in 0..PACKETS {
            sealer.seal(black_box(&inner), NEXT_HEADER_IPV4, &mut out).expect("the key is fresh");
        }
    };
    work();
    counted(&mut work);
    PACKETS as u64
}

fn open(bytes: usize) -> u64 {
    let (inner, mut sealer) = (vec![0x45; bytes], sealer());
    let frames: Vec<Vec<u8>> = (0..2 * PACKETS)
        .map(|_| {
            let mut out = vec![0; frame_bytes(bytes)];
            sealer.seal(&inner, NEXT_HEADER_IPV4, &mut out).expect("the key is fresh");
            out
        })
        .collect();
    let mut opener = Opener::new(&key(SUITES[1].0), 16_384, &Limits::default()).expect("a known suite");
    let mut out = vec![0; frame_bytes(bytes)];
    let mut open = |frames: &[Vec<u8>]| {
        for frame in frames {
            let packet = opener.open(black_box(frame), &mut out).expect("a fresh frame");
            black_box(packet.decapsulate().expect("our own padding"));
        }
    };
    let (first, second) = frames.split_at(PACKETS);
    open(first);
    counted(&mut || open(second));
    PACKETS as u64
}

fn checksum(bytes: usize) -> u64 {
    let data: Vec<u8> = (0..bytes).map(|at| (at * 31 % 251) as u8).collect();
    counted(&mut || {
        for _ in 0..PACKETS {
            black_box(Sum::default().bytes(black_box(&data)).finish());
        }
    });
    PACKETS as u64
}

fn replay() -> u64 {
    let mut window = Window::new(16_384);
    counted(&mut || {
        for number in 1..=4096 {
            black_box(window.check(black_box(number)).expect("a fresh number").commit());
        }
    });
    4096
}

fn route(scale: &Scale) -> u64 {
    let table = scale.table();
    let asked: Vec<_> = (0..4096).map(|number| scale.host(0, number)).collect();
    counted(&mut || {
        for ip in &asked {
            black_box(table.route(black_box(*ip)));
        }
    });
    asked.len() as u64
}

fn handoff() -> u64 {
    let (mut to, mut from) = queue::<Box<u64>>(64);
    let mut items: Vec<_> = (0..64).map(Box::new).collect();
    counted(&mut || {
        for _ in 0..64 {
            for item in items.drain(..) {
                to.push(item).expect("the queue holds them all");
            }
            while let Some(item) = from.pop() {
                items.push(item);
            }
        }
    });
    64 * 64
}

/// A TCP super-packet, as it was read.
fn super_packet() -> (Header, Vec<u8>) {
    let read = reads(Load::Tcp, &Scale::one(false), 1).swap_remove(0).swap_remove(0);
    let (header, packet) = read.split_at(VNET_BYTES);
    (Header::parse(header).expect("a virtio header"), packet.to_vec())
}

fn split() -> u64 {
    let (header, mut packet) = super_packet();
    let ip = Ip::parse(&packet).expect("a whole packet");
    let mut packets = 0;
    counted(&mut || {
        let mut split = Split::new(&header, &mut packet, &ip).expect("a super-packet");
        while let Some(packet) = split.next() {
            black_box(packet);
            packets += 1;
        }
    });
    packets
}

/// With one copy of each packet to where it would be decrypted.
fn merge() -> u64 {
    let (header, mut packet) = super_packet();
    let ip = Ip::parse(&packet).expect("a whole packet");
    let mut split = Split::new(&header, &mut packet, &ip).expect("a super-packet");
    let mut packets = Vec::new();
    while let Some(packet) = split.next() {
        packets.push(packet.to_vec());
    }
    let mut merge = Merge::new(VNET_BYTES, true);
    let mut buffer = vec![0; VNET_BYTES + 70_000];
    let mut merged = 0;
    counted(&mut || {
        for packet in &packets {
            let at = merge.landing(&buffer, packet.len()).expect("room for each");
            buffer[at..at + packet.len()].copy_from_slice(packet);
            let ip = Ip::parse(&buffer[at..]).expect("a whole packet");
            merge.settle(&mut buffer, &ip);
        }
        merged = merge.close(&mut buffer).map_or(0, |(_, packets)| packets.into());
    });
    assert_eq!(merged, packets.len() as u64, "all of them were merged");
    merged
}

#[cfg(test)]
mod tests {
    use super::Case;

    #[test]
    fn names_differ_and_references_are_there() {
        let cases = Case::all();
        let mut names: Vec<_> = cases.iter().map(|case| &case.name).collect();
        for reference in cases.iter().filter_map(Case::reference) {
            assert!(names.contains(&&reference), "{reference}");
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), cases.len());
    }

    #[test]
    fn each_small_case_counts_what_it_says() {
        for case in Case::all().iter().filter(|case| !case.name.contains("000")) {
            assert!(case.run() > 0, "{}", case.name);
        }
    }
}
