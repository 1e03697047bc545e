//! What the engine promises, as books: SAs, the moment each outbound one takes over, and packets without a home.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use penstock_ike::{ChildId, ChildKeys, Ike, Output, Selectors, When};

struct Inbound {
    keys: ChildKeys,
    dies: Option<u64>,
    heard: bool,
}

struct Outbound {
    inbound_spi: u32,
    spi: u32,
    keys: ChildKeys,
    /// When it takes over by itself.
    takes_over: Option<u64>,
    /// Cores without an SA of their own use it.
    fallback: bool,
}

/// A packet on its way.
pub type Packet = (u32, ChildKeys);

/// The core that an inbound SPI names.
fn core(inbound_spi: u32) -> u32 {
    inbound_spi & 0xff
}

pub enum Done {
    Expected(ChildId),
    Installed(ChildId),
    Activated(ChildId),
    Failed(ChildId),
}

impl Done {
    pub fn acknowledge(self, ike: &mut Ike, now: u64) {
        match self {
            Self::Expected(child) => ike.expected(now, child),
            Self::Installed(child) => ike.installed(now, child),
            Self::Activated(child) => ike.activated(now, child),
            Self::Failed(child) => ike.install_failed(now, child, "told to fail"),
        }
    }
}

#[derive(Default)]
pub struct Engine {
    steps: VecDeque<(u64, Output)>,
    expected: BTreeSet<u32>,
    inbound: BTreeMap<u32, Inbound>,
    outbound: Vec<Outbound>,
    /// By core, the inbound SPI of the pair that is sent on.
    current: BTreeMap<u32, u32>,
    /// The core that sends for those without an SA.
    fallback: Option<u32>,
    /// Packets that wait for a key, by SPI.
    waiting: BTreeMap<u32, u64>,
    /// Every key that was ever installed outbound.
    pub sealed_with: Vec<([u8; 32], [u8; 4])>,
    /// Parked packets whose SPI never got a key.
    pub parked_in_vain: u64,
    /// Packets that found no outbound SA although there had been one.
    pub no_sa: u64,
    /// Packets that came for an SPI unknown here.
    pub unknown_spi: u64,
    pub delivered: u64,
    /// When the newest packet was opened.
    pub opened_at: Option<u64>,
    pub parked: u64,
    /// Says no to the next steps of these kinds.
    pub fail_expect: bool,
    pub fail_inbound: bool,
    pub fail_outbound: bool,
    /// Takes orders and never answers.
    pub stuck: bool,
    pub per_core_wanted: bool,
    pub selectors: Vec<Selectors>,
    pub whens: Vec<When>,
    had: bool,
    /// Another engine has the newer pairs, and does not send yet.
    pub two: bool,
}

impl Engine {
    pub fn take(&mut self, at: u64, step: Output) {
        // Orders are carried out in turn.
        self.steps.push_back((at, step));
    }

    pub fn next(&self) -> Option<u64> {
        let waiting = self.outbound.iter().filter_map(|sa| sa.takes_over);
        self.steps.front().map(|(at, _)| *at).into_iter().chain(waiting).min()
    }

    /// A new control took the engine over: what it had under way is lost.
    pub fn adopt(&mut self) {
        self.steps.clear();
    }

    pub fn finish(&mut self, now: u64) -> Option<Done> {
        self.time(now);
        loop {
            let (_, step) = self.steps.pop_front_if(|(at, _)| *at <= now)?;
            let stuck = self.stuck;
            if let Some(done) = self.carry_out(now, step).filter(|_| !stuck) {
                return Some(done);
            }
        }
    }

    fn time(&mut self, now: u64) {
        self.inbound.retain(|_, sa| sa.dies.is_none_or(|dies| dies > now));
        let due = self.outbound.iter().find(|sa| sa.takes_over.is_some_and(|at| at <= now)).map(|sa| sa.inbound_spi);
        due.into_iter().for_each(|spi| self.activate(spi));
    }

    /// The pair sends for its core from now on.
    fn activate(&mut self, inbound_spi: u32) {
        let Some(sa) = self.outbound.iter_mut().find(|sa| sa.inbound_spi == inbound_spi) else { return };
        sa.takes_over = None;
        if self.two && self.current.contains_key(&core(inbound_spi)) {
            return;
        }
        if sa.fallback {
            self.fallback = Some(core(inbound_spi));
        }
        self.current.insert(core(inbound_spi), inbound_spi);
    }

    /// The other engine takes over what is sent: on each core the newest pair.
    pub fn hand_over(&mut self) {
        self.two = false;
        let newest: BTreeMap<u32, u32> = self.outbound.iter().map(|sa| (core(sa.inbound_spi), sa.inbound_spi)).collect();
        newest.into_values().for_each(|spi| self.activate(spi));
    }

