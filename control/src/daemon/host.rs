//! What the IKE state machine cannot make by itself: randomness, and SPIs that name a core.

use std::collections::{HashMap, HashSet};

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
    /// Peers whose SAs may all come from one address and port.
    shared: HashSet<PeerId>,
    /// SPIs of further SAs that we asked for ourselves.
    asked: HashSet<u32>,
}

impl Source {
    pub(super) fn new(generation: u8, cores: u16) -> Self {
        Self {
            random: SystemRandom::new(),
            generation,
            cores: cores.clamp(1, 256),
            spis: HashMap::new(),
            shared: HashSet::new(),
            asked: HashSet::new(),
        }
    }

    /// Forgets an SPI that is out of use.
    pub(super) fn release(&mut self, spi: u32) {
        self.spis.remove(&spi);
        self.asked.remove(&spi);
    }

    /// Forgets all of them, with the engine that had them.
    pub(super) fn release_all(&mut self) {
        self.spis.clear();
        self.asked.clear();
    }

    fn first_core(&self, peer: PeerId) -> u16 {
        (peer.0 % u32::from(self.cores)) as u16
    }

    /// Says whether all SAs of a peer may come from one address and port. They then get one entrance, so that none overtakes
    /// another where the kernel has merged them (see [`Spi`]).
    pub(super) fn set_shared(&mut self, peer: PeerId, shared: bool) {
        if shared {
            self.shared.insert(peer);
        } else {
            self.shared.remove(&peer);
        }
    }

    fn fresh(&mut self, peer: PeerId, core: u16) -> u32 {
        let (Ok(core), Ok(entrance)) = (u8::try_from(core), u8::try_from(self.first_core(peer))) else { return 0 };
        loop {
            let random = self.word();
            let spi = if self.shared.contains(&peer) {
                Some(Spi::compose_with_entrance(random, self.generation, core, entrance))
            } else {
                Spi::compose(random, self.generation, core)
            };
            match spi {
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
        let asked = core.filter(|core| *core < self.cores);
        let spi = self.fresh(peer, asked.unwrap_or_else(|| self.first_core(peer)));
        self.asked.extend(asked.is_some().then_some(spi));
        spi
    }

    /// What was asked for counts as asked for after a rekey, too.
    fn allocate_successor_spi(&mut self, peer: PeerId, inbound_spi: u32) -> u32 {
        let core = Spi::new(inbound_spi).map(|spi| u16::from(spi.core())).filter(|core| *core < self.cores);
        let spi = self.fresh(peer, core.unwrap_or_else(|| self.first_core(peer)));
        self.asked.extend(self.asked.contains(&inbound_spi).then_some(spi));
        spi
    }

    /// One more that the peer asks for goes to the core with the fewest that it asked for, the first one counted, so that
    /// its cores spread over ours. What we asked for does not count: when both sides ask for all their cores at once, each
    /// core of ours ends up with one pair of either kind, and not one core with all that came second.
    fn allocate_further_spi(&mut self, peer: PeerId) -> u32 {
        let first = self.first_core(peer);
        let on = |spi: &u32, core: u16| u16::from(spi.to_le_bytes()[0]) == core && !self.asked.contains(spi);
        let owned = |core: u16| self.spis.iter().filter(|(spi, owner)| **owner == peer && on(spi, core)).count();
        let chosen = (first..self.cores).chain(0..first).min_by_key(|core| owned(*core));
        self.fresh(peer, chosen.unwrap_or(first))
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

    #[test]
    fn a_rekey_stays_on_its_core_and_counts_as_what_it_replaces() {
        let mut source = super::Source::new(0, 3);
        for core in [0, 2] {
            let asked = source.allocate_spi(PeerId(1), Some(core));
            let of = Spi::compose(77, 0, u8::try_from(core).expect("small")).expect("an SPI").value();
            for (of, counts) in [(asked, true), (of, false)] {
                let successor = source.allocate_successor_spi(PeerId(1), of);
                assert_eq!((Spi::new(successor).map(|spi| spi.core()), successor != of), (Some(core as u8), true));
                assert_eq!(source.asked.contains(&successor), counts);
            }
        }
    }

    #[test]
    fn the_sas_of_a_peer_with_one_port_have_one_entrance() {
        let mut source = super::Source::new(1, 4);
        source.set_shared(PeerId(6), true);
        for (core, owner) in [(None, 2), (Some(0), 0), (Some(3), 3)] {
            let spi = Spi::new(source.allocate_spi(PeerId(6), core)).expect("an SPI");
            assert_eq!((spi.core(), spi.entrance()), (owner, 2));
        }
        let further = Spi::new(source.allocate_further_spi(PeerId(6))).expect("an SPI");
        assert_eq!(further.entrance(), 2);
        source.set_shared(PeerId(6), false);
        let spi = Spi::new(source.allocate_spi(PeerId(6), Some(3))).expect("an SPI");
        assert_eq!(spi.entrance(), 3);
    }

    #[test]
    fn cores_that_both_sides_ask_for_at_once_stay_level() {
        let mut source = super::Source::new(0, 4);
        let first = source.allocate_spi(PeerId(0), None);
        source.spis.insert(first, PeerId(0));
        // Given that our own requests for cores 1 to 3 are answered already
        for core in 1..4 {
            let spi = source.allocate_spi(PeerId(0), Some(core));
            source.spis.insert(spi, PeerId(0));
        }
        // When the peer's requests for its own cores come, then each finds another core of ours
        let mut cores = Vec::new();
        for _ in 1..4 {
            let spi = source.allocate_further_spi(PeerId(0));
            source.spis.insert(spi, PeerId(0));
            cores.push(Spi::new(spi).expect("an SPI").core());
        }
        assert_eq!(cores, [1, 2, 3]);
        // And what is out of use counts no more
        let gone: Vec<u32> = source.spis.keys().copied().collect();
        gone.into_iter().for_each(|spi| source.release(spi));
        assert!(source.spis.is_empty() && source.asked.is_empty());
    }
}
