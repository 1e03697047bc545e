//! Policy tables: built frame by frame, put in force in every core as a whole or not at all.

use std::collections::HashMap;
use std::sync::Arc;

use penstock_uapi::Status;
use penstock_uapi::request::{self, Pair, PolicyBegin, PolicyCommit, PolicyPairs};
use zerocopy::FromBytes;

use super::Admin;
use super::requests::Outcome;
use crate::limits;
use crate::path::{Order, Policies};
use crate::policy::{Lasting, Policy, PolicyTable, Prefix};

/// A table being built.
#[derive(Debug)]
struct Building {
    generation: u64,
    policies: HashMap<u32, (String, Vec<Pair>)>,
    /// Pairs that came with it.
    pairs: usize,
    /// Pairs of the table in force that it keeps.
    kept: usize,
}

/// The table in force and the one being built.
#[derive(Debug, Default)]
pub(super) struct Master {
    cores: usize,
    generation: u64,
    table: Option<Arc<PolicyTable>>,
    /// Names as they came, to be given back byte by byte.
    building: Option<Building>,
}

impl Master {
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn start(&mut self, cores: usize) {
        self.cores = cores;
    }

    /// The policies in force.
    pub(super) fn all(&self) -> impl Iterator<Item = &Policy> {
        self.table.iter().flat_map(|table| table.policies.iter())
    }

    pub(super) fn has(&self, policy: u32) -> bool {
        self.table.as_ref().is_some_and(|table| table.place(policy).is_some())
    }

    /// Whether both are policies of one peer.
    pub(super) fn of_one_peer(&self, one: u32, other: u32) -> bool {
        let table = self.table.as_ref();
        table.is_some_and(|table| table.place(one).zip(table.place(other)).is_some_and(|(one, other)| table.of_one_peer(one, other)))
    }

    pub(super) fn begin(&mut self, begin: &PolicyBegin) -> Outcome {
        if self.cores == 0 {
            return Err(Status::Order);
        }
        let generation = begin.generation.get();
        if generation <= self.generation {
            return Err(Status::Exists);
        }
        self.building = Some(Building { generation, policies: HashMap::new(), pairs: 0, kept: 0 });
        Ok(())
    }

    pub(super) fn add(&mut self, policy: &request::Policy) -> Outcome {
        let building = self.building.as_mut().ok_or(Status::Order)?;
        let length = policy.name.iter().position(|byte| *byte == 0).unwrap_or(policy.name.len());
        let (name, padding) = policy.name.split_at(length);
        let name = std::str::from_utf8(name).map_err(|_| Status::Malformed)?;
        if name.is_empty() || padding.iter().any(|byte| *byte != 0) {
            return Err(Status::Malformed);
        }
        if building.policies.len() >= limits::POLICIES_MAX {
            return Err(Status::Full);
        }
        let id = policy.policy.get();
        if building.policies.contains_key(&id) {
            return Err(Status::Exists);
        }
        let pairs = match policy.keep.get() {
            0 => Vec::new(),
            1 => {
                let old = self.table.as_ref().and_then(|table| table.policies.get(table.place(id)?)).filter(|old| old.name == name);
                old.ok_or(Status::Unknown)?
                    .pairs
                    .iter()
                    .map(|(local, remote)| Pair { local: local.into(), remote: remote.into() })
                    .collect()
            }
            _ => return Err(Status::Malformed),
        };
        if building.pairs + building.kept + pairs.len() > limits::POLICY_PAIRS_MAX {
            return Err(Status::Full);
        }
        building.kept += pairs.len();
        building.policies.insert(id, (name.to_owned(), pairs));
        Ok(())
    }

    pub(super) fn add_pairs(&mut self, pairs: &PolicyPairs, tail: &[u8]) -> Outcome {
        let building = self.building.as_mut().ok_or(Status::Order)?;
        let more = <[Pair]>::ref_from_bytes(tail).map_err(|_| Status::Malformed)?;
        if more.len() != pairs.count.get() as usize || more.iter().any(|pair| !is_sane(pair)) {
            return Err(Status::Malformed);
        }
        if building.pairs + building.kept + more.len() > limits::POLICY_PAIRS_MAX {
            return Err(Status::Full);
        }
        let (_, pairs) = building.policies.get_mut(&pairs.policy.get()).ok_or(Status::Unknown)?;
        pairs.extend_from_slice(more);
        building.pairs += more.len();
        Ok(())
    }

    /// Finishes the open table. One that is not what the commit says is thrown away.
    fn finish(&mut self, commit: &PolicyCommit) -> Result<Arc<PolicyTable>, Status> {
        let building = self.building.take().ok_or(Status::Order)?;
        let as_said = building.generation == commit.generation.get()
            && building.policies.len() == commit.policies.get() as usize
            && building.pairs == commit.pairs.get() as usize;
        if !as_said {
            return Err(Status::Malformed);
        }
        let lasting: HashMap<u32, Arc<Lasting>> = self.all().map(|policy| (policy.id, Arc::clone(&policy.lasting))).collect();
        let policies = building.policies.into_iter().map(|(id, (name, pairs))| {
            let lasting = lasting.get(&id).cloned().unwrap_or_else(|| Arc::new(Lasting::new(self.cores)));
            let pairs = pairs.iter().filter_map(both).collect();
            Policy { id, name, pairs, lasting }
        });
        Ok(Arc::new(PolicyTable::new(building.generation, policies.collect())))
    }
}

/// Both prefixes have a meaning and are of one family.
fn is_sane(pair: &Pair) -> bool {
    pair.local.parts().zip(pair.remote.parts()).is_some_and(|((local, _), (remote, _))| local.is_ipv4() == remote.is_ipv4())
}

fn both(pair: &Pair) -> Option<(Prefix, Prefix)> {
    let prefix = |prefix: &penstock_uapi::Prefix| prefix.parts().and_then(|(ip, length)| Prefix::new(ip, length));
    prefix(&pair.local).zip(prefix(&pair.remote))
}

impl Admin {
    pub(super) fn commit_policies(&mut self, commit: &PolicyCommit) -> Outcome {
        let table = self.policies.finish(commit)?;
        for spi in self.sas.spis_without(|policy| table.place(policy).is_some()) {
            self.end_pair(spi, 0)?;
        }
        for core in 0..self.running.as_ref().map_or(0, |running| running.cores.len()) {
            self.order(core, Order::Policies(Box::new(Policies::new(Arc::clone(&table)))))?;
        }
        self.policies.generation = table.generation;
        self.policies.table = Some(table);
        Ok(())
    }
}
