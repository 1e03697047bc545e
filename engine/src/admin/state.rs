//! Answers to `ReadState`: counters and SAs, read from memory that the cores share. No core is asked or stopped.

use std::sync::atomic::{AtomicU64, Ordering};

use penstock_uapi::Status;
use penstock_uapi::frame::{self, Body, Frame};
use penstock_uapi::reply::{CoreState, PolicyState, SaState};
use penstock_uapi::request::ReadState;
use penstock_uapi::{Counter, Drop, Endpoint};
use zerocopy::little_endian::{U16, U32, U64};

use super::Admin;
use super::attach::RunningCore;
use super::requests::{Outcome, body};
use super::sas::Sa;
use crate::policy::{Cell, Policy};

impl Admin {
    /// Sends every state with `More`; the caller closes the answer.
    pub(super) fn read_state(&mut self, at: usize, frame: &Frame<'_>) -> Outcome {
        let _: &ReadState = body(frame)?;
        let now_ms = self.now_ms();
        let mut frames = Vec::new();
        let mut push = |bytes| frames.push(bytes);
        for (number, core) in (0u16..).zip(self.running.iter().flat_map(|running| &running.cores)) {
            let mut state = core_state(number, core);
            self.credit.to_core(&mut state);
            push(more(frame.request, &state));
        }
        for policy in self.policies.all() {
            let mut state = policy_state(policy, now_ms);
            self.credit.to_policy(&mut state);
            push(more(frame.request, &state));
        }
        for (spi, sa) in self.sas.all() {
            push(more(frame.request, &sa_state(spi, sa, now_ms)));
        }
        let client = self.clients.get_mut(at).ok_or(Status::Order)?;
        frames.into_iter().for_each(|bytes| client.send(bytes, &[]));
        Ok(())
    }
}

fn more<B: Body>(request: u64, body: &B) -> zeroize::Zeroizing<Vec<u8>> {
    frame::encode(Status::More, request, body, &[])
}

fn core_state(number: u16, core: &RunningCore) -> CoreState {
    let moment = core.desk.tally.read();
    let mut state = CoreState {
        core: U16::new(number),
        ring: core.ring.into(),
        asleep: core.desk.sleep.is_asleep().into(),
        parked: U32::new(core.desk.parked.load(Ordering::Relaxed)),
        waiting: U32::new(core.desk.waiting.load(Ordering::Relaxed)),
        counters: [U64::ZERO; Counter::COUNT],
        drops: [U64::ZERO; Drop::COUNT],
    };
    state.counters.iter_mut().zip(moment.counters).for_each(|(to, from)| *to = U64::new(from));
    state.drops.iter_mut().zip(moment.drops).for_each(|(to, from)| *to = U64::new(from));
    state
}

fn policy_state(policy: &Policy, now_ms: u64) -> PolicyState {
    let sum = |of: fn(&Cell) -> &AtomicU64| U64::new(policy.lasting.cells.iter().map(|cell| of(cell).load(Ordering::Relaxed)).sum());
    let heard_ms = policy.lasting.cells.iter().map(|cell| cell.inbound_ms.load(Ordering::Relaxed)).max().unwrap_or(0);
    let mut name = [0; 64];
    name.iter_mut().zip(policy.name.bytes()).for_each(|(to, from)| *to = from);
    PolicyState {
        policy: U32::new(policy.id),
        reserved: U32::ZERO,
        name,
        outbound_packets: sum(|cell| &cell.outbound_packets),
        outbound_bytes: sum(|cell| &cell.outbound_bytes),
        inbound_packets: sum(|cell| &cell.inbound_packets),
        inbound_bytes: sum(|cell| &cell.inbound_bytes),
        idle_ms: U64::new(if heard_ms == 0 { u64::MAX } else { now_ms.saturating_sub(heard_ms) }),
    }
}

fn sa_state(spi: u32, sa: &Sa, now_ms: u64) -> SaState {
    let load = |cell: &AtomicU64| U64::new(cell.load(Ordering::Relaxed));
    let outbound = sa.outbound;
    SaState {
        inbound_spi: U32::new(spi),
        outbound_spi: U32::new(outbound.map_or(0, |outbound| outbound.spi)),
        policy: U32::new(sa.policy),
        core: U16::new(sa.core),
        phase: sa.phase(),
        suite: sa.inbound.map_or(0, |inbound| inbound.suite),
        esn: sa.inbound.map_or(0, |inbound| inbound.esn),
        fallback: outbound.map_or(0, |outbound| outbound.fallback),
        source: outbound.map_or(0, |outbound| outbound.source),
        per_core: outbound.map_or(0, |outbound| outbound.per_core),
        age_ms: U64::new(sa.inbound.map_or(0, |inbound| now_ms.saturating_sub(inbound.installed_ms))),
        inbound_packets: load(&sa.shared.inbound_packets),
        inbound_bytes: load(&sa.shared.inbound_bytes),
        outbound_packets: load(&sa.shared.outbound_packets),
        outbound_bytes: load(&sa.shared.outbound_bytes),
        remote: outbound.map_or(Endpoint::NONE, |outbound| Endpoint::from(Some(outbound.remote))),
    }
}
