//! Given a worker on a ring whose packets go all the way round, from its TUN queue through UDP back to itself, when the kernel answers
//! with errors, short, late or in another order, then each packet is delivered once or counted under a name, each buffer comes back,
//! nothing is asked for without end, and once the faults are over everything passes. The queue is a pair of Unix datagram sockets.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use penstock_uapi::counter::Stage;
use penstock_uapi::request::{InstallInbound, InstallOutbound, Key, Limits, source, switch};
use penstock_uapi::{Counter, Drop, Endpoint, Role, Spi};
use zerocopy::little_endian::U32;

use super::{ERROR_PAUSE, ERRORS_PATIENT, Shell, open};
use crate::handoff::mail::Mailroom;
use crate::limits;
use crate::path::{Config, Order, Policies};
use crate::policy::{Lasting, Policy, PolicyTable, Prefix};
use crate::sa::{Inbound, Outbound, Pair};
use crate::sys::uring::File;
use crate::sys::uring::faults::Fault::{Error, Late, Short};
use crate::sys::uring::faults::{Fault, Operation, Script};
use crate::sys::wait::Bell;
use crate::tally::Moment;
use crate::worker::core::Core;
use crate::worker::desk::{Desk, Errand};
use crate::worker::{Files, Plan, Set};

const VNET_BYTES: usize = 12;
/// Before the number: virtio, IPv4 and UDP headers.
const NUMBER_AT: usize = VNET_BYTES + 28;
/// How long faults go on.
const FAULTY_ROUNDS: u64 = 24;
/// How long a worker may take to recover.
const PATIENCE: Duration = Duration::from_secs(5);

const ERRORS: [i32; 12] = [
    libc::EIO,
    libc::EAGAIN,
    libc::EINTR,
    libc::ENOBUFS,
    libc::ENOMEM,
    libc::ECANCELED,
    libc::EBADFD,
    libc::ENETUNREACH,
    libc::EMSGSIZE,
    libc::EPERM,
    libc::EINVAL,
    0,
];

fn table() -> Arc<PolicyTable> {
    let net = |site: u8| Prefix::new(IpAddr::from([10, site, 0, 0]), 16).expect("a length");
    let pairs = vec![(net(1), net(2)), (net(2), net(1))];
    let policy = Policy { id: 1, name: "self".into(), pairs, lasting: Arc::new(Lasting::new(1)) };
    Arc::new(PolicyTable::new(1, vec![policy]))
}

/// A policy and a pair whose peer is this core itself.
fn orders(remote: SocketAddr) -> [Order; 3] {
    let key = || Key { key: [7; 32], salt: [7; 4], suite: 2, esn: 1, reserved: [0; 2] };
    let spi = Spi::compose(77, 0, 0).expect("not zero").value();
    let (limits, policy) = (Limits::default(), U32::new(1));
    let inbound = InstallInbound { spi: U32::new(spi), policy, window: U32::new(16_384), reserved: U32::ZERO, limits, key: key() };
    let outbound = InstallOutbound {
        spi: U32::new(spi),
        inbound_spi: U32::new(spi),
        policy,
        switch: switch::NOW,
        source: source::OWN,
        fallback: 1,
        per_core: 0,
        switch_ms: U32::ZERO,
        dscp: 255,
        reserved: [0; 3],
        local: Endpoint::NONE,
        remote: Endpoint::from(Some(remote)),
        limits,
        key: key(),
    };
    [
        Order::Policies(Box::new(Policies::new(table()))),
        Order::InstallInbound(Box::new(Pair::installed(spi, 1, Inbound::from_request(&inbound, 0).expect("a suite")))),
        Order::InstallOutbound { spi, outbound: Box::new(Outbound::from_request(&outbound, 0).expect("a suite")) },
    ]
}

/// A worker, the other end of its TUN queue, and what came out of it.
struct Round {
    shell: Shell,
    device: UnixDatagram,
    desk: Arc<Desk>,
    offered: u64,
    came: HashSet<u64>,
}

impl Round {
    fn new(read_multishot: bool) -> Self {
        let (tun, device) = UnixDatagram::pair().expect("a pair");
        device.set_nonblocking(true).expect("non-blocking");
        let shared = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let own = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let remote = shared.local_addr().expect("bound");
        let attached = [(Role::Tun, tun.into()), (Role::Shared4, shared.into()), (Role::Own4, own.into())];
        let desk = Arc::new(Desk::new(Arc::new(Bell::new().expect("a bell"))).expect("a desk"));
        let plan = Plan {
            path: Config { core: 0, cores: 1, mtu: 1438, vnet_header_bytes: VNET_BYTES, uso: true, pairs_max: 64 },
            cpu: 0,
            files: Files::duplicate(&attached, Set::First).expect("descriptors"),
            desk: Arc::clone(&desk),
            mail: Mailroom::default(),
            epoch: Instant::now(),
            ring: true,
            read_multishot,
            gather: false,
            gso: true,
            poll: Duration::ZERO,
            drop_stale: false,
            reads_tun: true,
            sandbox: false,
        };
        let shell = Shell::new(open(&plan).expect("a ring"), Core::new(plan));
        let mut round = Self { shell, device, desk, offered: 0, came: HashSet::new() };
        for order in orders(remote) {
            assert!(round.desk.ask(Errand::Order(order)).is_ok());
        }
        round.settle("at the start");
        round
    }

