//! IKE: each message before and after the keys. Where an input is protected, it is sealed here with the right keys, so that the
//! bytes reach the parsers behind the decryption.
//!
//! An input for a protected message is one record a payload: kind, flags, body. A flags octet with its lowest bit set takes the
//! body as raw octets in place of a whole chain, whose first kind is the record's. An AUTH payload without a body gets the right proof.

use std::net::SocketAddr;

use penstock_ike::{ChildId, Config, Dpd, Group, Host, Identity, Ike, IkeSuite, Output, PeerConfig, PeerId, Psk, Suite, Upkeep};

use crate::peer::{self, Able, Payload, Peer, exchange, kind};
use crate::records;

const PSK: &[u8] = b"a key that both sites have, long enough";
/// Protected messages of one input.
const MESSAGES_MAX: usize = 6;

/// Randomness that repeats, SPIs that count.
#[derive(Debug)]
struct Counting(u64, u32);

impl Host for Counting {
    fn random(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (self.0 >> 56) as u8;
        }
    }

    fn allocate_spi(&mut self, _: PeerId, _: Option<u16>) -> u32 {
        self.1 += 0x100;
        self.1
    }
}

/// The site under test, with one peer, and a clock.
#[derive(Debug)]
pub struct Site {
    ike: Ike,
    host: Counting,
    now: u64,
    /// What it sent, in order.
    pub sent: Vec<Vec<u8>>,
    up: bool,
}

fn here() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 4500))
}

fn there() -> SocketAddr {
    SocketAddr::from(([198, 51, 100, 2], 4500))
}

enum Step {
    Expected(ChildId),
    Installed(ChildId),
    Activated(ChildId),
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

impl Site {
    /// One that has done nothing yet. It takes one suite only, the one that [`peer`] has.
    ///
    /// # Panics
    /// Never: the prefixes are prefixes.
    #[must_use]
    pub fn new() -> Self {
        Self::able(false)
    }

    /// The same, with a second key exchange or without.
    fn able(ml_kem: bool) -> Self {
        let mut host = Counting(1, 0x1_0000);
        let config = Config { groups: vec![Group::X25519], ..Config::default() };
        let mut ike = Ike::new(config, 0, &mut host);
        let nets = |nets: [&str; 2]| nets.map(|net| net.parse().expect("a prefix")).to_vec();
        let peer = PeerConfig {
            id: PeerId(7),
            name: "there".to_owned(),
            local_id: Identity::Fqdn("here.example".to_owned()),
            remote_id: Identity::Fqdn("there.example".to_owned()),
            psk: Psk::new(PSK.to_vec()),
            local_subnets: nets(["10.1.0.0/16", "fd01::/64"]),
            remote_subnets: nets(["10.2.0.0/16", "fd02::/64"]),
            ike_suites: vec![IkeSuite::Aes256Gcm16],
            ml_kem,
            esp_suites: vec![Suite::Aes256Gcm16, Suite::Aes128Gcm16],
            endpoint: Some(there()),
            local: None,
            per_core: true,
            start: penstock_ike::Start::Always,
            upkeep: Upkeep::default(),
            dpd: Dpd::default(),
            keepalive_ms: penstock_ike::KEEPALIVE_MS,
        };
        ike.set_peer(0, peer);
        Self { ike, host, now: 0, sent: Vec::new(), up: false }
    }

    /// Does what is asked, as an engine that says yes to everything.
    fn drain(&mut self) {
        while let Some(output) = self.ike.poll() {
            let step = match output {
                Output::Send { message, .. } => {
                    self.sent.push(message);
                    continue;
                }
                Output::Expect { child, .. } => Step::Expected(child),
                Output::InstallInbound { child, .. } => Step::Installed(child),
                Output::InstallOutbound { child, .. } => Step::Activated(child),
                Output::Up { .. } => {
                    self.up = true;
                    continue;
                }
                _ => continue,
            };
            match step {
                Step::Expected(child) => self.ike.expected(self.now, child),
                Step::Installed(child) => self.ike.installed(self.now, child),
                Step::Activated(child) => self.ike.activated(self.now, child),
            }
        }
    }

