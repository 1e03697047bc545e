//! ESP of a plain peer (RFC 4303, RFC 4106): tunnel mode, AES-GCM, one pair that sends. It shares no code with the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use penstock_ike::{ChildKeys, Suite, When};

/// SPI, sequence number and IV.
const FRONT_BYTES: usize = 16;
/// The next header of an inner IPv4 packet.
const IPV4: u8 = 4;

/// One direction's cipher.
struct Cipher {
    key: LessSafeKey,
    salt: [u8; 4],
    esn: bool,
}

impl Cipher {
    fn new(keys: &ChildKeys) -> Self {
        let (algorithm, bytes) = match keys.suite {
            Suite::Aes128Gcm16 => (&AES_128_GCM, 16),
            Suite::Aes256Gcm16 => (&AES_256_GCM, 32),
        };
        let key = UnboundKey::new(algorithm, &keys.key[..bytes]).expect("a key of this length");
        Self { key: LessSafeKey::new(key), salt: keys.salt, esn: keys.esn }
    }

    fn nonce(&self, iv: &[u8]) -> Nonce {
        Nonce::try_assume_unique_for_key(&[&self.salt, iv].concat()).expect("twelve octets")
    }

    /// SPI and sequence number, with the high half in the middle where it is agreed: here it is always zero.
    fn additional(&self, front: &[u8]) -> Aad<Vec<u8>> {
        let high: &[u8] = if self.esn { &[0; 4] } else { &[] };
        Aad::from([&front[..4], high, &front[4..8]].concat())
    }
}

struct Inbound {
    cipher: Cipher,
    opened: BTreeSet<u32>,
    dies_ms: Option<u64>,
}

struct Outbound {
    cipher: Cipher,
    inbound_spi: u32,
    spi: u32,
    remote: SocketAddr,
    sequence: u32,
    /// It does not send yet, and begins then at the latest.
    waits_until_ms: Option<u64>,
}

/// What became of a packet from the wire.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// The inner packet.
    Inner(Vec<u8>),
    /// For no SA.
    Unknown,
    /// Not by the key of its SA, or not what it should carry.
    Bad,
    /// Opened before.
    Again,
}

/// The SAs.
#[derive(Default)]
pub struct Sas {
    inbound: BTreeMap<u32, Inbound>,
    /// In the order in which they were installed.
    outbound: Vec<Outbound>,
    /// The inbound SPI of the pair that sends.
    current: Option<u32>,
}

impl Sas {
    /// Receives from now on.
    pub fn receive_by(&mut self, spi: u32, keys: &ChildKeys) {
        self.inbound.insert(spi, Inbound { cipher: Cipher::new(keys), opened: BTreeSet::new(), dies_ms: None });
    }

    /// The other half of the pair `inbound_spi`.
    pub fn send_by(&mut self, now: u64, inbound_spi: u32, spi: u32, keys: &ChildKeys, remote: SocketAddr, when: When) {
        let waits_until_ms = match when {
            When::Now => None,
            When::OnInbound { or_after_ms: 0 } => Some(u64::MAX),
            When::OnInbound { or_after_ms } => Some(now + u64::from(or_after_ms)),
        };
        self.outbound.push(Outbound { cipher: Cipher::new(keys), inbound_spi, spi, remote, sequence: 0, waits_until_ms });
        if waits_until_ms.is_none() || self.inbound.get(&inbound_spi).is_some_and(|sa| !sa.opened.is_empty()) {
            self.begin(inbound_spi);
        }
    }

    fn begin(&mut self, inbound_spi: u32) {
        if let Some(sa) = self.outbound.iter_mut().find(|sa| sa.inbound_spi == inbound_spi) {
            sa.waits_until_ms = None;
            self.current = Some(inbound_spi);
        }
    }

    /// Sends no more by this pair, the newest other one takes over; what is on its way is received for a while.
    pub fn retire(&mut self, now: u64, inbound_spi: u32, drain_ms: u32) {
        if let Some(sa) = self.inbound.get_mut(&inbound_spi) {
            sa.dies_ms = Some(now + u64::from(drain_ms));
        }
        self.outbound.retain(|sa| sa.inbound_spi != inbound_spi);
        if self.current.take_if(|current| *current == inbound_spi).is_some()
            && let Some(next) = self.outbound.last().map(|sa| sa.inbound_spi)
        {
            self.begin(next);
        }
    }

    /// Packets go elsewhere from now on.
    pub fn redirect(&mut self, inbound_spi: u32, remote: SocketAddr) {
        self.outbound.iter_mut().filter(|sa| sa.inbound_spi == inbound_spi).for_each(|sa| sa.remote = remote);
    }

    /// Lets time pass.
    pub fn time(&mut self, now: u64) {
        self.inbound.retain(|_, sa| sa.dies_ms.is_none_or(|at| at > now));
        let due = self.outbound.iter().find(|sa| sa.waits_until_ms.is_some_and(|at| at <= now)).map(|sa| sa.inbound_spi);
        due.into_iter().for_each(|spi| self.begin(spi));
    }

