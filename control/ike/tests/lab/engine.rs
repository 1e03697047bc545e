//! What the engine promises, as books: SAs, the moment each outbound one takes over, and packets without a home.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use penstock_ike::{ChildId, ChildKeys, Ike, Output, Selectors, When};

struct Inbound {
    keys: ChildKeys,
    dies: Option<u64>,
}

struct Outbound {
    inbound_spi: u32,
    spi: u32,
    keys: ChildKeys,
    /// When it takes over by itself.
    takes_over: Option<u64>,
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
    /// The inbound SPI of the pair that is sent on.
    current: Option<u32>,
    /// Packets that found no outbound SA although there had been one.
    pub no_sa: u64,
    /// Packets that came for an SPI unknown here.
    pub unknown_spi: u64,
    pub delivered: u64,
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
        let due = self.outbound.iter_mut().find(|sa| sa.takes_over.is_some_and(|at| at <= now));
        if let Some(sa) = due {
            sa.takes_over = None;
            self.current = Some(sa.inbound_spi);
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
                assert!(self.inbound.insert(spi, Inbound { keys, dies: None }).is_none(), "an inbound SPI installed twice");
                self.selectors.push(selectors);
                Some(Done::Installed(child))
            }
            Output::InstallOutbound { child, .. } if self.fail_outbound => Some(Done::Failed(child)),
            Output::InstallOutbound { child, inbound_spi, spi, keys, when, per_core, .. } => {
                assert!(self.inbound.contains_key(&inbound_spi), "outbound before inbound");
                let takes_over = match when {
                    When::Now => None,
                    When::OnInbound { or_after_ms } => Some(if or_after_ms == 0 { u64::MAX } else { now + u64::from(or_after_ms) }),
                };
                if takes_over.is_none() {
                    self.current = Some(inbound_spi);
                }
                self.per_core_wanted = per_core;
                self.whens.push(when);
                self.outbound.push(Outbound { inbound_spi, spi, keys, takes_over });
                Some(Done::Activated(child))
            }
            Output::Retire { inbound_spi, drain_ms, .. } => {
                self.expected.remove(&inbound_spi);
                if let Some(sa) = self.inbound.get_mut(&inbound_spi) {
                    sa.dies = Some(now + u64::from(drain_ms));
                }
                self.outbound.retain(|sa| sa.inbound_spi != inbound_spi);
                if self.current == Some(inbound_spi) {
                    let successor = self.outbound.last_mut();
                    self.current = successor.map(|sa| {
                        sa.takes_over = None;
                        sa.inbound_spi
                    });
                }
                None
            }
            _ => None,
        }
    }

    /// Seals one packet: the SPI and key that it goes out under.
    pub fn seal(&mut self, now: u64) -> Option<(u32, ChildKeys)> {
        self.time(now);
        let sa = self.outbound.iter().find(|sa| Some(sa.inbound_spi) == self.current);
        self.had |= sa.is_some();
        if sa.is_none() && self.had {
            self.no_sa += 1;
        }
        sa.map(|sa| (sa.spi, sa.keys.clone()))
    }

    pub fn open(&mut self, now: u64, packet: Option<(u32, ChildKeys)>) {
        self.time(now);
        let Some((spi, keys)) = packet else { return };
        if self.expected.contains(&spi) {
            self.parked += 1;
            return;
        }
        let Some(sa) = self.inbound.get(&spi) else {
            self.unknown_spi += 1;
            return;
        };
        assert!(sa.keys == keys, "a packet under another key");
        self.delivered += 1;
        if let Some(pair) = self.outbound.iter_mut().find(|sa| sa.inbound_spi == spi && sa.takes_over.is_some()) {
            pair.takes_over = None;
            self.current = Some(spi);
        }
    }

    pub fn lost(&self) -> u64 {
        self.no_sa + self.unknown_spi
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
