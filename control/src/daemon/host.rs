//! What the IKE state machine cannot make by itself: randomness, and SPIs that name a core.

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
    pub(super) cores: u16,
}

impl Source {
    pub(super) fn new(generation: u8, cores: u16) -> Self {
        Self { random: SystemRandom::new(), generation, cores: cores.max(1) }
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

    /// A peer's first child belongs to a core by the peer's number, so that peers spread over the cores; two SAs of
    /// one SPI are as unlikely as 1 in 4 million and refused by the engine.
    fn allocate_spi(&mut self, peer: PeerId, core: Option<u16>) -> u32 {
        let core = core.filter(|core| *core < self.cores).unwrap_or_else(|| (peer.0 % u32::from(self.cores)) as u16);
        let Ok(core) = u8::try_from(core) else { return 0 };
        loop {
            if let Some(spi) = Spi::compose(self.word(), self.generation, core) {
                return spi.value();
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
}
