//! How many first messages a socket takes. A first message comes from anybody, and answering it costs far more than throwing it away: so
//! a flood of them is thinned out by the kernel, before it fills the socket's queue and takes the processor from those who carry packets.
//!
//! ```text
//!   our SPI is in it, or no IKE message ──────────────► taken
//!   first message ─┬─ of a peer's endpoint ──► share ─┐
//!                  ├─ with a cookie ─────────► share ─┼─► as many of each kind as there is time for
//!                  └─ any other ─────────────► share ─┘
//! ```
//! Each kind has a share of its own, so that strangers in masses do not stand in the way of a peer, whose address they would have to know, nor
//! of anybody who has shown that answers reach him. A share is halved and doubled by what came in the last tenth of a second; while there is
//! no flood, all are whole and the kernel asks nobody.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

use libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_K, BPF_LD, BPF_LEN, BPF_RET, BPF_W};
use penstock_ike::PeerId;
use tokio::time::Instant;

use super::ike::NON_ESP_MARKER;
use crate::log;
use crate::steer::instruction;
use crate::sys::{self, Instruction};

/// How often shares are set anew.
const WINDOW: Duration = Duration::from_millis(100);
/// First messages of each kind that are taken in a window: 20,000 a second take some 20 % of a core. Five thousand peers that begin at
/// once are far below.
pub(super) const TAKEN_MAX: u32 = 2_000;
/// A whole share: of 65,536 numbers that may be drawn for a message, all.
const WHOLE: u32 = 1 << 16;
/// The smallest share. Below it nobody would come through, and what floods more is more than a network card brings.
const SHARE_MIN: u32 = WHOLE / 1024;
/// The most addresses that the program compares: it may have 4,096 instructions, and an IPv6 address takes nine.
const ADDRESSES_MAX: usize = 400;
/// Between two lines about a flood.
const LOG_PAUSE: Duration = Duration::from_secs(10);

/// `SKF_AD_RANDOM` and the start of the network header, as a classic BPF program addresses them.
const RANDOM: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32;
const NETWORK: u32 = libc::SKF_NET_OFF as u32;
/// Where the source address is in an IPv4 and an IPv6 header.
const SOURCE_V4: u32 = 12;
const SOURCE_V6: u32 = 8;
/// The UDP header, which stands before the data that the program sees.
const UDP_BYTES: u32 = 8;
/// Places in the IKE header (RFC 7296 section 3.1): the responder's SPI, the first payload's type.
const RESPONDER: u32 = 8;
const FIRST_PAYLOAD: u32 = 16;
/// A notification, which stands first only where it is a cookie (section 2.6).
const NOTIFY: u32 = 41;

/// Where each peer is to be found, as far as that is known without it; one table for all who need it.
#[derive(Clone, Debug, Default)]
pub struct Endpoints(Rc<RefCell<HashMap<PeerId, SocketAddr>>>);

impl Endpoints {
    pub(crate) fn get(&self, id: PeerId) -> Option<SocketAddr> {
        self.0.borrow().get(&id).copied()
    }

    pub(crate) fn insert(&self, id: PeerId, endpoint: SocketAddr) {
        self.0.borrow_mut().insert(id, endpoint);
    }

    pub(crate) fn remove(&self, id: PeerId) {
        self.0.borrow_mut().remove(&id);
    }

    /// The addresses of one family in their order, as many as a program takes.
    fn addresses(&self, v6: bool) -> Vec<IpAddr> {
        let mut addresses: Vec<_> = self.0.borrow().values().map(SocketAddr::ip).filter(|address| address.is_ipv6() == v6).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(ADDRESSES_MAX);
        addresses
    }
}

/// A kind of first messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// From the address of a peer.
    OfPeer,
    /// It shows a cookie, which may be wrong.
    WithCookie,
    Other,
}

impl Kind {
    const ALL: [Self; 3] = [Self::OfPeer, Self::WithCookie, Self::Other];
}