    /// Opens a packet; the first one of a pair lets its other half send.
    pub fn open(&mut self, packet: &[u8]) -> Opened {
        let Some((front, sealed)) = packet.split_at_checked(FRONT_BYTES) else { return Opened::Bad };
        let word = |at: usize| u32::from_be_bytes([front[at], front[at + 1], front[at + 2], front[at + 3]]);
        let (spi, sequence) = (word(0), word(4));
        let Some(sa) = self.inbound.get_mut(&spi) else { return Opened::Unknown };
        let mut text = sealed.to_vec();
        let nonce = sa.cipher.nonce(&front[8..]);
        let Ok(text) = sa.cipher.key.open_in_place(nonce, sa.cipher.additional(front), &mut text) else { return Opened::Bad };
        let Some((inner, &[padding, IPV4])) = text.split_last_chunk() else { return Opened::Bad };
        let Some(length) = inner.len().checked_sub(padding.into()) else { return Opened::Bad };
        if !sa.opened.insert(sequence) {
            return Opened::Again;
        }
        let inner = inner[..length].to_vec();
        if self.outbound.iter().any(|sa| sa.inbound_spi == spi && sa.waits_until_ms.is_some()) {
            self.begin(spi);
        }
        Opened::Inner(inner)
    }

    /// Seals an inner IPv4 packet: what goes out, and where to; `None`: no pair sends.
    pub fn seal(&mut self, inner: &[u8]) -> Option<(Vec<u8>, SocketAddr)> {
        let current = self.current?;
        let sa = self.outbound.iter_mut().find(|sa| sa.inbound_spi == current)?;
        sa.sequence += 1;
        let iv = u64::from(sa.sequence).to_be_bytes();
        let mut packet = [&sa.spi.to_be_bytes()[..], &sa.sequence.to_be_bytes(), &iv].concat();
        let additional = sa.cipher.additional(&packet);
        // Section 2.4 of RFC 4303: the trailer ends on a word, and padding counts 1, 2, 3.
        let padding = (2 + inner.len()).wrapping_neg() % 4;
        let mut text = inner.to_vec();
        text.extend((1..).take(padding));
        text.extend([u8::try_from(padding).ok()?, IPV4]);
        sa.cipher.key.seal_in_place_append_tag(sa.cipher.nonce(&iv), additional, &mut text).ok()?;
        packet.append(&mut text);
        Some((packet, sa.remote))
    }
}

#[cfg(test)]
mod tests {
    use super::{FRONT_BYTES, Opened, Sas};
    use penstock_ike::{ChildKeys, Suite, When};

    const TAG_BYTES: usize = 16;

    fn keys(byte: u8) -> ChildKeys {
        ChildKeys { suite: Suite::Aes256Gcm16, esn: true, key: Box::new([byte; 32]), salt: [byte; 4] }
    }

    /// Sends to itself, by an SPI and key a pair.
    fn pair(sas: &mut Sas, spi: u32, when: When) {
        let key = keys(u8::try_from(spi).expect("small"));
        sas.receive_by(spi, &key);
        sas.send_by(0, spi, spi, &key, "192.0.2.1:4500".parse().expect("an address"), when);
    }

    #[test]
    fn what_is_sealed_is_opened_once_and_not_when_it_was_changed() {
        for length in 0..9_u8 {
            let mut sas = Sas::default();
            pair(&mut sas, 1, When::Now);
            let inner: Vec<u8> = (0..length).collect();
            let (packet, _) = sas.seal(&inner).expect("an SA");
            assert_eq!((packet.len() - FRONT_BYTES - TAG_BYTES) % 4, 0);
            let mut changed = packet.clone();
            changed[FRONT_BYTES] ^= 1;
            assert_eq!([sas.open(&changed), sas.open(&packet), sas.open(&packet)], [Opened::Bad, Opened::Inner(inner), Opened::Again]);
            assert_eq!(sas.open(&[0, 0, 0, 9]), Opened::Bad);
            assert_eq!(sas.open(&[9; 40]), Opened::Unknown);
        }
    }

    #[test]
    fn a_successor_sends_when_it_was_heard_when_its_time_comes_or_when_it_is_alone() {
        let spi = |sas: &mut Sas| sas.seal(&[]).map(|(packet, _)| packet[3]);
        let mut sas = Sas::default();
        assert_eq!(spi(&mut sas), None);
        pair(&mut sas, 1, When::Now);
        pair(&mut sas, 2, When::OnInbound { or_after_ms: 0 });
        sas.time(1 << 40);
        assert_eq!(spi(&mut sas), Some(1), "never by time");
        let mut far = Sas::default();
        pair(&mut far, 2, When::Now);
        let (packet, _) = far.seal(&[]).expect("an SA");
        assert_eq!((sas.open(&packet), spi(&mut sas)), (Opened::Inner(vec![]), Some(2)));
        pair(&mut sas, 3, When::OnInbound { or_after_ms: 10 });
        sas.time(9);
        assert_eq!(spi(&mut sas), Some(2));
        sas.time(10);
        assert_eq!(spi(&mut sas), Some(3));
        sas.retire(10, 3, 5);
        assert_eq!(spi(&mut sas), Some(2));
        let mut far = Sas::default();
        pair(&mut far, 3, When::Now);
        let (packet, _) = far.seal(&[]).expect("an SA");
        sas.time(14);
        assert_eq!(sas.open(&packet), Opened::Inner(vec![]), "it drains");
        sas.time(15);
        assert_eq!(sas.open(&packet), Opened::Unknown);
    }
}
