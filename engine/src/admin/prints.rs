//! Fingerprints of keys, so that none comes in twice: a nonce is unique only as long as its key and salt are in one place once.
//!
//! What is kept of a key is half of a keyed hash that says nothing outside this process. The newest [`PRINTS_MAX`] are kept, in room
//! that is made and touched at the start: more keys than that never come in during the hard life of one (70 minutes), and a key that old
//! has been wiped wherever it was.

use std::collections::HashSet;
use std::io;

use aws_lc_rs::hmac;
use penstock_uapi::request::{Key, suite};

/// The most fingerprints: 10,000 peers with three SAs each that are rekeyed every hour need 60,000 in that time.
const PRINTS_MAX: usize = 65_536;

/// A fingerprint. Two keys share one by chance once in 2^96 among so many.
pub(super) type Print = [u8; 16];

/// Those of the newest keys.
#[derive(Debug)]
pub(super) struct Prints {
    secret: hmac::Key,
    kept: HashSet<Print>,
    /// In the order in which they came; what `next` overwrites is the oldest.
    order: Box<[Print]>,
    next: usize,
}

impl Prints {
    /// With a secret of its own.
    ///
    /// # Errors
    /// If there are no random numbers.
    pub(super) fn new() -> io::Result<Self> {
        Self::with_room(PRINTS_MAX)
    }

    fn with_room(most: usize) -> io::Result<Self> {
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).map_err(|_| io::Error::other("no random numbers"))?;
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        // Not zeros: those would be pages that come one by one later.
        Ok(Self { secret, kept: HashSet::with_capacity(most), order: vec![[0xff; 16]; most].into(), next: 0 })
    }

    /// That of a key; `None` if its suite is unknown.
    pub(super) fn of(&self, key: &Key) -> Option<Print> {
        let bytes = match key.suite {
            suite::AES_128_GCM_16 => key.key.get(..16),
            suite::AES_256_GCM_16 => key.key.get(..),
            _ => None,
        };
        let mut context = hmac::Context::with_key(&self.secret);
        context.update(bytes?);
        context.update(&key.salt);
        context.sign().as_ref().first_chunk().copied()
    }

    /// Whether the key has been here.
    pub(super) fn has(&self, print: &Print) -> bool {
        self.kept.contains(print)
    }

    /// Remembers a key, and forgets the oldest where there is no room.
    pub(super) fn keep(&mut self, print: Print) {
        if !self.kept.insert(print) {
            return;
        }
        let Some(place) = self.order.get_mut(self.next) else { return };
        let oldest = std::mem::replace(place, print);
        self.kept.remove(&oldest);
        self.next = (self.next + 1) % self.order.len();
    }
}

#[cfg(test)]
mod tests {
    use penstock_uapi::request::{Key, suite};

    use super::Prints;

    fn key(number: u8, salt: u8, suite: u8) -> Key {
        Key { key: [number; 32], salt: [salt; 4], suite, esn: 0, reserved: [0; 2] }
    }

    #[test]
    fn a_key_is_known_again_by_its_bytes_and_salt_and_by_nobody_else() {
        let (prints, others) = (Prints::with_room(4).expect("chance"), Prints::with_room(4).expect("chance"));
        let of = |number, salt, suite| prints.of(&key(number, salt, suite));
        assert_eq!(of(1, 1, suite::AES_256_GCM_16), of(1, 1, suite::AES_256_GCM_16));
        let different = [
            of(1, 1, suite::AES_256_GCM_16),
            of(2, 1, suite::AES_256_GCM_16),
            of(1, 2, suite::AES_256_GCM_16),
            of(1, 1, suite::AES_128_GCM_16),
        ];
        let count = different.iter().collect::<std::collections::BTreeSet<_>>().len();
        assert_eq!(count, 4);
        assert_ne!(of(1, 1, suite::AES_256_GCM_16), others.of(&key(1, 1, suite::AES_256_GCM_16)), "the secret is each one's own");
        assert_eq!(of(1, 1, 99), None);
    }

    #[test]
    fn the_newest_are_kept_and_the_room_stays() {
        let mut prints = Prints::with_room(3).expect("chance");
        for number in 1..=5 {
            prints.keep([number; 16]);
            prints.keep([number; 16]);
            assert!(prints.has(&[number; 16]));
        }
        let kept: Vec<u8> = (1..=5).filter(|number| prints.has(&[*number; 16])).collect();
        assert_eq!((kept, prints.kept.len(), prints.order.len()), (vec![3, 4, 5], 3, 3));
    }
}