/// How many are taken of each kind, of [`WHOLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shares([u32; 3]);

impl Shares {
    const WHOLE: Self = Self([WHOLE; 3]);

    /// What is right for the next window after so many came in the last one.
    fn after(self, taken: [u32; 3]) -> Self {
        let mut shares = self.0;
        for (share, taken) in shares.iter_mut().zip(taken) {
            if taken > TAKEN_MAX {
                *share = (u64::from(*share) * u64::from(TAKEN_MAX) / u64::from(taken)) as u32;
            } else if taken < TAKEN_MAX / 2 {
                *share *= 2;
            }
            *share = (*share).clamp(SHARE_MIN, WHOLE);
        }
        Self(shares)
    }

    fn of(self, kind: Kind) -> u32 {
        let [of_peer, with_cookie, other] = self.0;
        match kind {
            Kind::OfPeer => of_peer,
            Kind::WithCookie => with_cookie,
            Kind::Other => other,
        }
    }
}

/// What a socket has taken, and what it takes.
#[derive(Debug)]
pub(super) struct Intake {
    endpoints: Endpoints,
    taken: [u32; 3],
    /// When the window is over.
    until: Instant,
    shares: Shares,
    /// The addresses that the kernel compares, in their order.
    peers: Vec<IpAddr>,
    logged: Option<Instant>,
}

impl Intake {
    pub(super) fn new(endpoints: Endpoints) -> Self {
        Self { endpoints, taken: [0; 3], until: Instant::now() + WINDOW, shares: Shares::WHOLE, peers: Vec::new(), logged: None }
    }

    /// When shares are to be set anew although nothing comes: never, where all are whole.
    pub(super) fn wake(&self) -> Option<Instant> {
        (self.shares != Shares::WHOLE).then_some(self.until)
    }

    /// Counts an IKE message without its marker.
    pub(super) fn count(&mut self, from: IpAddr, message: &[u8]) {
        let responder = message.get(RESPONDER as usize..).and_then(|rest| rest.first_chunk::<8>());
        let (Some([0, 0, 0, 0, 0, 0, 0, 0]), Some(first)) = (responder, message.get(FIRST_PAYLOAD as usize)) else { return };
        let kind = if self.peers.binary_search(&from).is_ok() {
            Kind::OfPeer
        } else if u32::from(*first) == NOTIFY {
            Kind::WithCookie
        } else {
            Kind::Other
        };
        for (taken, _) in self.taken.iter_mut().zip(Kind::ALL).filter(|(_, other)| *other == kind) {
            *taken = taken.saturating_add(1);
        }
    }

    /// Sets the shares anew if it is time; `gate` knows the socket.
    pub(super) fn turn(&mut self, gate: &Gate<'_>) {
        let now = Instant::now();
        if now < self.until {
            return;
        }
        let before = self.shares;
        self.shares = before.after(std::mem::take(&mut self.taken));
        self.until = now + WINDOW;
        if before == self.shares {
            return;
        }
        // Without its program the socket takes all, as it would without us.
        self.peers = if self.shares == Shares::WHOLE { Vec::new() } else { self.endpoints.addresses(gate.v6) };
        let set = gate.set(self.shares, &self.peers);
        if self.logged.is_none_or(|logged| now.duration_since(logged) >= LOG_PAUSE) && (set.is_err() || before == Shares::WHOLE) {
            self.logged = Some(now);
            let reason = match set {
                Ok(()) => {
                    "more first messages of strangers than there is time for: those of peers and those with a cookie come first".into()
                }
                Err(error) => format!("first messages of strangers cannot be thinned out: {error}"),
            };
            log::warning("ike-flood", &[("port", &gate.port), ("reason", &reason)]);
        }
    }
}

