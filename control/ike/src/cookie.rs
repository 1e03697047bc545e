//! Cookies (RFC 7296 section 2.6): while many handshakes are half open, a stranger must show that it receives at the
//! address it sends from before we keep anything about it. Nothing is stored per stranger.

use std::net::IpAddr;

use zeroize::{Zeroize, Zeroizing};

use crate::crypto::{Prf, equal};
use crate::output::Host;

/// How long a secret makes cookies; it is still accepted for as long again.
const SECRET_MS: u64 = 60_000;

/// The secrets behind the cookies.
pub(crate) struct Cookies {
    current: Zeroizing<[u8; 32]>,
    previous: Zeroizing<[u8; 32]>,
    version: u8,
    made: u64,
}

impl std::fmt::Debug for Cookies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cookies").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Cookies {
    pub(crate) fn new(now: u64, host: &mut dyn Host) -> Self {
        let mut cookies = Self { current: Zeroizing::new([0; 32]), previous: Zeroizing::new([0; 32]), version: 0, made: now };
        host.random(cookies.current.as_mut_slice());
        host.random(cookies.previous.as_mut_slice());
        cookies
    }

    /// The cookie for this initiator: the secret's version and a keyed hash, as the RFC suggests.
    pub(crate) fn bake(&mut self, now: u64, nonce: &[u8], from: IpAddr, spi_i: u64, host: &mut dyn Host) -> Vec<u8> {
        self.turn(now, host);
        cookie(self.version, self.current.as_slice(), nonce, from, spi_i)
    }

    /// Whether this is a cookie of ours for this initiator.
    pub(crate) fn valid(&mut self, now: u64, shown: &[u8], nonce: &[u8], from: IpAddr, spi_i: u64, host: &mut dyn Host) -> bool {
        self.turn(now, host);
        let before = self.version.wrapping_sub(1);
        equal(shown, &cookie(self.version, self.current.as_slice(), nonce, from, spi_i))
            || equal(shown, &cookie(before, self.previous.as_slice(), nonce, from, spi_i))
    }

    fn turn(&mut self, now: u64, host: &mut dyn Host) {
        let age = now.saturating_sub(self.made);
        if age < SECRET_MS {
            return;
        }
        self.previous.zeroize();
        if age < 2 * SECRET_MS {
            self.previous = self.current.clone();
        } else {
            host.random(self.previous.as_mut_slice()); // both are too old
        }
        host.random(self.current.as_mut_slice());
        self.version = self.version.wrapping_add(1);
        self.made = now;
    }
}

fn cookie(version: u8, secret: &[u8], nonce: &[u8], from: IpAddr, spi_i: u64) -> Vec<u8> {
    let address = match from {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    [&[version], Prf::Sha256.over(secret, &[nonce, &address, &spi_i.to_be_bytes()]).as_slice()].concat()
}

#[cfg(test)]
mod tests {
    use super::{Cookies, SECRET_MS};
    use crate::config::PeerId;
    use crate::output::Host;

    struct Counting(u8);
    impl Host for Counting {
        fn random(&mut self, bytes: &mut [u8]) {
            self.0 = self.0.wrapping_add(1);
            bytes.fill(self.0);
        }
        fn allocate_spi(&mut self, _: PeerId, _: Option<u16>) -> u32 {
            0
        }
    }

    #[test]
    fn a_cookie_holds_for_its_initiator_only_and_not_for_ever() {
        let host = &mut Counting(0);
        let (here, there) = ("192.0.2.1".parse().expect("an address"), "192.0.2.2".parse().expect("an address"));
        let mut cookies = Cookies::new(0, host);
        let cookie = cookies.bake(0, b"nonce", here, 1, host);
        assert!(cookies.valid(0, &cookie, b"nonce", here, 1, host));
        assert!(!cookies.valid(0, &cookie, b"nonce", there, 1, host));
        assert!(!cookies.valid(0, &cookie, b"other", here, 1, host));
        assert!(!cookies.valid(0, &cookie, b"nonce", here, 2, host));
        assert!(!cookies.valid(0, &[], b"nonce", here, 1, host));
        // The secret turns: still good once, then no more.
        assert_eq!(cookies.bake(SECRET_MS - 1, b"nonce", here, 1, host), cookie);
        assert_ne!(cookies.bake(SECRET_MS, b"nonce", here, 1, host), cookie, "to the millisecond");
        assert!(cookies.valid(SECRET_MS, &cookie, b"nonce", here, 1, host));
        assert!(!cookies.valid(2 * SECRET_MS, &cookie, b"nonce", here, 1, host));
        // It turns late, because nobody asked meanwhile: the old secret is carried on as long as it is not too old.
        let mut cookies = Cookies::new(0, host);
        let cookie = cookies.bake(0, b"nonce", here, 1, host);
        assert!(cookies.valid(2 * SECRET_MS - 1, &cookie, b"nonce", here, 1, host));
        // Nobody asked for a long time: the old secret is not carried on.
        let mut cookies = Cookies::new(0, host);
        let cookie = cookies.bake(0, b"nonce", here, 1, host);
        assert!(!cookies.valid(2 * SECRET_MS, &cookie, b"nonce", here, 1, host));
    }
}
