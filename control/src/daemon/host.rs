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

    fn first_core(&self, peer: PeerId) -> u16 {
        (peer.0 % u32::from(self.cores)) as u16
    }

    fn fresh(&mut self, core: u16) -> u32 {
        let Ok(core) = u8::try_from(core) else { return 0 };
        loop {
            match Spi::compose(self.word(), self.generation, core) {
                Some(spi) if !self.spis.contains_key(&spi.value()) => return spi.value(),
                _ => (),
            }
        }
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

    /// The first child of a peer belongs to a core by the peer's number, so that peers spread over the cores, and its
    /// successors stand on the same one.
    fn allocate_spi(&mut self, peer: PeerId, core: Option<u16>) -> u32 {
        let core = core.filter(|core| *core < self.cores).unwrap_or_else(|| self.first_core(peer));
        self.fresh(core)
    }

    /// One more goes to the core with the fewest SAs of this peer, so that its SAs spread over our cores as over its own.
    fn allocate_further_spi(&mut self, peer: PeerId) -> u32 {
        let first = self.first_core(peer);
        let owned = |core: u16| self.spis.iter().filter(|(spi, owner)| **owner == peer && u16::from(spi.to_le_bytes()[0]) == core).count();
        let chosen = (first..self.cores).chain(0..first).min_by_key(|core| owned(*core));
        self.fresh(chosen.unwrap_or(first))
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
    fn first_children_stay_on_their_core_and_further_ones_spread() {
        let mut source = super::Source::new(0, 3);
        let core = |source: &mut super::Source, spi: u32| {
            source.spis.insert(spi, PeerId(1));
            Spi::new(spi).expect("an SPI").core()
        };
        let mut cores = Vec::new();
        for _ in 0..2 {
            let first = source.allocate_spi(PeerId(1), None);
            cores.push(core(&mut source, first));
            for _ in 0..2 {
                let further = source.allocate_further_spi(PeerId(1));
                cores.push(core(&mut source, further));
            }
        }
        assert_eq!(cores, [1, 2, 0, 1, 2, 0]);
    }
}