    /// Begins a handshake; its first message.
    pub fn initiate(&mut self) -> Vec<u8> {
        self.ike.initiate(self.now, PeerId(7), true, &mut self.host);
        self.drain();
        self.sent.last().cloned().unwrap_or_default()
    }

    /// Hears a datagram.
    pub fn hear(&mut self, message: &[u8]) {
        self.now += 1;
        self.ike.receive(self.now, there(), here(), message, &mut self.host);
        self.drain();
    }

    /// A minute passes, second by second.
    fn wait(&mut self) {
        for _ in 0..60 {
            self.now += 1_000;
            self.ike.tick(self.now, &mut self.host);
            self.drain();
        }
        let _ = self.ike.snapshot(self.now);
    }

    /// Answers a first message of [`peer`], which then has the keys.
    fn respond(&mut self) -> Peer {
        self.respond_to(Able::Plain)
    }

    fn respond_to(&mut self, able: Able) -> Peer {
        let request = peer::first_request_of(able);
        self.hear(&request);
        let response = self.sent.last().expect("an answer to a good first message");
        Peer::new(&request, response, true).expect("the keys of our own handshake")
    }

    /// Sends a first message, which [`peer`] answers; it then has the keys, and our IKE_AUTH has left.
    fn ask(&mut self) -> Peer {
        self.ask_of(Able::Plain)
    }