    /// Puts so many numbered packets into the queue, as far as there is room.
    fn offer(&mut self, packets: u64) {
        for _ in 0..packets {
            let mut read = vec![0; VNET_BYTES];
            let builder = PacketBuilder::ipv4([10, 1, 0, 1], [10, 2, 0, 1], 64).udp(1, 2);
            let mut payload = [0; 200];
            payload[..8].copy_from_slice(&self.offered.to_be_bytes());
            builder.write(&mut read, &payload).expect("memory");
            if self.device.send(&read).is_err() {
                return;
            }
            self.offered += 1;
        }
    }

    /// Takes what was delivered: no packet twice, none that was not sent. UDP packets may have been merged.
    fn collect(&mut self) {
        let mut buffer = vec![0; 70_000];
        while let Ok(length) = self.device.recv(&mut buffer) {
            for payload in buffer[..length].get(NUMBER_AT..).unwrap_or_default().chunks(200) {
                let number = u64::from_be_bytes(payload[..8].try_into().expect("eight bytes"));
                assert!(number < self.offered && self.came.insert(number), "packet {number} of {} came twice", self.offered);
            }
        }
    }

    fn turn(&mut self) {
        // Nothing sleeps for long, and the bell is read like everything else.
        self.desk.bell.ring();
        self.shell.round();
        self.collect();
    }

    /// Every buffer is back where it belongs, and everything is being read.
    fn is_at_rest(&self) -> bool {
        let Shell { uring, core, reading, reads, receives, .. } = &self.shell;
        let armed = reading.iter().all(|reading| !reading.there || reading.armed);
        let held = uring.tun.lent() + uring.udp.lent() + receives.len();
        let [sends, parts, writes] = [limits::SEND_SLOTS, limits::SEND_PARTS, limits::WRITE_SLOTS].map(usize::from);
        let room = uring.has_room(sends, parts) && uring.idle_writes() == writes;
        // One write buffer stays open.
        let free = core.outbox.free_count() == sends && core.inbox.free_count() + 1 >= writes;
        armed && held == 0 && reads.is_empty() && room && free && uring.faults.holds_nothing()
    }

    /// Runs until nothing moves any more.
    fn settle(&mut self, case: &str) {
        let start = Instant::now();
        let mut quiet = 0;
        while quiet < 3 {
            assert!(start.elapsed() < PATIENCE, "{case}: not at rest: {:?}\n{:?}", self.shell.reading, self.desk.tally.read());
            let before = self.desk.tally.read();
            self.turn();
            let after = self.desk.tally.read();
            let moved = before.counter(Counter::TunReads) != after.counter(Counter::TunReads)
                || after.counter(Counter::OutboundPackets) != self.offered;
            quiet = if self.is_at_rest() && !moved { quiet + 1 } else { 0 };
        }
    }

    /// Lets things go wrong while packets come, then heals, and looks whether every promise was kept.
    fn suffer(&mut self, case: &str, seed: u64, scripts: &[Script], reorder: bool) -> Moment {
        self.shell.uring.faults.begin(seed, scripts, reorder);
        for file in [File::Tun, File::Shared4, File::Own4] {
            // What is being read already ends, so that it meets the fault too.
            self.shell.uring.cancel_read(file);
        }
        let start = Instant::now();
        for _ in 0..FAULTY_ROUNDS {
            self.offer(6);
            self.turn();
        }
        self.assert_bounded(case, start.elapsed());
        self.shell.uring.faults.end();
        self.settle(case);
        self.assert_accounts(case);
        let moment = self.desk.tally.read();
        let before = self.came.len();
        self.offer(6);
        self.settle(case);
        assert_eq!(self.came.len(), before + 6, "{case}: not healed: {:?}", self.desk.tally.read());
        self.assert_accounts(case);
        moment
    }

