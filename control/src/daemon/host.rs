//! What the IKE state machine cannot make by itself: randomness, and SPIs that name a core.

use std::collections::HashMap;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use penstock_ike::{Host, PeerId};
use penstock_uapi::Spi;

/// Randomness and SPIs for one engine life.
#[derive(Debug)]
pub(super) struct Source {
    random: SystemRandom,
    /// The generation in new SPIs, 0 to 3.
    pub(super) generation: u8,
    /// How many cores the engine runs.
    cores: u16,
    /// Which peer an inbound SPI in use belongs to.
    pub(super) spis: HashMap<u32, PeerId>,
}

impl Source {
    pub(super) fn new(generation: u8, cores: u16) -> Self {
        Self { random: SystemRandom::new(), generation, cores: cores.clamp(1, 256), spis: HashMap::new() }
    }

    fn word(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.random(&mut bytes);
        u32::from_ne_bytes(bytes)
    }
}

impl Host for Source {
    fn random(&mut self, bytes: &mut [u8]) {
        // Without randomness no key may be made: the kernel's generator fails only before it is seeded at boot, and
        // aws-lc itself ends the process in that case.
        while self.random.fill(bytes).is_err() {
            std::thread::yield_now();
        }
    }

    /// The core is ours to choose where we answer: the one with the fewest SAs of this peer, so that its SAs spread
    /// over the cores as its own do; the first one goes by the peer's number, so that peers spread too.
    fn allocate_spi(&mut self, peer: PeerId, core: Option<u16>) -> u32 {
        let first = (peer.0 % u32::from(self.cores)) as u16;
        let owned = |core: u16| self.spis.iter().filter(|(spi, owner)| **owner == peer && spi.to_le_bytes()[0] == core as u8).count();
        let from_first = (first..self.cores).chain(0..first);
        let chosen = core.filter(|core| *core < self.cores).or_else(|| from_first.min_by_key(|core| owned(*core)));
        let Ok(core) = u8::try_from(chosen.unwrap_or(first)) else { return 0 };
        loop {
            match Spi::compose(self.word(), self.generation, core) {
                Some(spi) if !self.spis.contains_key(&spi.value()) => return spi.value(),
                _ => (),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use penstock_ike::{Host, PeerId};
    use penstock_uapi::Spi;

    #[test]
    fn spis_name_the_core_and_the_engines_generation() {
        let mut source = super::Source::new(3, 2);
        for (peer, core, expected) in [(0, None, 0), (1, None, 1), (4, Some(1), 1), (4, Some(9), 0)] {
            let spi = Spi::new(source.allocate_spi(PeerId(peer), core)).expect("an SPI");
            assert_eq!((spi.core(), spi.generation()), (expected, 3));
        }
    }

    #[test]
    fn the_sas_of_a_peer_spread_over_the_cores() {
        let mut source = super::Source::new(0, 3);
        let mut cores = Vec::new();
        for _ in 0..6 {
            let spi = source.allocate_spi(PeerId(1), None);
            source.spis.insert(spi, PeerId(1));
            cores.push(Spi::new(spi).expect("an SPI").core());
        }
        assert_eq!(cores, [1, 2, 0, 1, 2, 0]);
    }
}