    /// The pair sends no more: the newest one of its core takes over.
    fn stop_sending(&mut self, inbound_spi: u32) {
        let core = core(inbound_spi);
        if self.current.get(&core) != Some(&inbound_spi) {
            return;
        }
        self.current.remove(&core);
        match self.outbound.iter().rfind(|sa| self::core(sa.inbound_spi) == core).map(|sa| sa.inbound_spi) {
            Some(next) => self.activate(next),
            None if self.fallback == Some(core) => self.fallback = None,
            None => {}
        }
    }

    fn carry_out(&mut self, now: u64, step: Output) -> Option<Done> {
        match step {
            Output::Expect { child, .. } if self.fail_expect => Some(Done::Failed(child)),
            Output::Expect { child, spi, .. } => {
                self.expected.insert(spi);
                Some(Done::Expected(child))
            }
            Output::InstallInbound { child, .. } if self.fail_inbound => Some(Done::Failed(child)),
            Output::InstallInbound { child, spi, keys, selectors, .. } => {
                self.expected.remove(&spi);
                let parked = self.waiting.remove(&spi).unwrap_or(0);
                self.delivered += parked;
                let sa = Inbound { keys, dies: None, heard: parked > 0 };
                assert!(self.inbound.insert(spi, sa).is_none(), "an inbound SPI installed twice");
                self.selectors.push(selectors);
                Some(Done::Installed(child))
            }
            Output::InstallOutbound { child, .. } if self.fail_outbound => Some(Done::Failed(child)),
            Output::InstallOutbound { child, inbound_spi, spi, keys, when, per_core, fallback, .. } => {
                let heard = self.inbound.get(&inbound_spi).expect("outbound before inbound").heard;
                let takes_over = match when {
                    When::Now => None,
                    When::OnInbound { or_after_ms } => Some(if or_after_ms == 0 { u64::MAX } else { now + u64::from(or_after_ms) }),
                };
                self.per_core_wanted = per_core;
                self.whens.push(when);
                self.sealed_with.push((*keys.key, keys.salt));
                self.outbound.push(Outbound { inbound_spi, spi, keys, takes_over, fallback });
                let alone = !self.current.contains_key(&core(inbound_spi)) && self.fallback.is_none() && self.had;
                if takes_over.is_none() || heard || alone {
                    self.activate(inbound_spi);
                }
                Some(Done::Activated(child))
            }
            Output::Retire { inbound_spi, drain_ms, .. } => {
                self.expected.remove(&inbound_spi);
                if let Some(sa) = self.inbound.get_mut(&inbound_spi) {
                    sa.dies = Some(now + u64::from(drain_ms));
                }
                self.parked_in_vain += self.waiting.remove(&inbound_spi).unwrap_or(0);
                self.outbound.retain(|sa| sa.inbound_spi != inbound_spi);
                self.stop_sending(inbound_spi);
                None
            }
            _ => None,
        }
    }

    /// Seals one packet of a core: the SPI and key that it goes out under.
    pub fn seal(&mut self, now: u64, core: u32) -> Option<Packet> {
        self.time(now);
        let own = self.current.get(&core).or_else(|| self.current.get(&self.fallback?));
        let sa = own.and_then(|own| self.outbound.iter().find(|sa| sa.inbound_spi == *own));
        self.had |= sa.is_some();
        if sa.is_none() && self.had {
            self.no_sa += 1;
        }
        sa.map(|sa| (sa.spi, sa.keys.clone()))
    }

    pub fn open(&mut self, now: u64, (spi, keys): Packet) {
        self.time(now);
        if self.expected.contains(&spi) {
            self.parked += 1;
            *self.waiting.entry(spi).or_default() += 1;
            return;
        }
        let Some(sa) = self.inbound.get_mut(&spi) else {
            self.unknown_spi += 1;
            return;
        };
        assert!(sa.keys == keys, "a packet under another key");
        (sa.heard, self.delivered, self.opened_at) = (true, self.delivered + 1, Some(now));
        if self.outbound.iter().any(|sa| sa.inbound_spi == spi && sa.takes_over.is_some()) {
            self.activate(spi);
        }
    }

    pub fn lost(&self) -> u64 {
        self.no_sa + self.unknown_spi + self.parked_in_vain
    }

    pub fn inbound_keys(&self, spi: u32) -> Option<&ChildKeys> {
        self.inbound.get(&spi).map(|sa| &sa.keys)
    }

    pub fn outbound_keys(&self, inbound: u32, spi: u32) -> Option<&ChildKeys> {
        self.outbound.iter().find(|sa| sa.inbound_spi == inbound && sa.spi == spi).map(|sa| &sa.keys)
    }

    /// Inbound SAs, outbound SAs, announced SPIs.
    pub fn counts(&mut self, now: u64) -> (usize, usize, usize) {
        self.time(now);
        (self.inbound.len(), self.outbound.len(), self.expected.len())
    }
}