    /// Requests are in proportion to packets and time.
    fn assert_bounded(&self, case: &str, took: Duration) {
        let pauses = (took.as_millis() / ERROR_PAUSE.as_millis()) as u64;
        let received = self.desk.tally.read().counter(Counter::UdpReceives) + self.offered.min(6 * FAULTY_ROUNDS);
        // Each read may bring a packet, and then fail so often before it waits.
        let reads = u64::from(ERRORS_PATIENT) + 2 + pauses;
        let asked = |operation| self.shell.uring.faults.asked(operation);
        let faults = self.shell.uring.faults.hit();
        assert!(asked(Operation::Bell) <= reads + self.offered, "{case}: {} bell reads", asked(Operation::Bell));
        for (operation, files) in [(Operation::TunRead, 1), (Operation::Receive, 2)] {
            let bound = files * reads + received;
            assert!(asked(operation) <= bound, "{case}: {operation:?} asked {} times, {faults} faults", asked(operation));
        }
        for operation in [Operation::Send, Operation::TunWrite] {
            assert!(asked(operation) <= 2 * self.offered, "{case}: {operation:?} asked {} times", asked(operation));
        }
    }

    /// The sums that stand at [`Counter`], with nothing in flight.
    fn assert_accounts(&self, case: &str) {
        let moment = self.desk.tally.read();
        let of = |counter| moment.counter(counter);
        let drops = |stage| Drop::ALL.iter().filter(|drop| drop.stage() == stage).map(|drop| moment.dropped(*drop)).sum::<u64>();
        assert_eq!(of(Counter::OutboundPackets), self.offered, "{case}: {moment:?}");
        assert_eq!(of(Counter::OutboundPackets), of(Counter::SealedPackets) + drops(Stage::Outbound), "{case}: {moment:?}");
        assert_eq!(of(Counter::SealedPackets), of(Counter::SentPackets) + drops(Stage::Send), "{case}: {moment:?}");
        assert_eq!(of(Counter::SentPackets), of(Counter::InboundFrames), "{case}: the wire loses nothing: {moment:?}");
        assert_eq!(of(Counter::InboundFrames), of(Counter::OpenedPackets) + drops(Stage::Inbound), "{case}: {moment:?}");
        assert_eq!(of(Counter::OpenedPackets), of(Counter::DeliveredPackets) + drops(Stage::Deliver), "{case}: {moment:?}");
        assert_eq!(self.came.len() as u64, of(Counter::DeliveredPackets), "{case}: {moment:?}");
    }
}

fn name(errno: i32) -> String {
    std::io::Error::from_raw_os_error(errno).to_string()
}

#[test]
fn every_error_of_every_operation_is_survived() {
    for read_multishot in [true, false] {
        let mut round = Round::new(read_multishot);
        for (operation, errno) in Operation::ALL.into_iter().flat_map(|operation| ERRORS.map(|errno| (operation, errno))) {
            for (seed, one_in) in [(1, 1), (2, 3)] {
                if operation == Operation::Enter && !matches!(errno, libc::EIO | libc::ENOMEM | libc::EBADFD) {
                    continue;
                }
                let case = format!("{operation:?}: {} ({errno}), one in {one_in}, seed {seed}", name(errno));
                let script = Script { operation, fault: Error(errno), one_in };
                round.suffer(&case, seed, &[script], false);
                assert!(round.shell.uring.faults.hit() > 0 || one_in > 1, "{case}: nothing went wrong");
            }
        }
    }
}

#[test]
fn what_the_kernel_refuses_to_send_or_take_is_counted_under_its_name() {
    let cases = [
        (Operation::Send, libc::EPERM, Drop::SendFiltered),
        (Operation::Send, libc::ENETUNREACH, Drop::SendUnreachable),
        (Operation::Send, libc::EMSGSIZE, Drop::SendTooBig),
        (Operation::Send, libc::ENOBUFS, Drop::SendNoBuffer),
        (Operation::Send, libc::EIO, Drop::SendFailed),
        (Operation::TunWrite, libc::EIO, Drop::TunRefused),
        (Operation::TunWrite, libc::EBADFD, Drop::TunRefused),
    ];
    for (operation, errno, drop) in cases {
        let mut round = Round::new(true);
        let case = format!("{operation:?}: {}", name(errno));
        let moment = round.suffer(&case, 1, &[Script { operation, fault: Error(errno), one_in: 1 }], false);
        assert!(moment.dropped(drop) > 0, "{case}: {moment:?}");
        assert_eq!(moment.dropped(drop), Drop::ALL.iter().map(|drop| moment.dropped(*drop)).sum::<u64>(), "{case}: {moment:?}");
    }
}

#[test]
fn what_comes_short_is_no_packet() {
    for bytes in [1, 9, 11, 12, 13, 31, 32, 40, 100, 200] {
        for (operation, drop) in [(Operation::TunRead, Stage::Outbound), (Operation::Receive, Stage::Inbound)] {
            let mut round = Round::new(true);
            let case = format!("{operation:?} cut to {bytes} bytes");
            let moment = round.suffer(&case, 1, &[Script { operation, fault: Short(bytes), one_in: 2 }], false);
            let dropped = Drop::ALL.iter().filter(|it| it.stage() == drop).map(|drop| moment.dropped(*drop)).sum::<u64>();
            assert_eq!(dropped, round.shell.uring.faults.hit(), "{case}: {moment:?}");
        }
    }
}

