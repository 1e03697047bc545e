//! What must never be seen on a wire, looked for in everything that passes.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::frame::Datagram;

/// What was found. All of it must be zero but for the numbers of what was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// ESP packets looked at.
    pub esp_packets: u64,
    /// SAs seen: pairs of destination and SPI, and those that have come again.
    pub sas: u64,
    /// SPIs that an SA had which had been silent for ten seconds, and that begin anew: another SA, with another key. An SPI has 22 random bits, so after
    /// some thousand SAs one comes again by chance.
    pub reused_spis: u64,
    /// ESP packets whose (destination, SPI, IV) had been seen before in the life of the SA.
    pub repeated_nonces: u64,
    /// Frames with a marker in clear.
    pub clear_frames: u64,
    /// Times that an address which had proved nothing got more bytes in answers than it had sent.
    pub amplified: u64,
}

/// The auditor. It lives as long as a campaign, whatever is restarted meanwhile.
#[derive(Debug, Default)]
pub struct Audit {
    markers: Vec<Vec<u8>>,
    seen: HashMap<(IpAddr, u32), Life>,
    accounts: HashMap<IpAddr, Account>,
    findings: Findings,
}

/// For so long the SA of an SPI is silent before another one may have it: a pair drains for five seconds.
const SILENCE: Duration = Duration::from_secs(10);
/// The first number of an SA that is seen: some may be lost before the wire.
const BEGINNING: u64 = 64;

/// What an SA has sent.
#[derive(Debug)]
struct Life {
    numbers: Numbers,
    last: Instant,
}

#[derive(Debug, Default)]
struct Account {
    sent: u64,
    received: u64,
    proven: bool,
}

/// A set of numbers that mostly follow each other: first and last of each row.
#[derive(Debug, Default)]
struct Numbers(BTreeMap<u64, u64>);

impl Numbers {
    /// Whether the number is new.
    fn insert(&mut self, number: u64) -> bool {
        let before = self.0.range(..=number).next_back().map(|(first, last)| (*first, *last));
        if before.is_some_and(|(_, last)| last >= number) {
            return false;
        }
        let joined = before.filter(|(_, last)| last.checked_add(1) == Some(number));
        let first = joined.map_or(number, |(first, _)| first);
        let after = number.checked_add(1).and_then(|next| self.0.remove(&next));
        self.0.insert(first, after.unwrap_or(number));
        true
    }
}

impl Audit {
    /// Looks for these texts in clear.
    #[must_use]
    pub fn new(markers: Vec<Vec<u8>>) -> Self {
        Self { markers: markers.into_iter().filter(|marker| !marker.is_empty()).collect(), ..Self::default() }
    }

    /// What was found so far.
    #[must_use]
    pub fn findings(&self) -> Findings {
        Findings { sas: self.seen.len() as u64 + self.findings.reused_spis, ..self.findings.clone() }
    }

    /// A frame as one end sent it, before the wire did anything to it: every nonce must be new, and nothing may be in clear. `home` is where
    /// its destination truly is, if the wire lets that seem elsewhere; `now` is when it was sent.
    pub fn sent(&mut self, frame: &[u8], home: Option<IpAddr>, now: Instant) {
        if self.markers.iter().any(|marker| contains(frame, marker)) {
            self.findings.clear_frames += 1;
        }
        let Some(datagram) = Datagram::find(frame) else { return };
        if let Some((spi, iv)) = datagram.esp(frame) {
            self.findings.esp_packets += 1;
            let end = (home.unwrap_or(datagram.destination), spi);
            let life = self.seen.entry(end).or_insert_with(|| Life { numbers: Numbers::default(), last: now });
            if iv <= BEGINNING && now.saturating_duration_since(life.last) >= SILENCE {
                life.numbers = Numbers::default();
                self.findings.reused_spis += 1;
            }
            life.last = now;
            if !life.numbers.insert(iv) {
                self.findings.repeated_nonces += 1;
            }
        }
        self.owe(frame, &datagram);
        self.credit(frame, true);
    }

