//! The policy table of one engine life: which policy a child's SAs belong to.
//!
//! A policy is a peer and one set of agreed pairs of subnets. Most peers have one set and one policy, whose number is the
//! peer's. Another implementation may make several children with selectors of their own: each distinct set then gets a policy beside the
//! first, under the same name, so that a packet leaves by a child whose selectors cover it, and what arrives on a child is
//! held against that child's selectors (RFC 4301 sections 5.1 and 5.2). A set goes when its last SA has gone.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};

use penstock_ike::{PeerId, Selectors};
use penstock_uapi::request::Pair;
use tokio::sync::Mutex;

use super::site;
use crate::engine::{Client, EngineError, PolicyOrder};

/// The number of a policy's set stands above that of its peer.
const SET_SHIFT: u32 = 16;

/// The most sets of pairs that one peer's children may have at a time, beside the first.
const SETS_MAX: u32 = 32;

/// The peer that a policy belongs to.
pub(super) fn peer_of(policy: u32) -> PeerId {
    PeerId(policy & ((1 << SET_SHIFT) - 1))
}

/// Whether it is the peer's first one.
pub(super) fn is_first(policy: u32) -> bool {
    policy >> SET_SHIFT == 0
}

/// The table. Changes that come while the engine takes one go to it together: each is a whole table, and with a thousand peers
/// that come up at once one for each would take minutes.
#[derive(Debug)]
pub(super) struct Policies {
    sets: RefCell<Sets>,
    /// How many changes there were.
    changes: Cell<u64>,
    commits: Mutex<Commits>,
}

/// What the engine has.
#[derive(Debug)]
struct Commits {
    generation: u64,
    /// How many of the changes.
    changes: u64,
}

impl Policies {
    /// A table to be set with a generation above `generation`: the first policy of each peer with what is configured.
    pub(super) fn new(generation: u64, orders: Vec<PolicyOrder>) -> Self {
        let commits = Mutex::new(Commits { generation, changes: 0 });
        Self { sets: RefCell::new(Sets::new(orders)), changes: Cell::new(1), commits }
    }

    /// Keeps a policy of the table in force for the SAs of an earlier control.
    pub(super) fn keep(&mut self, policy: u32, name: String, spis: impl Iterator<Item = u32>) {
        let sets = self.sets.get_mut();
        sets.orders.push(PolicyOrder { policy, name, pairs: Vec::new(), keep: true });
        sets.users.extend(spis.map(|spi| (spi, policy)));
    }

    /// Puts all changes so far in force.
    pub(super) async fn commit(&self, client: &Client) -> Result<(), EngineError> {
        let wanted = self.changes.get();
        let mut commits = self.commits.lock().await;
        if commits.changes >= wanted {
            return Ok(());
        }
        // Also what came while another commit was under way.
        let (changes, orders) = (self.changes.get(), self.sets.borrow().orders.clone());
        commits.generation += 1;
        client.set_policies(commits.generation, &orders).await?;
        commits.changes = changes;
        Ok(())
    }

    async fn commit_if(&self, changed: bool, client: &Client) -> Result<(), EngineError> {
        if changed {
            self.changes.set(self.changes.get() + 1);
        }
        self.commit(client).await
    }

    /// The policy for an SA of a peer with these selectors, in force when this returns.
    pub(super) async fn agree(&self, client: &Client, peer: PeerId, spi: u32, selectors: &Selectors) -> Result<u32, EngineError> {
        let assigned = self.sets.borrow_mut().assign(peer, spi, site::pairs(selectors));
        let (policy, changed) =
            assigned.ok_or_else(|| EngineError::Nonsense(format!("more than {SETS_MAX} sets of subnets with one peer")))?;
        self.commit_if(changed, client).await?;
        Ok(policy)
    }

    /// What the peers are configured with from now on. A peer that is new gets a policy; what SAs use stays as it was agreed until
    /// the last of them has gone.
    pub(super) async fn configure(&self, client: &Client, orders: Vec<PolicyOrder>) -> Result<(), EngineError> {
        let changed = self.sets.borrow_mut().configure(orders);
        self.commit_if(changed, client).await
    }

    /// Takes away all policies of these peers, with the SAs that use them.
    pub(super) async fn forget(&self, client: &Client, peers: &[PeerId]) -> Result<(), EngineError> {
        let changed = self.sets.borrow_mut().forget(peers);
        self.commit_if(changed, client).await
    }

    /// An SA is gone, its inbound half too.
    pub(super) async fn release(&self, client: &Client, spi: u32) -> Result<(), EngineError> {
        let changed = self.sets.borrow_mut().release(spi);
        self.commit_if(changed, client).await
    }
}

