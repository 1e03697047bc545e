//! What the admin thread orders, carried out between batches; and what time brings.

use std::sync::atomic::Ordering;

use penstock_uapi::Drop;
use penstock_uapi::reply::phase;

use super::{Event, Io, Order, Path, Remains};
use crate::sa::Pair;

/// Pairs that one tick looks at. They are seldom in cache: this many take less than 0.1 ms, and ten thousand have their turn within two
/// seconds, which is early enough for keys that live for an hour and SAs that drain for seconds.
const TICK_PAIRS: usize = 256;

impl Path {
    /// Carries out an order. What it replaces goes to [`super::Events::remains`].
    pub fn apply(&mut self, now_ms: u64, order: Order, io: &mut Io<'_>) {
        match order {
            Order::Expect(pair) => self.insert(pair, io),
            Order::InstallInbound(pair) => self.install_inbound(now_ms, pair, io),
            Order::InstallOutbound { spi, outbound } => self.install_outbound(now_ms, spi, outbound, io),
            Order::Redirect { spi, remote, local, source } => {
                if let Some(outbound) = self.pairs.get_mut(spi).and_then(|pair| pair.outbound.as_deref_mut()) {
                    (outbound.remote, outbound.local, outbound.source) = (remote, local, source);
                }
            }
            Order::Retire { spi, drain_ms } => self.retire(now_ms, spi, drain_ms, io),
            Order::Policies(policies) => self.replace_policies(policies, io),
        }
        if self.waiting.woken {
            self.release(now_ms, io);
        }
    }

    /// Time passed: call it about every 50 ms. It looks at [`TICK_PAIRS`] pairs at most, and no further than to the first one for which
    /// something is to be done; the next tick goes on behind it.
    pub fn tick(&mut self, now_ms: u64, io: &mut Io<'_>) {
        if let Some(leaving) = self.leaving.take() {
            self.leaving = io.events.remains(leaving);
        }
        self.path_mtu_told = false;
        if !self.waiting.is_empty() {
            // Another core may have got an SA that this one can use; and nothing waits for ever.
            self.release(now_ms, io);
        }
        let pairs = self.pairs.count();
        for _ in 0..pairs.min(TICK_PAIRS) {
            if self.tick_at >= pairs {
                self.tick_at = 0;
            }
            let Some(pair) = self.pairs.at_mut(self.tick_at) else { break };
            self.tick_at += 1;
            let expired = pair.parking.as_mut().map_or(0, |parking| parking.expire(now_ms));
            self.parked -= expired;
            self.now.drop(Drop::Parked, expired.into());
            let (spi, due) = (pair.spi, due(pair, now_ms));
            if self.carry_out(now_ms, spi, due, io) {
                break;
            }
        }
        self.tally.publish(&self.now);
    }

    /// What time brought to a pair; `false` if that was nothing.
    fn carry_out(&mut self, now_ms: u64, spi: u32, due: Due, io: &mut Io<'_>) -> bool {
        if due.switch {
            self.activate(now_ms, spi);
            self.tell(Event::OutboundActive { spi }, io);
        }
        if let Some(hard) = due.limit {
            self.tell(Event::Limit { spi, hard, outbound: true }, io);
        }
        // There is one place for what leaves; a pair whose end has come waits for it.
        let ends = due.end && self.leaving.is_none();
        if ends {
            self.remove(spi, io);
        }
        due.switch || due.limit.is_some() || ends
    }

    fn insert(&mut self, pair: Box<Pair>, io: &mut Io<'_>) {
        match self.pairs.insert(pair) {
            Ok(None) => {}
            Ok(Some(old)) => {
                self.forget_parked(&old);
                self.leave(Remains::Pair(old), io);
            }
            Err(refused) => self.leave(Remains::Pair(refused), io),
        }
    }

    fn install_inbound(&mut self, now_ms: u64, pair: Box<Pair>, io: &mut Io<'_>) {
        let spi = pair.spi;
        let announced = match self.pairs.insert(pair) {
            Ok(old) => old,
            Err(refused) => return self.leave(Remains::Pair(refused), io),
        };
        let Some(old) = announced else { return };
        // Announced before: what came meanwhile is opened first, in its order.
        if let Some(parking) = &old.parking {
            self.parked -= parking.count();
            for (receive, frame) in parking.frames() {
                if let Err(reason) = self.open(now_ms, spi, receive, frame, io) {
                    self.now.drop(reason, 1);
                }
            }
        }
        self.leave(Remains::Pair(old), io);
    }

    fn install_outbound(&mut self, now_ms: u64, spi: u32, outbound: Box<crate::sa::Outbound>, io: &mut Io<'_>) {
        let Some(pair) = self.pairs.get_mut(spi) else { return self.leave(Remains::Outbound(outbound), io) };
        let (waits, policy) = (outbound.waits, pair.policy);
        // A pair that was heard before its outbound half came has nothing to wait for.
        let heard = pair.shared.inbound_packets.load(Ordering::Relaxed) > 0;
        let old = pair.outbound.replace(outbound);
        pair.enter(phase::WAITING);
        if let Some(old) = old {
            self.leave(Remains::Outbound(old), io);
        }
        let alone = self.policies.table.place(policy).is_some_and(|at| self.policies.states.get(at).is_some_and(|state| state.active == 0));
        if !waits || heard {
            self.activate(now_ms, spi);
            if waits {
                self.tell(Event::OutboundActive { spi }, io);
            }
        } else if alone && self.fallback_is_gone(policy) {
            // Without a predecessor there is nothing to keep the packets on.
            self.activate(now_ms, spi);
            self.tell(Event::OutboundActive { spi }, io);
        }
    }

