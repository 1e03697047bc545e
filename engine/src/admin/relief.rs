//! One engine relieves another: the queues change hands, and so does what was counted.
//!
//! ```text
//!   old ── Shutdown (drain) ─► reads no more of the TUN queues ─► all that was read has left ─► answer ─► receives until it ends
//!   new (started to wait, with SAs of its own) ──────────────────────────────── TakeQueues ─► reads them
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use penstock_uapi::Status;
use penstock_uapi::reply::{CoreState, PolicyState};
use penstock_uapi::request::{Shutdown, TakeQueues};
use zerocopy::little_endian::U64;

use super::Admin;
use super::requests::Outcome;
use crate::limits;
use crate::sys::wait::{Interest, poll};
use crate::worker::desk::{Desk, Errand};

/// What engines before this one have counted.
#[derive(Debug, Default)]
pub(super) struct Credit {
    cores: HashMap<u16, CoreState>,
    policies: HashMap<u32, PolicyState>,
}

fn add(to: &mut U64, more: U64) {
    *to = U64::new(to.get().saturating_add(more.get()));
}

fn add_counts(to: &mut CoreState, more: &CoreState) {
    to.counters.iter_mut().zip(more.counters).for_each(|(to, more)| add(to, more));
    to.drops.iter_mut().zip(more.drops).for_each(|(to, more)| add(to, more));
}

fn add_traffic(to: &mut PolicyState, more: &PolicyState) {
    add(&mut to.outbound_packets, more.outbound_packets);
    add(&mut to.outbound_bytes, more.outbound_bytes);
    add(&mut to.inbound_packets, more.inbound_packets);
    add(&mut to.inbound_bytes, more.inbound_bytes);
}

impl Credit {
    /// Takes over what a core has counted.
    pub(super) fn add_core(&mut self, more: &CoreState) -> Outcome {
        let core = more.core.get();
        if usize::from(core) >= penstock_uapi::CORES_MAX {
            return Err(Status::Unknown);
        }
        self.cores.entry(core).and_modify(|to| add_counts(to, more)).or_insert(*more);
        Ok(())
    }

    /// Takes over what was counted for a policy.
    pub(super) fn add_policy(&mut self, more: &PolicyState) -> Outcome {
        let policy = more.policy.get();
        if !self.policies.contains_key(&policy) && self.policies.len() >= limits::POLICIES_MAX {
            return Err(Status::Full);
        }
        self.policies.entry(policy).and_modify(|to| add_traffic(to, more)).or_insert(*more);
        Ok(())
    }

    /// Adds it to what a core has counted since.
    pub(super) fn to_core(&self, state: &mut CoreState) {
        if let Some(more) = self.cores.get(&state.core.get()) {
            add_counts(state, more);
        }
    }

    /// Adds it to what was counted for a policy since, if that is still the same peer's.
    pub(super) fn to_policy(&self, state: &mut PolicyState) {
        if let Some(more) = self.policies.get(&state.policy.get()).filter(|more| more.name == state.name) {
            add_traffic(state, more);
        }
    }
}

impl Admin {
    /// Ends the engine: at once, or after a time in which it only receives.
    pub(super) fn shutdown(&mut self, shutdown: &Shutdown) -> Outcome {
        let drain_ms = u64::from(shutdown.drain_ms.get());
        let ends = Instant::now() + Duration::from_millis(drain_ms);
        if let Some(sooner) = self.ends {
            self.ends = Some(sooner.min(ends));
            return Ok(());
        }
        if drain_ms > 0 {
            self.leave_queues()?;
        }
        for spi in self.sas.spis() {
            // One that is ending already ends no later than it would have.
            let _ = self.end_pair(spi, drain_ms);
        }
        self.ends = Some(ends);
        Ok(())
    }

    pub(super) fn take_queues(&mut self, _: &TakeQueues) -> Outcome {
        let running = self.running.as_mut().filter(|running| running.waits()).ok_or(Status::Order)?;
        running.start.waits = 0;
        self.read_queues(true)
    }

    fn read_queues(&mut self, reads: bool) -> Outcome {
        let cores = self.running.as_ref().map_or(0, |running| running.cores.len());
        (0..cores).try_for_each(|core| self.errand(core, Errand::ReadTun(reads)))
    }

    /// No core reads its TUN queue any more, and what they have read has left. A core that cannot send for so long that its patience is
    /// over keeps the rest, which its outbound SAs then drop and count.
    fn leave_queues(&mut self) -> Outcome {
        self.read_queues(false)?;
        let desks: Vec<Arc<Desk>> = self.desks().cloned().collect();
        let deadline = Instant::now() + limits::QUIET_PATIENCE;
        while !desks.iter().all(|desk| desk.quiet.load(Ordering::Acquire)) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let bell = Arc::clone(&self.bell);
            let _ = poll(&mut [Interest::read(std::os::fd::AsFd::as_fd(&*bell))], Some(left));
            self.hear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use penstock_uapi::reply::{CoreState, PolicyState};
    use penstock_uapi::{CORES_MAX, Status};
    use zerocopy::FromZeros;
    use zerocopy::little_endian::{U16, U32, U64};

    use super::Credit;
    use crate::limits;

    fn core(number: u16, count: u64) -> CoreState {
        let mut state = CoreState::new_zeroed();
        state.core = U16::new(number);
        (state.counters[0], state.drops[1]) = (U64::new(count), U64::new(count.saturating_mul(2)));
        state
    }

    fn policy(number: u32, name: u8, count: u64) -> PolicyState {
        let mut state = PolicyState::new_zeroed();
        (state.policy, state.name[0], state.inbound_bytes) = (U32::new(number), name, U64::new(count));
        state.idle_ms = U64::new(7);
        state
    }

    #[test]
    fn what_engines_before_have_counted_is_added_up() {
        let mut credit = Credit::default();
        for count in [5, 6] {
            credit.add_core(&core(1, count)).expect("a core");
            credit.add_policy(&policy(3, b'a', count)).expect("a policy");
        }
        let mut mine = core(1, 100);
        credit.to_core(&mut mine);
        assert_eq!((mine.counters[0].get(), mine.drops[1].get()), (111, 222));
        let mut others = core(0, 100);
        credit.to_core(&mut others);
        assert_eq!(others.counters[0].get(), 100);
        let mut traffic = policy(3, b'a', 100);
        credit.to_policy(&mut traffic);
        assert_eq!((traffic.inbound_bytes.get(), traffic.idle_ms.get()), (111, 7));
        // Another peer has the number now.
        let mut traffic = policy(3, b'b', 100);
        credit.to_policy(&mut traffic);
        assert_eq!(traffic.inbound_bytes.get(), 100);
    }

    #[test]
    fn what_is_kept_of_them_is_bounded() {
        let mut credit = Credit::default();
        assert_eq!(credit.add_core(&core(CORES_MAX as u16, 1)), Err(Status::Unknown));
        let most = limits::POLICIES_MAX as u32;
        (0..most).for_each(|number| credit.add_policy(&policy(number, b'a', 1)).expect("room"));
        assert_eq!(credit.add_policy(&policy(most, b'a', 1)), Err(Status::Full));
        credit.add_policy(&policy(0, b'a', 1)).expect("known already");
        credit.add_core(&core(0, u64::MAX)).expect("a core");
        credit.add_core(&core(0, u64::MAX)).expect("no sum that overflows");
    }
}