/// Which sets there are and who uses them.
#[derive(Debug)]
struct Sets {
    orders: Vec<PolicyOrder>,
    /// What a peer's first policy has while no SA uses it.
    configured: HashMap<u32, Vec<Pair>>,
    /// The policy of each SA, by its SPI.
    users: HashMap<u32, u32>,
}

impl Sets {
    fn new(orders: Vec<PolicyOrder>) -> Self {
        let configured = orders.iter().map(|order| (order.policy, order.pairs.clone())).collect();
        Self { orders, configured, users: HashMap::new() }
    }

    fn used(&self, policy: u32) -> bool {
        self.users.values().any(|used| *used == policy)
    }

    /// Whether that has changed the table.
    fn configure(&mut self, orders: Vec<PolicyOrder>) -> bool {
        let used: HashSet<u32> = self.users.values().copied().collect();
        let places: HashMap<u32, usize> = self.orders.iter().enumerate().map(|(place, order)| (order.policy, place)).collect();
        let mut changed = false;
        for order in orders {
            self.configured.insert(order.policy, order.pairs.clone());
            match places.get(&order.policy).and_then(|place| self.orders.get_mut(*place)) {
                Some(present) if used.contains(&order.policy) || present.pairs == order.pairs => (),
                Some(present) => (present.pairs, changed) = (order.pairs, true),
                None => {
                    self.orders.push(order);
                    changed = true;
                }
            }
        }
        changed
    }

    /// Whether that has changed the table.
    fn forget(&mut self, peers: &[PeerId]) -> bool {
        let before = self.orders.len();
        self.orders.retain(|order| !peers.contains(&peer_of(order.policy)));
        self.configured.retain(|policy, _| !peers.contains(&peer_of(*policy)));
        self.users.retain(|_, policy| !peers.contains(&peer_of(*policy)));
        self.orders.len() != before
    }

    /// The policy that an SA with these pairs belongs to from now on, and whether the table has changed. `None`: the peer has too
    /// many sets.
    fn assign(&mut self, peer: PeerId, spi: u32, pairs: Vec<Pair>) -> Option<(u32, bool)> {
        let same = |order: &&PolicyOrder| peer_of(order.policy) == peer && !order.keep && order.pairs == pairs;
        // One that SAs use is as good as the first, and its packets need not move.
        let found = self.orders.iter().filter(same).map(|order| order.policy).max_by_key(|policy| self.used(*policy));
        if let Some(policy) = found {
            self.users.insert(spi, policy);
            return Some((policy, false));
        }
        let first = self.orders.iter().position(|order| order.policy == peer.0)?;
        if !self.used(peer.0) {
            self.orders.get_mut(first)?.pairs = pairs;
            self.users.insert(spi, peer.0);
            return Some((peer.0, true));
        }
        let taken = |policy: u32| self.orders.iter().any(|order| order.policy == policy);
        let policy = (1..=SETS_MAX).map(|set| peer.0 | set << SET_SHIFT).find(|policy| !taken(*policy))?;
        let name = self.orders.get(first)?.name.clone();
        self.orders.push(PolicyOrder { policy, name, pairs, keep: false });
        self.users.insert(spi, policy);
        Some((policy, true))
    }

    /// Whether that has changed the table.
    fn release(&mut self, spi: u32) -> bool {
        let Some(policy) = self.users.remove(&spi) else { return false };
        if self.used(policy) {
            return false;
        }
        if !is_first(policy) {
            self.orders.retain(|order| order.policy != policy);
            return true;
        }
        let Some((order, configured)) = self.orders.iter_mut().find(|order| order.policy == policy).zip(self.configured.get(&policy))
        else {
            return false;
        };
        let changed = order.pairs != *configured;
        order.pairs.clone_from(configured);
        changed
    }
}

#[cfg(test)]
mod tests {
    use penstock_ike::{PeerId, Selectors};
    use penstock_uapi::request::Pair;

    use super::{SETS_MAX, Sets, is_first, peer_of};
    use crate::daemon::site;
    use crate::engine::PolicyOrder;

    fn pairs(remote: &str) -> Vec<Pair> {
        let net = |text: &str| text.parse().expect("a prefix");
        site::pairs(&Selectors { local: vec![net("10.1.0.0/16")], remote: remote.split(' ').map(net).collect() })
    }

    const PEER: PeerId = PeerId(7);

    fn sets() -> Sets {
        let order = |policy, name: &str, remote| PolicyOrder { policy, name: name.into(), pairs: pairs(remote), keep: false };
        Sets::new(vec![order(6, "a", "10.6.0.0/16"), order(7, "b", "10.2.0.0/16 10.3.0.0/16")])
    }

