//! When a key is used up: soft limits ask for a new one, hard limits stop it.
//!
//! The bounds are those of AES-GCM and of the sequence number; a configuration may lower them and never raise them.
//! Time is not counted here: the caller has the clock and compares with [`Lifetime::hard_ms`].

use penstock_uapi::request::Limits;

use crate::esp::packet::{HEADER_BYTES, ICV_BYTES};

/// Cipher blocks of 16 bytes under one key, the block of additional data counted in. Below 2^36 the
/// advantage of an attacker stays below 2^-57 (draft-irtf-cfrg-aead-limits).
pub const HARD_BLOCKS: u64 = (1 << 36) - 1;
/// Half of the blocks leaves time for a new key.
pub const SOFT_BLOCKS: u64 = 1 << 35;
/// Without extended numbers the last one is 2^32 - 1 (RFC 4303 section 3.3.3).
pub const HARD_PACKETS: u64 = (1 << 32) - 1;
/// Half of the numbers there are without ESN.
pub const SOFT_PACKETS: u64 = 1 << 31;
/// Packets with ESN. [`HARD_BLOCKS`] come first: a packet has two blocks at least.
pub const HARD_PACKETS_ESN: u64 = 1 << 36;
/// Half of [`HARD_PACKETS_ESN`].
pub const SOFT_PACKETS_ESN: u64 = 1 << 35;
/// Failed authentications under one key (draft-irtf-cfrg-aead-limits, as in RFC 9001 section 6.6).
pub const FAILURES: u64 = 1 << 36;
/// 70 minutes: an hour, and ten minutes in which to make a new key.
pub const HARD_MS: u64 = 70 * 60 * 1000;

/// What a key has carried, and what it may.
#[derive(Clone, Debug)]
pub struct Lifetime {
    packets: u64,
    blocks: u64,
    failures: u64,
    soft_packets: u64,
    hard_packets: u64,
    soft_blocks: u64,
    hard_blocks: u64,
    failures_max: u64,
    hard_ms: u64,
    burnt: bool,
}

impl Lifetime {
    /// A fresh key with these limits. Zero, or more than the engine's own bound, means that bound; a soft limit that
    /// is not given is at most half of its hard one.
    #[must_use]
    pub fn new(limits: &Limits, esn: bool) -> Self {
        let (own_hard, own_soft) = if esn { (HARD_PACKETS_ESN, SOFT_PACKETS_ESN) } else { (HARD_PACKETS, SOFT_PACKETS) };
        let hard_packets = lowered(limits.hard_packets.get(), own_hard);
        let hard_blocks = lowered(limits.hard_blocks.get(), HARD_BLOCKS);
        Self {
            packets: 0,
            blocks: 0,
            failures: 0,
            soft_packets: soft(limits.soft_packets.get(), own_soft, hard_packets),
            hard_packets,
            soft_blocks: soft(limits.soft_blocks.get(), SOFT_BLOCKS, hard_blocks),
            hard_blocks,
            failures_max: lowered(limits.failures.get(), FAILURES),
            hard_ms: lowered(limits.hard_ms.get(), HARD_MS),
            burnt: false,
        }
    }

    /// Whether the key may be used for one more frame of this many bytes.
    #[inline]
    #[must_use]
    pub fn allows(&self, frame_bytes: usize) -> bool {
        self.packets < self.hard_packets
            && blocks(frame_bytes) <= self.hard_blocks.saturating_sub(self.blocks)
            && self.failures < self.failures_max
            && !self.burnt
    }

    /// Counts one frame of this many bytes, if the limits allow it. Once they do not, the key is used up for smaller
    /// frames, too.
    #[inline]
    pub fn spend(&mut self, frame_bytes: usize) -> bool {
        if !self.allows(frame_bytes) {
            self.burnt = true;
            return false;
        }
        self.packets += 1;
        self.blocks += blocks(frame_bytes);
        true
    }

    /// Counts a failed authentication.
    #[inline]
    pub fn fail(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// Ends the key at once.
    pub fn burn(&mut self) {
        self.burnt = true;
    }

    /// Whether a new key is wanted.
    #[inline]
    #[must_use]
    pub fn soft(&self) -> bool {
        self.packets >= self.soft_packets || self.blocks >= self.soft_blocks || self.failures >= self.failures_max.div_ceil(2) || self.burnt
    }

    /// Whether the key is used up.
    #[inline]
    #[must_use]
    pub fn exhausted(&self) -> bool {
        self.packets >= self.hard_packets || self.blocks >= self.hard_blocks || self.failures >= self.failures_max || self.burnt
    }

    /// As if this many frames had been carried.
    #[cfg(test)]
    pub(crate) fn skip_to(&mut self, packets: u64) {
        self.packets = packets;
    }

    /// Frames carried.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Cipher blocks used, additional data counted in.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Authentications failed.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// Packets after which a new key is wanted.
    #[must_use]
    pub fn soft_packets(&self) -> u64 {
        self.soft_packets
    }

    /// Milliseconds after its installation at which the caller must stop using the key.
    #[must_use]
    pub fn hard_ms(&self) -> u64 {
        self.hard_ms
    }
}

fn lowered(asked: u64, own: u64) -> u64 {
    if asked == 0 { own } else { asked.min(own) }
}

fn soft(asked: u64, own: u64, hard: u64) -> u64 {
    if asked == 0 { own.min(hard.div_ceil(2)) } else { asked.min(own).min(hard) }
}

/// The blocks of one frame: its ciphertext, and one for the additional data.
#[inline]
fn blocks(frame_bytes: usize) -> u64 {
    (frame_bytes.saturating_sub(HEADER_BYTES + ICV_BYTES) as u64).div_ceil(16) + 1
}

#[cfg(test)]
mod tests {
    use penstock_uapi::request::Limits;
    use zerocopy::little_endian::U64;