/// A socket of which some messages are kept out.
#[derive(Debug)]
pub(super) struct Gate<'a> {
    pub(super) socket: BorrowedFd<'a>,
    pub(super) v6: bool,
    pub(super) port: u16,
    /// Whether a marker of four octets stands before IKE messages.
    pub(super) marked: bool,
}

impl Gate<'_> {
    /// Takes all, whatever an earlier process has set.
    pub(super) fn open(&self) -> io::Result<()> {
        match sys::detach_filter(self.socket) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            done => done,
        }
    }

    fn set(&self, shares: Shares, peers: &[IpAddr]) -> io::Result<()> {
        if shares == Shares::WHOLE { self.open() } else { sys::attach_filter(self.socket, &mut self.program(shares, peers)) }
    }

    /// The program. The kernel runs it with the data at the UDP header (`net/ipv4/udp.c`, `udp_queue_rcv_one_skb`), and takes as many
    /// bytes as it returns.
    fn program(&self, shares: Shares, peers: &[IpAddr]) -> Vec<Instruction> {
        let ike = UDP_BYTES + if self.marked { NON_ESP_MARKER.len() as u32 } else { 0 };
        // What is too short for a first message costs nothing.
        let mut program = vec![
            instruction(BPF_LD | BPF_W | BPF_LEN, 0, 0, 0),
            instruction(BPF_JMP | BPF_JGT | BPF_K, 1, 0, ike + FIRST_PAYLOAD),
            take(u32::MAX),
        ];
        let zeros = self.marked.then_some(UDP_BYTES).into_iter().chain([ike + RESPONDER, ike + RESPONDER + 4]);
        program.extend(zeros.flat_map(|at| [load(BPF_W, at), equal(1, 0, 0), take(u32::MAX)]));
        let of_peer = draw(shares.of(Kind::OfPeer));
        let others = [
            &[load(BPF_B, ike + FIRST_PAYLOAD), equal(0, of_peer.len() as u8, NOTIFY)][..],
            &draw(shares.of(Kind::WithCookie)),
            &draw(shares.of(Kind::Other)),
        ]
        .concat();
        program.extend(compare(peers, others.len()));
        program.extend(others.into_iter().chain(of_peer));
        program
    }
}

fn load(size: u32, at: u32) -> Instruction {
    instruction(BPF_LD | size | BPF_ABS, 0, 0, at)
}

fn equal(yes: u8, no: u8, to: u32) -> Instruction {
    instruction(BPF_JMP | BPF_JEQ | BPF_K, yes, no, to)
}

fn take(bytes: u32) -> Instruction {
    instruction(BPF_RET | BPF_K, 0, 0, bytes)
}

/// Takes a share of what comes here.
fn draw(share: u32) -> [Instruction; 5] {
    let random = [load(BPF_W, RANDOM), instruction(BPF_ALU | BPF_AND | BPF_K, 0, 0, WHOLE - 1)];
    let [random, masked] = random;
    [random, masked, instruction(BPF_JMP | BPF_JGE | BPF_K, 0, 1, share), take(0), take(u32::MAX)]
}

/// Compares the source with addresses of one family, and goes on `behind` instructions after the last of these if it is one of them.
fn compare(addresses: &[IpAddr], behind: usize) -> Vec<Instruction> {
    let blocks: Vec<Vec<Instruction>> = addresses.iter().map(|address| differs(*address)).collect();
    let mut left: usize = blocks.iter().map(|block| block.len() + 1).sum();
    let mut program = Vec::with_capacity(left);
    for block in blocks {
        left -= block.len() + 1;
        program.extend(block);
        program.push(instruction(BPF_JMP | BPF_JA, 0, 0, (left + behind) as u32));
    }
    program
}