    fn ask_of(&mut self, able: Able) -> Peer {
        let request = self.initiate();
        let response = peer::first_response_of(able, &request);
        self.hear(&response);
        Peer::new(&request, &response, false).expect("the keys of our own handshake")
    }
}

/// The payloads of an input, as `seal` takes them.
fn payloads(peer: &Peer, identity: u8, bytes: &[u8]) -> (u8, Vec<u8>) {
    let mut payloads = Vec::new();
    for part in records::split(bytes).take(100) {
        let Some(([kind, flags], body)) = part.split_first_chunk::<2>() else { continue };
        if flags & 1 == 1 {
            return (*kind, body.to_vec());
        }
        payloads.push(Payload { kind: *kind, flags: *flags, body: body.to_vec() });
    }
    let identity = payloads.iter().find(|payload| payload.kind == identity).map(|payload| payload.body.clone());
    for payload in payloads.iter_mut().filter(|payload| payload.kind == kind::AUTH && payload.body.is_empty()) {
        payload.body = peer.proof(PSK, identity.as_deref().unwrap_or_default());
    }
    let (first, mut bytes) = peer::chain(&payloads);
    bytes.truncate(60_000);
    (first, bytes)
}

/// An input for payloads.
#[must_use]
pub fn written(payloads: &[Payload]) -> Vec<u8> {
    records::join(payloads.iter().map(|payload| [&[payload.kind, payload.flags & 0xfe], payload.body.as_slice()].concat()))
}

/// A stranger's datagram at a site that knows of nobody, and again at one that is half open.
///
/// # Panics
/// If the stranger gets more octets than it sent, or if more than one handshake is kept for it.
pub fn first_request(bytes: &[u8]) {
    let mut site = Site::new();
    for state in 0..2 {
        let before = site.sent.len();
        site.hear(bytes);
        let answered: usize = site.sent.iter().skip(before).map(Vec::len).sum();
        assert!(answered <= bytes.len(), "{answered} octets for {}", bytes.len());
        assert!(site.ike.half_open() <= 1 + state, "{} half open", site.ike.half_open());
        site.hear(&peer::first_request());
    }
    site.wait();
    assert!(!site.up && site.ike.half_open() == 0, "a stranger is nobody, and forgotten");
}

/// An answer to our first message. The rest of it goes by the true one.
///
/// # Panics
/// If a peer without the key comes up.
pub fn first_response(bytes: &[u8]) {
    let mut site = Site::new();
    let request = site.initiate();
    // The initiator's SPI is what a real answer has; the input need not guess it.
    let mut answer = bytes.to_vec();
    if let (Some(to), Some(from)) = (answer.get_mut(..8), request.get(..8)) {
        to.copy_from_slice(from);
    }
    site.hear(&answer);
    site.hear(&peer::first_response(&request));
    site.wait();
    assert!(!site.up, "nobody has proved anything");
}

/// Payloads of IKE_AUTH at a responder.
pub fn auth_request(bytes: &[u8]) {
    let mut site = Site::new();
    let mut peer = site.respond();
    let (first, plain) = payloads(&peer, kind::ID_I, bytes);
    site.hear(&peer.seal(exchange::AUTH, false, 1, first, &plain));
    site.wait();
}

/// Payloads of the answer to our IKE_AUTH.
pub fn auth_response(bytes: &[u8]) {
    let mut site = Site::new();
    let mut peer = site.ask();
    let (first, plain) = payloads(&peer, kind::ID_R, bytes);
    site.hear(&peer.seal(exchange::AUTH, true, 1, first, &plain));
    site.wait();
}

/// Payloads of IKE_INTERMEDIATE: bit 0 of the first octet says who began the IKE SA.
///
/// # Panics
/// If a peer that has proved nothing comes up.
pub fn intermediate(bytes: &[u8]) {
    let Some((flags, rest)) = bytes.split_first() else { return };
    let mut site = Site::able(true);
    let response = flags & 1 == 0;
    let mut peer = if response { site.ask_of(Able::Mixed) } else { site.respond_to(Able::Mixed) };
    let (first, plain) = payloads(&peer, kind::ID_I, rest);
    site.hear(&peer.seal(exchange::INTERMEDIATE, response, 1, first, &plain));
    site.wait();
    assert!(!site.up, "nobody has proved anything");
}

/// Pieces of a message: bit 0 of the first octet says whether the peer has proved itself before. Of each record the first three octets are
/// the number of the piece, how many there are, and the kind of the first payload; the rest is what is sealed.
///
/// # Panics
/// If the honest handshake before it does not come up, or if pieces get more than one answer.
pub fn fragments(bytes: &[u8]) {
    let Some((flags, rest)) = bytes.split_first() else { return };
    let mut site = Site::new();
    let mut peer = site.respond_to(Able::Fragments);
    let (mut kind, mut id) = (exchange::AUTH, 1);
    if flags & 1 == 1 {
        let (first, plain) = payloads(&peer, kind::ID_I, &honest(kind::ID_I));
        site.hear(&peer.seal(exchange::AUTH, false, 1, first, &plain));
        assert!(site.up, "the honest handshake comes up");
        (kind, id) = (exchange::INFORMATIONAL, 2);
    }
    let before = site.sent.len();
    for part in records::split(rest).take(64) {
        let Some(([number, total, first], plain)) = part.split_first_chunk::<3>() else { continue };
        site.hear(&peer.seal_piece((kind, false, id), [u16::from(*number), u16::from(*total)], *first, plain));
    }
    // The answer, and its repetition for a first piece that comes again.
    let firsts = records::split(rest).take(64).count();
    assert!(site.sent.len() <= before + 1 + firsts, "{} messages", site.sent.len());
    site.wait();
}

/// An honest IKE_AUTH in three pieces, as an input for [`fragments`].
#[must_use]
pub fn honest_pieces() -> Vec<u8> {
    let peer = Site::new().respond_to(Able::Fragments);
    let (first, plain) = payloads(&peer, kind::ID_I, &honest(kind::ID_I));
    let each = plain.len().div_ceil(3);
    let pieces = (1..=3).zip(plain.chunks(each)).map(|(number, plain)| [&[number, 3, if number == 1 { first } else { 0 }], plain].concat());
    [&[0], records::join(pieces).as_slice()].concat()
}

/// Our own IKE_INTERMEDIATE request, as an input for [`intermediate`].
///
/// # Panics
/// If there is none.
#[must_use]
pub fn honest_intermediate() -> Vec<u8> {
    let mut site = Site::able(true);
    let peer = site.ask_of(Able::Mixed);
    let (.., payloads) = site.sent.last().and_then(|message| peer.open(message)).expect("our request, whole");
    [&[1], written(&payloads).as_slice()].concat()
}

/// Messages of an authenticated peer: of each record the first octet is the exchange, the second the side that began the IKE SA (bit
/// 0), whether it is a response (bit 1) and whether an own request is under way (bit 2), the rest payloads.
///
/// # Panics
/// If the honest handshake before it does not come up.
pub fn established(bytes: &[u8]) {
    let began = bytes.get(3).is_some_and(|flags| flags & 1 == 1);
    let mut site = Site::new();
    let (mut peer, mut next) = if began {
        let mut peer = site.respond();
        let (first, plain) = payloads(&peer, kind::ID_I, &honest(kind::ID_I));
        site.hear(&peer.seal(exchange::AUTH, false, 1, first, &plain));
        (peer, 2)
    } else {
        let mut peer = site.ask();
        let (first, plain) = payloads(&peer, kind::ID_R, &honest(kind::ID_R));
        site.hear(&peer.seal(exchange::AUTH, true, 1, first, &plain));
        (peer, 0)
    };
    assert!(site.up, "the honest handshake comes up");
    for part in records::split(bytes).take(MESSAGES_MAX) {
        let Some(([exchange, flags], rest)) = part.split_first_chunk::<2>() else { continue };
        if flags & 4 != 0 {
            let _ = site.ike.create_child(site.now, PeerId(7), u16::from(flags >> 4), &mut site.host);
            site.drain();
        }
        // The id of the request under way, where there is one.
        let asked = site.sent.last().and_then(|message| peer.open(message)).map_or(0, |(_, _, id, _)| id);
        let response = flags & 2 != 0;
        let (first, plain) = payloads(&peer, kind::ID_I, rest);
        site.hear(&peer.seal(*exchange, response, if response { asked } else { next }, first, &plain));
        next += u32::from(!response);
    }
    site.wait();
}

/// The payloads of an honest IKE_AUTH of [`peer`], as an input; `identity` is the kind of its ID payload.
#[must_use]
pub fn honest(identity: u8) -> Vec<u8> {
    // ESP with AES-GCM-16 of 256 bits and ESN, an SPI of its own.
    let proposal = [0, 0, 0, 32, 1, 3, 4, 2, 0x11, 0x22, 0x33, 0x44, 3, 0, 0, 12, 1, 0, 0, 20, 0x80, 14, 1, 0, 0, 0, 0, 8, 5, 0, 0, 1];
    let selector = |site: u8| [1, 0, 0, 0, 7, 0, 0, 16, 0, 0, 0xff, 0xff, 10, site, 0, 0, 10, site, 0xff, 0xff];
    // The initiator's subnets stand first.
    let (from, towards) = if identity == kind::ID_I { (2, 1) } else { (1, 2) };
    written(&[
        Payload::new(identity, [&[2, 0, 0, 0], b"there.example".as_slice()].concat()),
        Payload::new(kind::AUTH, []),
        Payload::new(kind::SA, proposal),
        Payload::new(kind::TS_I, selector(from)),
        Payload::new(kind::TS_R, selector(towards)),
        // SA_RESOURCE_INFO (RFC 9611): more children may follow.
        Payload::new(kind::NOTIFY, [0, 0, 0x40, 0x3c]),
    ])
}

/// Our own protected messages of a handshake and of what follows, opened by the peer: recipes for corpora.
///
/// # Panics
/// If the handshake fails.
#[must_use]
pub fn conversation() -> [Vec<Vec<Payload>>; 2] {
    let mut site = Site::new();
    let mut peer = site.ask();
    let (first, plain) = payloads(&peer, kind::ID_R, &honest(kind::ID_R));
    site.hear(&peer.seal(exchange::AUTH, true, 1, first, &plain));
    assert!(site.up, "the honest handshake comes up");
    let _ = site.ike.create_child(site.now, PeerId(7), 1, &mut site.host);
    site.drain();
    site.ike.close(site.now, PeerId(7));
    site.drain();
    let opened = |messages: &[Vec<u8>], peer: &Peer| -> Vec<Vec<Payload>> {
        messages.iter().filter_map(|message| peer.open(message)).map(|(_, _, _, payloads)| payloads).collect()
    };
    let began = opened(&site.sent, &peer);
    let mut site = Site::new();
    let mut peer = site.respond();
    let (first, plain) = payloads(&peer, kind::ID_I, &honest(kind::ID_I));
    site.hear(&peer.seal(exchange::AUTH, false, 1, first, &plain));
    let answered = opened(&site.sent, &peer);
    assert!(!answered.is_empty(), "the honest handshake is answered");
    [began, answered]
}