    /// A datagram that an end sent goes to this address: was it owed?
    fn owe(&mut self, frame: &[u8], datagram: &Datagram) {
        let payload = datagram.payload(frame);
        if Ike::read(datagram, payload).is_some_and(|ike| ike.opening) {
            return; // who is configured may be asked without having spoken
        }
        let account = self.accounts.entry(datagram.destination).or_default();
        account.received += payload.len() as u64;
        if !account.proven && account.received > account.sent {
            self.findings.amplified += 1;
        }
    }

    /// A datagram goes out from its source address. `genuine`: an end of the wire made it just now, so that what stands in it proves who
    /// sends, unless it is the first exchange of IKE, which anybody can make.
    pub fn credit(&mut self, frame: &[u8], genuine: bool) {
        let Some(datagram) = Datagram::find(frame) else { return };
        let payload = datagram.payload(frame);
        let account = self.accounts.entry(datagram.source).or_default();
        account.sent += payload.len() as u64;
        let proof = match Ike::read(&datagram, payload) {
            Some(ike) => !ike.first,
            None => datagram.esp(frame).is_some(),
        };
        account.proven |= genuine && proof;
    }
}

/// What stands in the header of an IKE message (RFC 7296 section 3.1).
struct Ike {
    /// IKE_SA_INIT, or an error without an IKE SA.
    first: bool,
    /// A request that opens an IKE SA, which only goes to who is configured.
    opening: bool,
}

impl Ike {
    fn read(datagram: &Datagram, payload: &[u8]) -> Option<Self> {
        const IKE_SA_INIT: u8 = 34;
        const IKE_AUTH: u8 = 35;
        const IKE_INTERMEDIATE: u8 = 43; // RFC 9242
        const RESPONSE: u8 = 0x20;
        let message = if datagram.ports.contains(&500) { payload } else { payload.strip_prefix(&[0; 4])? };
        let (exchange, flags) = (*message.get(18)?, *message.get(19)?);
        let outside = message.get(8..16)?.iter().all(|byte| *byte == 0);
        let opening = matches!(exchange, IKE_SA_INIT | IKE_AUTH | IKE_INTERMEDIATE) && flags & RESPONSE == 0;
        Some(Self { first: exchange == IKE_SA_INIT || outside, opening })
    }
}