    fn of(sets: &Sets, policy: u32) -> Option<&[Pair]> {
        sets.orders.iter().find(|order| order.policy == policy).map(|order| order.pairs.as_slice())
    }

    #[test]
    fn successors_with_the_same_selectors_share_a_policy() {
        let mut sets = sets();
        assert_eq!(sets.assign(PEER, 1, pairs("10.2.0.0/16 10.3.0.0/16")), Some((7, false)));
        assert_eq!(sets.assign(PEER, 2, pairs("10.2.0.0/16 10.3.0.0/16")), Some((7, false)));
        assert!(!sets.release(1) && !sets.release(2) && !sets.release(3));
    }

    #[test]
    fn the_first_policy_is_what_was_agreed_while_it_is_used_and_what_is_configured_else() {
        let mut sets = sets();
        assert_eq!(sets.assign(PEER, 1, pairs("10.2.0.0/16")), Some((7, true)));
        assert_eq!(of(&sets, 7), Some(&pairs("10.2.0.0/16")[..]));
        assert!(sets.release(1));
        assert_eq!(of(&sets, 7), Some(&pairs("10.2.0.0/16 10.3.0.0/16")[..]));
    }

    #[test]
    fn children_with_other_selectors_take_nothing_from_the_first() {
        let mut sets = sets();
        sets.assign(PEER, 1, pairs("10.2.0.0/16"));
        let (second, changed) = sets.assign(PEER, 2, pairs("10.3.0.0/16")).expect("a policy");
        assert!(changed && second != 7 && peer_of(second) == PEER && !is_first(second));
        assert_eq!((of(&sets, 7), of(&sets, second)), (Some(&pairs("10.2.0.0/16")[..]), Some(&pairs("10.3.0.0/16")[..])));
        // A successor of the second stays with it; the set goes with the last of the two.
        assert_eq!(sets.assign(PEER, 3, pairs("10.3.0.0/16")), Some((second, false)));
        assert!(!sets.release(2));
        assert!(sets.release(3));
        assert_eq!(of(&sets, second), None);
    }

    #[test]
    fn a_changed_configuration_leaves_alone_what_sas_use() {
        let mut sets = sets();
        let order = |policy, name: &str, remote| PolicyOrder { policy, name: name.into(), pairs: pairs(remote), keep: false };
        sets.assign(PEER, 1, pairs("10.2.0.0/16 10.3.0.0/16"));
        // Given that the first peer has no SA and the second has one, when both get another prefix and a third peer comes
        let all = || vec![order(6, "a", "10.16.0.0/16"), order(7, "b", "10.17.0.0/16"), order(8, "c", "10.8.0.0/16")];
        assert!(sets.configure(all()));
        // Then that of the second comes into force when its SA has gone, the others at once.
        let remote = |sets: &Sets, policy| of(sets, policy).map(<[Pair]>::to_vec);
        assert_eq!((remote(&sets, 6), remote(&sets, 8)), (Some(pairs("10.16.0.0/16")), Some(pairs("10.8.0.0/16"))));
        assert_eq!(remote(&sets, 7), Some(pairs("10.2.0.0/16 10.3.0.0/16")));
        assert!(!sets.configure(all()), "nothing is new");
        assert!(sets.release(1));
        assert_eq!(remote(&sets, 7), Some(pairs("10.17.0.0/16")));
    }

    #[test]
    fn a_peer_that_is_forgotten_leaves_nothing_behind() {
        let mut sets = sets();
        sets.assign(PEER, 1, pairs("10.2.0.0/16"));
        sets.assign(PEER, 2, pairs("10.3.0.0/16"));
        assert!(sets.forget(&[PEER]) && !sets.forget(&[PEER]));
        assert_eq!(sets.orders.iter().map(|order| order.policy).collect::<Vec<_>>(), [6]);
        assert!(sets.users.is_empty() && sets.configured.len() == 1);
        assert_eq!(sets.assign(PEER, 3, pairs("10.2.0.0/16")), None);
        assert!(!sets.release(1));
    }

    #[test]
    fn the_number_of_sets_is_bounded() {
        let mut sets = sets();
        let all: Vec<_> = (0..=SETS_MAX + 1).map(|number| sets.assign(PEER, number, pairs(&format!("10.2.{number}.0/24")))).collect();
        assert_eq!(all.iter().flatten().count(), SETS_MAX as usize + 1);
        assert_eq!(all.last(), Some(&None));
    }
}