    /// Whether no core has an SA for the policy.
    fn fallback_is_gone(&self, policy: u32) -> bool {
        let table = &self.policies.table;
        table.place(policy).and_then(|at| table.policies.get(at)).is_some_and(|policy| policy.lasting.fallback().is_none())
    }

    fn retire(&mut self, now_ms: u64, spi: u32, drain_ms: u64, io: &mut Io<'_>) {
        let Some(pair) = self.pairs.get_mut(spi) else { return };
        pair.ends_ms = Some(now_ms.saturating_add(drain_ms));
        pair.enter(phase::DRAINING);
        let (policy, announced) = (pair.policy, pair.parking.is_some());
        self.stop_sending(now_ms, spi, policy, io);
        if drain_ms == 0 || announced {
            self.remove(spi, io);
        }
    }

    /// Another pair of the policy takes over: the newest one, whether it waits or not. An older one that waits may be what a rekey by
    /// both sides has left over, and the peer is about to delete it.
    fn stop_sending(&mut self, now_ms: u64, spi: u32, policy: u32, io: &mut Io<'_>) {
        let Some(at) = self.policies.table.place(policy) else { return };
        let Some(state) = self.policies.states.get_mut(at) else { return };
        if state.active != spi {
            return;
        }
        state.active = 0;
        let candidates = self.pairs.iter().filter(|pair| pair.policy == policy && pair.ends_ms.is_none() && pair.spi != spi);
        let best =
            candidates.filter_map(|pair| pair.outbound.as_ref().map(|outbound| (outbound.installed_ms, !outbound.waits, pair.spi))).max();
        match best {
            Some((_, ready, next)) => {
                self.activate(now_ms, next);
                if !ready {
                    self.tell(Event::OutboundActive { spi: next }, io);
                }
            }
            None => {
                if let Some(policy) = self.policies.table.policies.get(at) {
                    policy.lasting.release(self.config.core);
                }
            }
        }
    }

    fn remove(&mut self, spi: u32, io: &mut Io<'_>) {
        if let Some(pair) = self.pairs.remove(spi) {
            self.forget_parked(&pair);
            self.leave(Remains::Pair(pair), io);
        }
    }

    /// What was parked for a pair that goes is dropped.
    fn forget_parked(&mut self, pair: &Pair) {
        let parked = pair.parking.as_ref().map_or(0, crate::sa::pair::Parking::count);
        self.now.drop(Drop::Parked, parked.into());
        self.parked -= parked;
    }

    fn replace_policies(&mut self, mut policies: Box<super::Policies>, io: &mut Io<'_>) {
        for (policy, state) in policies.table.policies.iter().zip(&mut policies.states) {
            let old = self.policies.table.place(policy.id).and_then(|at| self.policies.states.get(at));
            *state = old.copied().unwrap_or_default();
        }
        self.last_route = None;
        std::mem::swap(&mut self.policies, &mut policies);
        self.waiting.woken = !self.waiting.is_empty();
        self.leave(Remains::Policies(policies), io);
    }

    /// Gives something away to be freed. The admin thread waits for it before it orders more, so one place is enough to hold it.
    fn leave(&mut self, remains: Remains, io: &mut Io<'_>) {
        if let Some(refused) = io.events.remains(remains) {
            self.leaving = Some(refused);
        }
    }
}

/// What is to be done for a pair because time passed.
struct Due {
    /// Its outbound half takes over.
    switch: bool,
    /// Its outbound key reached a limit, the hard one if `true`.
    limit: Option<bool>,
    /// It has drained.
    end: bool,
}

/// Looks at a pair's ages.
fn due(pair: &mut Pair, now_ms: u64) -> Due {
    let mut due = Due { switch: false, limit: None, end: pair.ends_ms.is_some_and(|at| now_ms >= at) };
    if let Some(inbound) = &mut pair.inbound {
        inbound.expired |= now_ms.saturating_sub(inbound.installed_ms) >= inbound.opener.hard_ms();
    }
    if let Some(outbound) = &mut pair.outbound {
        let age_ms = now_ms.saturating_sub(outbound.installed_ms);
        outbound.aged |= age_ms >= soft_ms(outbound.sealer.hard_ms(), pair.spi);
        outbound.expired |= age_ms >= outbound.sealer.hard_ms();
        // Time passes also where no packet does.
        if pair.shared.phase.load(Ordering::Relaxed) == phase::ACTIVE {
            due.limit = outbound.limit();
        }
        // One that was retired while it waited has had its turn.
        due.switch = outbound.waits && pair.ends_ms.is_none() && outbound.switch_at_ms.is_some_and(|at| now_ms >= at);
    }
    due
}

/// When a new key is wanted: after six sevenths of the old one's life (an hour of seventy minutes), less up to a tenth of that by
/// the SPI, so that the two sides do not ask at the same moment.
fn soft_ms(hard_ms: u64, spi: u32) -> u64 {
    let soft = hard_ms / 7 * 6;
    soft - (soft / 10).saturating_mul(u64::from((spi >> 10) & 0xff)) / 256
}