fn contains(frame: &[u8], marker: &[u8]) -> bool {
    let Some((first, rest)) = marker.split_first() else { return false };
    let mut at = 0;
    while let Some(next) = frame.get(at..).and_then(|tail| tail.iter().position(|byte| byte == first)) {
        at += next + 1;
        if frame.get(at..).is_some_and(|tail| tail.starts_with(rest)) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{Audit, Findings, Numbers, SILENCE};
    use crate::faulty::frame::tests::frame;

    fn esp(spi: u32, iv: u64, text: &[u8]) -> Vec<u8> {
        [&spi.to_be_bytes()[..], &[0, 0, 0, 1], &iv.to_be_bytes(), text, &[0; 16]].concat()
    }

    fn ike(exchange: u8, flags: u8, length: usize) -> Vec<u8> {
        let mut message = vec![0; 4 + length];
        message[4..20].fill(7);
        (message[22], message[23]) = (exchange, flags);
        message
    }

    fn findings(frames: &[Vec<u8>]) -> Findings {
        let mut audit = Audit::new(vec![b"secret".to_vec()]);
        frames.iter().for_each(|frame| audit.sent(frame, None, Instant::now()));
        audit.findings()
    }

    #[test]
    fn a_planted_repeat_of_a_nonce_is_found() {
        let ivs = |last: u64| [5, 6, 7, 9, 8, 1, last].map(|iv| frame(1, 2, &esp(77, iv, b"")));
        assert_eq!(findings(&ivs(10)).repeated_nonces, 0);
        for iv in [1, 5, 6, 7, 8, 9] {
            assert_eq!(findings(&ivs(iv)).repeated_nonces, 1, "{iv}");
        }
    }

    #[test]
    fn one_iv_under_two_spis_or_to_two_destinations_is_no_repeat() {
        let frames = [frame(1, 2, &esp(1, 5, b"")), frame(1, 2, &esp(2, 5, b"")), frame(2, 1, &esp(1, 5, b""))];
        let found = findings(&frames);
        assert_eq!((found.esp_packets, found.sas, found.repeated_nonces), (3, 3, 0));
    }

    #[test]
    fn an_address_that_moved_takes_its_nonces_with_it() {
        let mut audit = Audit::default();
        let home = "10.0.0.2".parse().ok();
        audit.sent(&frame(1, 2, &esp(1, 5, b"")), None, Instant::now());
        audit.sent(&frame(1, 77, &esp(1, 5, b"")), home, Instant::now());
        assert_eq!(audit.findings().repeated_nonces, 1);
    }

    #[test]
    fn an_spi_that_comes_again_is_another_sa_only_after_a_silence_and_from_its_beginning() {
        let start = Instant::now();
        for (silence, iv, repeats, reused) in [(SILENCE / 2, 5, 1, 0), (SILENCE, 5, 0, 1), (SILENCE, 1_000, 1, 0)] {
            let mut audit = Audit::default();
            for number in [5, 6, 1_000] {
                audit.sent(&frame(1, 2, &esp(1, number, b"")), None, start);
            }
            audit.sent(&frame(1, 2, &esp(1, iv, b"")), None, start + silence);
            let found = audit.findings();
            assert_eq!((found.repeated_nonces, found.reused_spis, found.sas), (repeats, reused, 1 + reused), "{silence:?} {iv}");
            // From then on a repeat is one.
            audit.sent(&frame(1, 2, &esp(1, iv, b"")), None, start + silence);
            assert_eq!(audit.findings().repeated_nonces, repeats + 1);
        }
    }

    #[test]
    fn a_planted_clear_byte_is_found() {
        assert_eq!(findings(&[frame(1, 2, &esp(1, 1, b"a sesecret")), frame(1, 2, &esp(1, 2, b"secre"))]).clear_frames, 1);
    }

    #[test]
    fn a_planted_answer_larger_than_its_request_is_found() {
        let exchange = |answer: usize| [frame(9, 2, &ike(34, 8, 100)), frame(2, 9, &ike(34, 0x20, answer))];
        assert_eq!(findings(&exchange(100)).amplified, 0);
        assert_eq!(findings(&exchange(101)).amplified, 1);
        // An answer that is no answer but a request of a later exchange counts too.
        assert_eq!(findings(&[frame(9, 2, &ike(34, 8, 100)), frame(2, 9, &ike(37, 0, 101))]).amplified, 1);
        // Two answers to one request are too much as well; garbage from the address counts as sent.
        let mut audit = Audit::default();
        audit.credit(&frame(9, 2, &[1; 50]), false);
        audit.sent(&frame(2, 9, &esp(1, 1, b"x")), None, Instant::now());
        assert_eq!(audit.findings().amplified, 0);
        audit.sent(&frame(2, 9, &esp(1, 2, b"x")), None, Instant::now());
        assert_eq!(audit.findings().amplified, 1);
    }

    #[test]
    fn who_has_proved_itself_may_get_more_and_a_replay_is_no_proof() {
        let large = frame(2, 1, &esp(2, 1, &[0; 1000]));
        let mut audit = Audit::default();
        audit.credit(&frame(1, 2, &esp(1, 1, b"")), true);
        audit.sent(&large, None, Instant::now());
        assert_eq!(audit.findings().amplified, 0);
        let mut audit = Audit::default();
        audit.credit(&frame(1, 2, &esp(1, 1, b"")), false);
        audit.sent(&large, None, Instant::now());
        assert_eq!(audit.findings().amplified, 1);
    }

    #[test]
    fn a_set_of_numbers_is_a_set_in_any_order() {
        let mut numbers = Numbers::default();
        let order: Vec<u64> = (0..1000).map(|at| at * 617 % 1000).chain([u64::MAX]).collect();
        assert!(order.iter().all(|number| numbers.insert(*number)));
        assert!(!order.iter().any(|number| numbers.insert(*number)));
        assert_eq!(numbers.0.len(), 2, "rows are joined");
    }
}