#[test]
fn completions_that_come_late_and_in_another_order_lose_nothing() {
    let late = |operation, calls| Script { operation, fault: Late(calls), one_in: 2 };
    let moving = [Operation::TunRead, Operation::TunWrite, Operation::Receive, Operation::Send, Operation::Cancel, Operation::Bell];
    for seed in 1..=40 {
        let mut round = Round::new(seed % 2 == 0);
        let moment = round.suffer(&format!("seed {seed}"), seed, &moving.map(|operation| late(operation, 1 + seed % 17)), true);
        assert!(round.shell.uring.faults.hit() > 0);
        assert_eq!(round.came.len() as u64, round.offered, "seed {seed}: {moment:?}");
    }
}

#[test]
fn faults_of_all_kinds_at_once_are_survived() {
    let mut hits = 0;
    for seed in 1..=100_u64 {
        let errno = |at: u64| ERRORS[(seed.wrapping_mul(7) + at) as usize % ERRORS.len()];
        let scripts: Vec<Script> = Operation::ALL
            .into_iter()
            .zip(0..)
            .flat_map(|(operation, at)| {
                let some = |fault: Fault| Script { operation, fault, one_in: 4 };
                [some(Error(errno(at))), some(Late(1 + seed % 9))]
            })
            .collect();
        let mut round = Round::new(seed % 2 == 0);
        round.suffer(&format!("seed {seed}"), seed, &scripts, true);
        hits += round.shell.uring.faults.hit();
    }
    println!("{hits} faults");
    assert!(hits > 1000);
}

#[test]
fn a_ring_without_buffers_reads_again_when_they_come_back() {
    let mut round = Round::new(true);
    // Sends that are not known to be done keep their slots, so what was read stays in its buffers.
    round.shell.uring.faults.begin(1, &[Script { operation: Operation::Send, fault: Late(300), one_in: 1 }], false);
    for _ in 0..200 {
        round.offer(2);
        round.turn();
    }
    round.shell.uring.faults.end();
    round.settle("dry");
    let moment = round.desk.tally.read();
    assert!(moment.counter(Counter::BufferShortages) > 0, "{moment:?}");
    assert_eq!(round.came.len() as u64, round.offered);
    round.assert_accounts("dry");
}

#[test]
fn a_file_that_gives_nothing_is_not_asked_without_end() {
    for operation in [Operation::TunRead, Operation::Receive, Operation::Bell] {
        for errno in ERRORS.into_iter().filter(|errno| (operation, *errno) != (Operation::Bell, 0)) {
            let mut round = Round::new(true);
            round.shell.uring.faults.begin(1, &[Script { operation, fault: Error(errno), one_in: 1 }], false);
            [File::Tun, File::Own4, File::Shared4].into_iter().for_each(|file| round.shell.uring.cancel_read(file));
            round.desk.bell.ring();
            let start = Instant::now();
            while start.elapsed() < 6 * ERROR_PAUSE {
                round.shell.round();
            }
            round.assert_bounded(&format!("{operation:?}: {}", name(errno)), start.elapsed());
        }
    }
}

#[test]
fn a_queue_is_left_even_if_the_kernel_does_not_end_the_read_at_once() {
    for errno in ERRORS {
        let mut round = Round::new(true);
        round.shell.uring.faults.begin(3, &[Script { operation: Operation::Cancel, fault: Error(errno), one_in: 1 }], false);
        assert!(round.desk.ask(Errand::ReadTun(false)).is_ok());
        (0..5).for_each(|_| round.turn());
        assert!(round.shell.uring.faults.hit() > 0 && !round.desk.quiet.load(Ordering::Acquire), "{}", name(errno));
        round.shell.uring.faults.end();
        let start = Instant::now();
        while !round.desk.quiet.load(Ordering::Acquire) {
            assert!(start.elapsed() < PATIENCE, "{}: still read", name(errno));
            round.turn();
        }
        assert!(round.desk.ask(Errand::ReadTun(true)).is_ok());
        round.offer(6);
        round.settle(&name(errno));
        assert_eq!(round.came.len() as u64, round.offered);
    }
}

#[test]
fn the_same_seed_makes_the_same_faults() {
    let faults = || {
        let mut faults = crate::sys::uring::faults::Faults::default();
        faults.begin(9, &[Script { operation: Operation::Send, fault: Error(libc::EIO), one_in: 3 }], true);
        faults.outcomes(Operation::Send, 64)
    };
    assert_eq!(faults(), faults());
    assert!(faults().contains(&true) && faults().contains(&false));
}