    use super::{HARD_BLOCKS, HARD_PACKETS, Lifetime};
    use crate::esp::packet::frame_bytes;

    /// At which packet of `inner` bytes the soft limit was reached, and how many there were in all.
    fn used(mut life: Lifetime, inner: usize) -> (u64, u64) {
        let mut soft = 0;
        while life.spend(frame_bytes(inner)) {
            if soft == 0 && life.soft() {
                soft = life.packets();
            }
        }
        assert!(life.exhausted() && life.soft());
        assert!(!life.spend(frame_bytes(0)), "what is used up is so for smaller packets, too");
        (soft, life.packets())
    }

    #[test]
    fn packet_limits_hold_to_the_packet() {
        let limits = Limits { soft_packets: U64::new(10), hard_packets: U64::new(25), ..Limits::default() };
        assert_eq!(used(Lifetime::new(&limits, true), 1400), (10, 25));
        let limits = Limits { hard_packets: U64::new(25), ..Limits::default() };
        assert_eq!(used(Lifetime::new(&limits, false), 0), (13, 25));
        let limits = Limits { hard_packets: U64::new(1), ..Limits::default() };
        assert_eq!(used(Lifetime::new(&limits, false), 0), (1, 1));
    }

    #[test]
    fn block_limits_hold_to_the_packet() {
        // 1,400 bytes and their trailer are 88 blocks; the additional data is one more.
        let limits = Limits { soft_blocks: U64::new(890), hard_blocks: U64::new(20 * 89 - 1), ..Limits::default() };
        assert_eq!(used(Lifetime::new(&limits, true), 1400), (10, 19));
        let limits = Limits { soft_blocks: U64::new(891), hard_blocks: U64::new(20 * 89), ..Limits::default() };
        assert_eq!(used(Lifetime::new(&limits, true), 1400), (11, 20));
        let limits = Limits { hard_blocks: U64::new(558), ..Limits::default() };
        assert_eq!(used(Lifetime::new(&limits, true), 8900), (1, 1));
    }

    #[test]
    fn limits_can_be_lowered_and_not_raised() {
        let most = U64::new(u64::MAX);
        let wild = Limits { soft_packets: most, hard_packets: most, soft_blocks: most, hard_blocks: most, hard_ms: most, failures: most };
        for limits in [wild, Limits::default()] {
            let mut life = Lifetime::new(&limits, false);
            assert_eq!(life.hard_ms(), 70 * 60 * 1000);
            life.packets = (1 << 31) - 1;
            assert!(!life.soft() && life.spend(64) && life.soft());
            life.packets = HARD_PACKETS - 1;
            assert!(!life.exhausted() && life.spend(64) && life.exhausted() && !life.spend(64));
            assert_eq!(life.packets(), u64::from(u32::MAX));

            let mut life = Lifetime::new(&limits, true);
            life.blocks = (1 << 35) - 2;
            assert!(!life.soft() && life.spend(frame_bytes(14)) && life.soft());
            // Two blocks are left: one for 14 bytes and their trailer, one for the additional data.
            life.blocks = HARD_BLOCKS - 2;
            assert!(!life.allows(frame_bytes(15)) && life.spend(frame_bytes(14)) && life.exhausted());
            assert!(life.blocks() < 1 << 36);

            let mut life = Lifetime::new(&limits, true);
            life.failures = (1 << 36) - 1;
            assert!(life.allows(64));
            life.fail();
            assert!(!life.allows(64) && life.exhausted());
        }
        let lower = Limits { hard_ms: U64::new(5000), ..Limits::default() };
        assert_eq!(Lifetime::new(&lower, true).hard_ms(), 5000);
    }

    #[test]
    fn failures_end_a_key() {
        let limits = Limits { failures: U64::new(1000), ..Limits::default() };
        let mut life = Lifetime::new(&limits, true);
        for failures in 0..1000 {
            assert!(life.allows(64) && !life.exhausted());
            assert_eq!(life.soft(), failures >= 500);
            life.fail();
        }
        assert!(!life.allows(64) && life.exhausted());
    }

    #[test]
    fn a_burnt_key_is_used_up() {
        let mut life = Lifetime::new(&Limits::default(), true);
        life.burn();
        assert!(life.soft() && life.exhausted() && !life.allows(64));
    }
}