/// Skips the instruction behind these unless the source is this address.
fn differs(address: IpAddr) -> Vec<Instruction> {
    let words: Vec<(u32, u32)> = match address {
        IpAddr::V4(v4) => vec![(SOURCE_V4, v4.to_bits())],
        IpAddr::V6(v6) => (0..4).map(|word| (SOURCE_V6 + 4 * word, (v6.to_bits() >> (96 - 32 * word)) as u32)).collect(),
    };
    let last = words.len() - 1;
    let rest = |at: usize| 2 * (last - at) as u8 + 1;
    words
        .iter()
        .enumerate()
        .flat_map(|(at, (place, word))| [load(BPF_W, NETWORK.wrapping_add(*place)), equal(0, rest(at), *word)])
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr, UdpSocket};
    use std::os::fd::AsFd;
    use std::time::Duration;

    use penstock_ike::PeerId;

    use super::{ADDRESSES_MAX, Endpoints, Gate, Intake, SHARE_MIN, Shares, TAKEN_MAX, WHOLE};

    const NOTIFY: u8 = 41;
    const SA: u8 = 33;

    /// An IKE header, behind its marker where there is one.
    fn message(marked: bool, responder: u64, first: u8) -> Vec<u8> {
        let marker = [0; 4];
        [&marker[..if marked { 4 } else { 0 }], &[7; 8], &responder.to_be_bytes(), &[first, 0x20, 34, 8], &[0; 8]].concat()
    }

    /// What arrives of these messages at a socket with this program.
    fn taken(shares: Shares, marked: bool, peers: &[&str], sent: &[(&str, Vec<u8>)]) -> Vec<bool> {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let v6 = address(sent[0].0).is_ipv6();
        let socket = UdpSocket::bind(if v6 { "[::1]:0" } else { "127.0.0.1:0" }).expect("a socket");
        let gate = Gate { socket: socket.as_fd(), v6, port: 4500, marked };
        gate.set(shares, &peers.iter().map(|peer| address(peer)).collect::<Vec<_>>()).expect("a program");
        socket.set_nonblocking(true).expect("a socket");
        let mut arrives = |(from, bytes): &(&str, Vec<u8>)| {
            let sender = UdpSocket::bind(SocketAddr::new(address(from), 0)).expect("a sender");
            sender.send_to(bytes, socket.local_addr().expect("bound")).expect("sent");
            socket.recv(&mut [0; 64]).is_ok()
        };
        sent.iter().map(&mut arrives).collect()
    }

    #[test]
    fn each_kind_of_first_message_has_its_share_and_all_else_is_taken() {
        for marked in [true, false] {
            let first = message(marked, 0, SA);
            let sent = [
                ("127.0.0.3", first.clone()),
                ("127.0.0.3", message(marked, 0, NOTIFY)),
                ("127.0.0.2", first.clone()),
                ("127.0.0.2", message(marked, 0, NOTIFY)),
                ("127.0.0.3", message(marked, 1, SA)),
                ("127.0.0.3", message(marked, 1 << 32, SA)),
                ("127.0.0.3", vec![0xff]),
                ("127.0.0.3", first[..if marked { 20 } else { 16 }].to_vec()),
                ("127.0.0.3", [&[9; 8][..], &[0; 24]].concat()), // ESP that was merged behind an IKE message
            ];
            let peers = ["127.0.0.2", "127.0.0.9"];
            let kinds = |shares| taken(Shares(shares), marked, &peers, &sent)[..4].to_vec();
            assert_eq!(kinds([WHOLE, WHOLE, 0]), [false, true, true, true]);
            assert_eq!(kinds([WHOLE, 0, WHOLE]), [true, false, true, true]);
            assert_eq!(kinds([0, WHOLE, WHOLE]), [true, true, false, false]);
            // Nothing but first messages is ever kept out; what is ESP behind the marker's port is a first message on the other.
            assert_eq!(taken(Shares([0; 3]), marked, &peers, &sent)[4..], [true, true, true, true, marked]);
        }
    }

    #[test]
    fn ipv6_peers_are_told_apart_by_every_word_of_their_address() {
        let first = || message(true, 0, SA);
        let arrives = |peers: &[&str]| taken(Shares([WHOLE, 0, 0]), true, peers, &[("::1", first())]) == [true];
        assert!(arrives(&["2001:db8::1", "::1"]));
        for other in ["1::1", "::1:0:0:1", "::1:0:1", "::2"] {
            assert!(!arrives(&[other]), "{other}");
        }
    }

    #[test]
    fn as_many_addresses_as_are_compared_fit_the_program() {
        for v6 in [false, true] {
            let endpoints = Endpoints::default();
            for number in 0..2 * ADDRESSES_MAX as u32 {
                let address = if v6 { IpAddr::from(u128::from(number).to_be_bytes()) } else { IpAddr::from(number.to_be_bytes()) };
                endpoints.insert(PeerId(number), SocketAddr::new(address, 4500));
            }
            let socket = UdpSocket::bind(if v6 { "[::1]:0" } else { "127.0.0.1:0" }).expect("a socket");
            let gate = Gate { socket: socket.as_fd(), v6, port: 4500, marked: true };
            gate.set(Shares([1; 3]), &endpoints.addresses(v6)).expect("the kernel takes it");
            assert!(endpoints.addresses(!v6).is_empty());
            gate.open().expect("taken away");
            gate.open().expect("also where there is none");
        }
    }

    #[test]
    fn a_share_shrinks_to_what_there_is_time_for_and_grows_back() {
        let flood = |others| [0, 0, others];
        let after = Shares::WHOLE.after(flood(10 * TAKEN_MAX));
        assert_eq!(after, Shares([WHOLE, WHOLE, WHOLE / 10]), "the kinds that are no flood keep theirs");
        assert_eq!(after.after(flood(TAKEN_MAX)), after, "as many as there should be");
        assert_eq!(after.after(flood(TAKEN_MAX / 4)).0[2], after.0[2] * 2);
        let calm = (0..4).fold(after, |shares, _| shares.after(flood(0)));
        assert_eq!(calm, Shares::WHOLE);
        assert_eq!(after.after(flood(u32::MAX)), Shares([WHOLE, WHOLE, SHARE_MIN]), "somebody always comes through");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_flood_closes_the_gate_for_strangers_and_its_end_opens_it() {
        // Given a peer, and a socket
        let endpoints = Endpoints::default();
        endpoints.insert(PeerId(1), "127.0.0.2:4500".parse().expect("an endpoint"));
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let gate = Gate { socket: socket.as_fd(), v6: false, port: 4500, marked: true };
        let mut intake = Intake::new(endpoints);
        let first = message(false, 0, SA);
        let stranger = IpAddr::from([127, 0, 0, 3]);
        let window = |intake: &mut Intake, count: u32, from: IpAddr| {
            (0..count).for_each(|_| intake.count(from, &first));
            std::thread::sleep(Duration::from_millis(101));
            intake.turn(&gate);
        };
        // When there are few, then nothing is set
        window(&mut intake, TAKEN_MAX, stranger);
        assert!(intake.wake().is_none());
        // When there are many, then strangers have a share, the peer has its own, and what comes of it is counted as such
        window(&mut intake, 4 * TAKEN_MAX, stranger);
        assert!(intake.wake().is_some());
        assert_eq!(intake.shares, Shares([WHOLE, WHOLE, WHOLE / 4]));
        window(&mut intake, 2 * TAKEN_MAX, [127, 0, 0, 2].into());
        assert_eq!(intake.shares, Shares([WHOLE / 2, WHOLE, WHOLE / 2]));
        assert!(crate::sys::detach_filter(socket.as_fd()).is_ok(), "there is a program");
        // When the flood ends, then all is as it was
        (0..2).for_each(|_| window(&mut intake, 0, stranger));
        assert!(intake.wake().is_none());
        assert!(crate::sys::detach_filter(socket.as_fd()).is_err(), "there is none");
    }
}
