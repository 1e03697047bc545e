//! A request that waits for its response, and the chance in its pauses (RFC 7296 sections 2.1 and 2.4).

use std::net::SocketAddr;

use crate::config::Config;
use crate::error::Fault;
use crate::output::ChildId;
use crate::sa::Doomed;

/// What an outstanding request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Init,
    Intermediate,
    Auth,
    /// The child and our inbound SPI of it.
    CreateChild(ChildId, u32),
    DeleteChild(Vec<Doomed>),
    /// A rekey of the IKE SA.
    RekeyIke,
    DeleteIke,
    /// An empty INFORMATIONAL: is the peer there, and does it know this IKE SA?
    Probe,
    /// The same to where the peer was heard, and to nowhere else: does it receive there?
    Confirm(SocketAddr),
}

/// How often a new endpoint is asked before the request goes on to the old one.
const CONFIRM_TRIES: u32 = 3;

/// Deterministic chance for pauses; nothing secret comes from it.
#[derive(Debug)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// `ms`, more or less by up to a fifth, so that many peers that failed together do not return together.
    pub(crate) fn spread(&mut self, ms: u64) -> u64 {
        // SplitMix64 (Steele, Lea and Flood 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let percent = 80 + (z ^ (z >> 31)) % 41;
        ms.saturating_mul(percent) / 100
    }

    /// `ms` less up to a tenth: when to renew what must not become older.
    pub(crate) fn early(&mut self, ms: u64) -> u64 {
        let chance = self.spread(1_000) - 800; // 0 to 400
        ms - (ms / 10).saturating_mul(chance) / 400
    }
}

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Outstanding {
    pub(crate) id: u32,
    /// The message, in as many datagrams as it takes.
    pub(crate) datagrams: Vec<Vec<u8>>,
    pub(crate) purpose: Purpose,
    /// When to send it again, or to give up.
    pub(crate) due: u64,
    sent: u32,
    wait: u64,
    /// When it was sent first.
    pub(crate) first: u64,
    /// An answer that nobody vouches for: believed only if no better one comes until then (section 2.21.1).
    doubt: Option<(u64, Fault)>,
}

/// What is to be done when a request is due.
#[derive(Debug)]
pub(crate) enum Due {
    Again,
    GiveUp(Fault),
}

impl Outstanding {
    pub(crate) fn new(id: u32, datagrams: Vec<Vec<u8>>, purpose: Purpose, now: u64, config: &Config, jitter: &mut Jitter) -> Self {
        let wait = config.retransmit_first_ms;
        Self { id, datagrams, purpose, due: now.saturating_add(jitter.spread(wait)), sent: 1, wait, first: now, doubt: None }
    }

    /// Remembers an unauthenticated refusal; the first one counts.
    pub(crate) fn doubt(&mut self, now: u64, config: &Config, fault: Fault) {
        if self.doubt.is_none() {
            self.doubt = Some((now.saturating_add(config.doubt_ms), fault));
            self.due = self.due.min(now.saturating_add(config.doubt_ms));
        }
    }

    /// A new endpoint had its tries: the request, which must not be left out, goes on to the old one.
    pub(crate) fn confirms_in_vain(&mut self) -> Option<SocketAddr> {
        let Purpose::Confirm(asked) = self.purpose else { return None };
        (self.sent >= CONFIRM_TRIES).then(|| {
            self.purpose = Purpose::Probe;
            asked
        })
    }

    /// Called once `due` has come.
    pub(crate) fn fire(&mut self, now: u64, config: &Config, jitter: &mut Jitter) -> Due {
        if let Some((until, fault)) = &self.doubt
            && *until <= now
        {
            return Due::GiveUp(fault.clone());
        }
        let passed = now.saturating_sub(self.first);
        if passed >= config.retransmit_for_ms {
            return Due::GiveUp(Fault::Silent(format!("{} tries in {} s", self.sent, passed / 1_000)));
        }
        self.sent = self.sent.saturating_add(1);
        let last =
            if matches!(self.purpose, Purpose::CreateChild(..)) { config.retransmit_child_last_ms } else { config.retransmit_last_ms };
        self.wait = (self.wait.saturating_mul(config.retransmit_growth_percent) / 100).min(last);
        self.due = now.saturating_add(jitter.spread(self.wait).max(1));
        if let Some((until, _)) = &self.doubt {
            self.due = self.due.min(*until);
        }
        Due::Again
    }
}

#[cfg(test)]
mod tests {
    use super::{Due, Jitter, Outstanding, Purpose};
    use crate::config::Config;
    use crate::error::Fault;

    fn fire_all(mut request: Outstanding) -> (Vec<u64>, Fault) {
        let (config, mut jitter, mut pauses, mut now) = (Config::default(), Jitter::new(1), Vec::new(), 0);
        loop {
            pauses.push(request.due - now);
            now = request.due;
            match request.fire(now, &config, &mut jitter) {
                Due::Again => {}
                Due::GiveUp(fault) => return (pauses, fault),
            }
        }
    }

    fn request() -> Outstanding {
        request_for(Purpose::Init)
    }

    fn request_for(purpose: Purpose) -> Outstanding {
        Outstanding::new(0, vec![], purpose, 0, &Config::default(), &mut Jitter::new(7))
    }

    #[test]
    fn pauses_grow_with_jitter_up_to_four_seconds_or_less_where_packets_wait_and_end_after_a_minute() {
        for (purpose, last) in [(Purpose::Init, 3_300.0), (Purpose::CreateChild(crate::output::ChildId(1), 1), 700.0)] {
            let (pauses, fault) = fire_all(request_for(purpose));
            assert!((60_000..65_000).contains(&pauses.iter().sum::<u64>()), "{pauses:?}");
            let mut ideal = 500.0_f64;
            for pause in pauses {
                assert!((ideal * 0.79..=ideal * 1.21).contains(&(pause as f64)), "{pause} is not about {ideal}");
                ideal = (ideal * 1.8).min(last);
            }
            assert!(matches!(fault, Fault::Silent(_)));
        }
    }

    #[test]
    fn jitter_stays_within_a_fifth_and_does_vary() {
        let mut jitter = Jitter::new(3);
        let drawn: std::collections::BTreeSet<_> = (0..1_000).map(|_| jitter.spread(1_000)).collect();
        assert!(drawn.iter().all(|ms| (800..=1_200).contains(ms)));
        assert!(drawn.len() > 20);
    }

    #[test]
    fn a_doubtful_refusal_ends_the_wait_early_and_the_first_one_counts() {
        let mut doubted = request();
        doubted.doubt(100, &Config::default(), Fault::PeerRefused("first".to_owned()));
        doubted.doubt(100, &Config::default(), Fault::PeerRefused("second".to_owned()));
        let (pauses, fault) = fire_all(doubted);
        assert_eq!(pauses.iter().sum::<u64>(), 100 + Config::default().doubt_ms);
        assert_eq!(fault, Fault::PeerRefused("first".to_owned()));
    }
}
