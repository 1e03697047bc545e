//! How long a key may be used: packets, cipher blocks, failed authentications. A soft limit asks for a new key, a hard one
//! ends the use of this one, whatever control does.

use penstock_uapi::request::Limits;

/// Blocks after which a new key is wanted (half of the hard limit).
const SOFT_BLOCKS: u64 = 1 << 35;
/// Blocks of AES-GCM under one key for an advantage of at most 2^-57 (draft-irtf-cfrg-aead-limits: q + s <= 2^36 - 1).
const HARD_BLOCKS: u64 = (1 << 36) - 1;
/// Packets without ESN: the sequence number must not wrap (RFC 4303 section 3.3.3).
const HARD_PACKETS_NO_ESN: u64 = (1 << 32) - 1;
/// Half of those.
const SOFT_PACKETS_NO_ESN: u64 = 1 << 31;
/// Failed authentications under one key (the same bound, for forgeries).
const FAILURES: u64 = 1 << 36;
/// Milliseconds of life: an hour and the ten minutes that a renewal may take.
const HARD_MS: u64 = 70 * 60 * 1000;

/// One key's use so far and its bounds.
#[derive(Debug)]
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
}

impl Lifetime {
    /// Bounds as asked for, where they are lower than the standard's. Zero asks for nothing.
    #[must_use]
    pub fn new(limits: &Limits, esn: bool) -> Self {
        let lower = |asked: u64, own: u64| if asked == 0 { own } else { asked.min(own) };
        let hard_packets = lower(limits.hard_packets.get(), if esn { u64::MAX - 1 } else { HARD_PACKETS_NO_ESN });
        let soft_packets = lower(limits.soft_packets.get(), if esn { u64::MAX >> 1 } else { SOFT_PACKETS_NO_ESN });
        Self {
            packets: 0,
            blocks: 0,
            failures: 0,
            soft_packets: soft_packets.min(hard_packets),
            hard_packets,
            soft_blocks: lower(limits.soft_blocks.get(), SOFT_BLOCKS),
            hard_blocks: lower(limits.hard_blocks.get(), HARD_BLOCKS),
            failures_max: lower(limits.failures.get(), FAILURES),
            hard_ms: lower(limits.hard_ms.get(), HARD_MS),
        }
    }

    /// Whether another packet of `bytes` may be processed under this key.
    #[must_use]
    pub fn allows(&self, bytes: usize) -> bool {
        self.packets < self.hard_packets
            && self.blocks.saturating_add(blocks(bytes)) <= self.hard_blocks
            && self.failures < self.failures_max
    }

    /// Counts a packet of `bytes`.
    pub fn charge(&mut self, bytes: usize) {
        self.packets = self.packets.saturating_add(1);
        self.blocks = self.blocks.saturating_add(blocks(bytes));
    }

    /// Counts a packet that failed its authentication.
    pub fn fail(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// Whether a new key is wanted.
    #[must_use]
    pub fn is_soft(&self) -> bool {
        self.packets >= self.soft_packets || self.blocks >= self.soft_blocks || self.failures >= self.failures_max / 2 + 1
    }

    /// Whether the key is used up.
    #[must_use]
    pub fn is_hard(&self) -> bool {
        !self.allows(0)
    }

    /// Milliseconds after its installation at which the key ends.
    #[must_use]
    pub fn hard_ms(&self) -> u64 {
        self.hard_ms
    }
}

/// Blocks that GCM spends on a message: its 16-byte blocks, and one for the tag.
fn blocks(bytes: usize) -> u64 {
    bytes.div_ceil(16) as u64 + 1
}

#[cfg(test)]
mod tests {
    use penstock_uapi::request::Limits;
    use zerocopy::little_endian::U64;

    use super::Lifetime;

    fn used(mut life: Lifetime, bytes: usize) -> (u64, u64) {
        let (mut soft, mut packets) = (0, 0);
        while life.allows(bytes) {
            life.charge(bytes);
            packets += 1;
            if soft == 0 && life.is_soft() {
                soft = packets;
            }
        }
        assert!(life.is_hard() || bytes > 0);
        (soft, packets)
    }

    #[test]
    fn packet_limits_hold_to_the_packet() {
        let limits = Limits { soft_packets: U64::new(10), hard_packets: U64::new(25), ..Limits::default() };
        assert_eq!(used(Lifetime::new(&limits, true), 1400), (10, 25));
    }

    #[test]
    fn block_limits_hold_to_the_packet() {
        // 1,400 bytes are 88 blocks, and one for the tag.
        let limits = Limits { soft_blocks: U64::new(890), hard_blocks: U64::new(1779), ..Limits::default() };
        assert_eq!(used(Lifetime::new(&limits, true), 1400), (10, 19));
    }

    #[test]
    fn limits_can_be_lowered_and_not_raised() {
        let limits =
            Limits { hard_packets: U64::new(u64::MAX), hard_blocks: U64::new(u64::MAX), hard_ms: U64::new(u64::MAX), ..Limits::default() };
        let mut life = Lifetime::new(&limits, false);
        assert_eq!(life.hard_ms(), 4_200_000);
        life.packets = (1 << 32) - 2;
        assert!(life.allows(64) && life.is_soft());
        life.charge(64);
        assert!(!life.allows(64) && life.is_hard());
        let mut life = Lifetime::new(&limits, true);
        life.blocks = (1 << 36) - 3;
        assert!(life.allows(16) && !life.allows(32));
    }

    #[test]
    fn failures_end_a_key() {
        let limits = Limits { failures: U64::new(1000), ..Limits::default() };
        let mut life = Lifetime::new(&limits, true);
        for _ in 0..999 {
            life.fail();
        }
        assert!(life.allows(64) && life.is_soft());
        life.fail();
        assert!(!life.allows(64));
    }
}
