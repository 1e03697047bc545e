//! The life of IKE SAs beside the messages: start, time, end, and the next try.

use crate::Ike;
use crate::config::{PeerId, Start};
use crate::error::Fault;
use crate::exchange::{End, create, init, rekey};
use crate::message::{Chain, exchange};
use crate::output::{Host, Level, Output};
use crate::proposal::protocol;
use crate::renew;
use crate::retransmit::{Due, Purpose};
use crate::sa::{IkeSa, Stage, Task};

impl Ike {
    /// Starts an IKE SA with the peer.
    pub(crate) fn start(&mut self, now: u64, peer: PeerId, host: &mut dyn Host) {
        let Some(state) = self.cx.peers.get_mut(&peer) else { return };
        (state.closed, state.retry_at, state.dormant) = (false, None, false);
        let (config, initial_contact) = (std::sync::Arc::clone(&state.config), state.initial_contact);
        if self.of(peer).any(|sa| self.sas.get(&sa).is_some_and(|sa| sa.starting())) {
            return;
        }
        let known = self.of(peer).find_map(|spi| self.sas.get(&spi).map(|sa| sa.remote));
        let Some(remote) = config.endpoint.or(known) else {
            return self.lost(now, peer, Some(Fault::Local("no endpoint is configured, so it has to come to us".to_owned())));
        };
        let spi = self.fresh_spi(host);
        match init::start(&mut self.cx, now, &config, spi, remote, host) {
            None => self.lost(now, peer, Some(Fault::Local("the random generator makes no key".to_owned()))),
            Some(mut sa) => {
                sa.initial_contact = initial_contact;
                self.sas.insert(spi, sa);
                let serves = self.of(peer).any(|spi| self.sas.get(&spi).is_some_and(|sa| matches!(sa.stage, Stage::Established)));
                if let Some(state) = self.cx.peers.get_mut(&peer) {
                    state.replacing = serves;
                }
            }
        }
    }

    /// The SPIs of a peer's IKE SAs.
    pub(crate) fn of(&self, peer: PeerId) -> impl Iterator<Item = u64> + '_ {
        self.sas.values().filter(move |sa| sa.peer == Some(peer)).map(|sa| sa.spi)
    }

    pub(crate) fn fresh_spi(&self, host: &mut dyn Host) -> u64 {
        let mut bytes = [0; 8];
        for _ in 0..64 {
            host.random(&mut bytes);
            let spi = u64::from_ne_bytes(bytes);
            if spi != 0 && !self.sas.contains_key(&spi) {
                return spi;
            }
        }
        // Only a broken generator comes here; any free number keeps the IKE SAs apart.
        self.sas.last_key_value().map_or(1, |(spi, _)| spi.wrapping_add(1).max(1))
    }

    /// An IKE SA has become established, on either side.
    pub(crate) fn established(&mut self, now: u64, spi: u64) {
        let Some(sa) = self.sas.get(&spi) else { return };
        let (Some(peer), initiator, initial_contact) = (sa.peer, sa.initiator, sa.initial_contact) else { return };
        let config = self.cx.peer(peer);
        let every = config.as_ref().map_or(0, |config| config.upkeep.rekey_ike_ms);
        let rekey_at = now.saturating_add(self.cx.jitter.early(every));
        if let Some(sa) = self.sas.get_mut(&spi) {
            renew::plan(sa, rekey_at);
            sa.keepalive_ms = config.map(|config| config.keepalive_ms);
        }
        if initiator {
            if initial_contact {
                self.supersede(now, spi);
            }
            if let Some(state) = self.cx.peers.get_mut(&peer) {
                state.initial_contact = true;
            }
            return;
        }
        // The peer was faster: what we have begun and not yet proved ourselves in is needed no more.
        let unsent = |stage: &Stage| match stage {
            Stage::Starting(_) => true,
            Stage::Authenticating(stage) => stage.held.is_some(),
            _ => false,
        };
        let begun: Vec<u64> = self.of(peer).filter(|spi| self.sas.get(spi).is_some_and(|sa| unsent(&sa.stage))).collect();
        begun.into_iter().for_each(|spi| self.remove(now, spi, None));
    }

    /// INITIAL_CONTACT (RFC 7296 section 2.4): the sender had no other IKE SA when it began this one, so whatever was
    /// established before is dead. What was established since then is not: both sides may have begun at once.
    pub(crate) fn supersede(&mut self, now: u64, spi: u64) {
        let Some(sa) = self.sas.get(&spi) else { return };
        let (began, Some(peer)) = (sa.began, sa.peer) else { return };
        let older = |sa: &IkeSa| sa.established.is_some_and(|established| established < began);
        let dead: Vec<u64> = self.of(peer).filter(|spi| self.sas.get(spi).is_some_and(older)).collect();
        dead.into_iter().for_each(|spi| self.remove(now, spi, None));
    }

    /// Ends an IKE SA.
    pub(crate) fn end(&mut self, now: u64, spi: u64, end: End) {
        match end {
            End::Drop(fault) => self.remove(now, spi, Some(fault)),
            End::Delete(fault) => {
                let peer = self.sas.get(&spi).and_then(|sa| sa.peer);
                self.leave(now, spi);
                if let Some(peer) = peer {
                    self.lost(now, peer, Some(fault));
                }
            }
        }
    }

    /// Sends DELETE for an IKE SA; its children go at once, and go on receiving for a while.
    pub(crate) fn leave(&mut self, now: u64, spi: u64) {
        let Some(sa) = self.sas.get_mut(&spi) else { return };
        (sa.rekey_at, sa.renewal) = (None, None);
        std::mem::take(&mut sa.children).values().for_each(|child| child.retire(&mut self.cx));
        (sa.stage, sa.deadline, sa.probe_at, sa.replies.held) = (Stage::Leaving, None, None, None);
        sa.requests.waiting = [Task::DeleteIke].into();
        self.pump(now, spi);
    }

    /// Forgets an IKE SA without a word.
    pub(crate) fn remove(&mut self, now: u64, spi: u64, fault: Option<Fault>) {
        // Section 2.25.2: a DELETE in the middle of a rekey by both sides. The peer's has taken over.
        self.inherit(now, spi);
        let Some(sa) = self.sas.remove(&spi) else { return };
        self.half_opens.forget(spi);
        sa.first.map(|first| self.firsts.remove(&first));
        sa.children.values().for_each(|child| child.retire(&mut self.cx));
        if let Some(peer) = sa.peer.filter(|_| !matches!(sa.stage, Stage::Leaving | Stage::Replaced | Stage::Parting(_))) {
            self.lost(now, peer, fault);
        }
    }

    /// An IKE SA or a try is gone: says so if nothing else of this peer is left, and plans the next try.
    pub(crate) fn lost(&mut self, now: u64, peer: PeerId, fault: Option<Fault>) {
        let silent = matches!(fault, Some(Fault::Silent(_)));
        let alive = |sa: &IkeSa| sa.starting() || matches!(sa.stage, Stage::Answering | Stage::Established);
        if self.of(peer).any(|spi| self.sas.get(&spi).is_some_and(alive)) {
            // Another one serves, or will: no failure of the peer's.
            let text = fault.map(|fault| format!("one of two IKE SAs is gone: {}", fault.told(&self.cx.name(peer))));
            text.into_iter().for_each(|text| self.cx.event(peer, Level::Info, text));
            // The one that serves was to be replaced, because its children are used up or gone: that is still so.
            let starting = self.of(peer).any(|spi| self.sas.get(&spi).is_some_and(IkeSa::starting));
            if !starting && self.cx.peers.get(&peer).is_some_and(|state| state.replacing) {
                self.plan_retry(now, peer, silent);
            }
            return;
        }
        let text = fault.as_ref().map(|fault| self.cx.fault(peer, fault));
        self.plan_retry(now, peer, silent);
        let Some(state) = self.cx.peers.get_mut(&peer) else { return };
        if std::mem::take(&mut state.up) || text.is_some() {
            let reason = text.unwrap_or_else(|| format!("{} has no connection left", state.config.name));
            self.cx.outputs.push_back(Output::Down { peer, reason });
        }
    }

    /// The next try, after a pause that grows, unless the peer was just not to be heard.
    fn plan_retry(&mut self, now: u64, peer: PeerId, silent: bool) {
        let (last_ms, silent_ms, spread) = (self.cx.config.retry_last_ms, self.cx.config.retry_silent_ms, &mut self.cx.jitter);
        let Some(state) = self.cx.peers.get_mut(&peer) else { return };
        // Without an endpoint there is nobody to call: it has to come.
        if state.config.endpoint.is_none() || state.closed || state.dormant || state.retry_at.is_some() {
            return;
        }
        let next = now.saturating_add(spread.spread(if silent { silent_ms } else { state.pause }));
        match state.config.start {
            Start::Always => state.retry_at = Some(next),
            Start::Demand => state.try_from = next,
            Start::Wait => return,
        }
        if !silent {
            state.pause = state.pause.saturating_mul(2).min(last_ms);
        }
    }

    /// Closes an established IKE SA that has lost its last child.
    pub(crate) fn childless(&mut self, now: u64, spi: u64, why: &str) {
        if self.sas.get(&spi).is_some_and(|sa| sa.live() && sa.confirmed && sa.children.is_empty() && sa.deadline.is_none()) {
            self.end(now, spi, End::Delete(Fault::Ended(why.to_owned())));
        }
    }

    /// After anything that concerns this IKE SA.
    pub(crate) fn after(&mut self, now: u64, spi: u64) {
        self.pump(now, spi);
        if let Some(sa) = self.sas.get_mut(&spi) {
            rekey::refuse_now(&mut self.cx, sa);
        }
        if let Some(peer) = self.sas.get(&spi).and_then(|sa| sa.peer) {
            self.settle(now, peer);
        }
    }

    /// Sends the next waiting request if the window is free.
    pub(crate) fn pump(&mut self, now: u64, spi: u64) {
        let Some(sa) = self.sas.get_mut(&spi) else { return };
        if sa.requests.outstanding.is_none() && sa.live() {
            sa.confirm(&mut self.cx, now);
        }
        while sa.requests.outstanding.is_none() && matches!(sa.stage, Stage::Established | Stage::Leaving) {
            let Some(task) = sa.requests.waiting.pop_front() else { return };
            let mut chain = Chain::default();
            let purpose = match task {
                Task::CreateChild(id) => {
                    create::request(&mut self.cx, now, sa, id);
                    continue;
                }
                Task::DeleteChild(doomed) => {
                    chain.delete(protocol::ESP, &doomed.iter().map(|doomed| doomed.ours).collect::<Vec<_>>());
                    Purpose::DeleteChild(doomed)
                }
                Task::DeleteIke => {
                    chain.delete(protocol::IKE, &[]);
                    Purpose::DeleteIke
                }
                Task::Probe => Purpose::Probe,
            };
            sa.send_request(&mut self.cx, now, exchange::INFORMATIONAL, &chain, purpose);
        }
    }

    /// Lets time pass.
    pub(crate) fn on_tick(&mut self, now: u64, host: &mut dyn Host) {
        let due: Vec<u64> = self.sas.values().filter(|sa| sa.next_deadline().is_some_and(|at| at <= now)).map(|sa| sa.spi).collect();
        for spi in due {
            self.fire(now, spi, host);
        }
        let retries: Vec<PeerId> =
            self.cx.peers.iter().filter(|(_, peer)| peer.retry_at.is_some_and(|at| at <= now)).map(|(id, _)| *id).collect();
        for peer in retries {
            self.start(now, peer, host);
        }
        let looks: Vec<PeerId> =
            self.cx.peers.iter().filter(|(_, peer)| peer.look_at.is_some_and(|at| at <= now)).map(|(id, _)| *id).collect();
        looks.into_iter().for_each(|peer| self.look(now, peer));
    }

    fn fire(&mut self, now: u64, spi: u64, host: &mut dyn Host) {
        let late = |child: &crate::child::Child| child.deadline.is_some_and(|at| at <= now);
        let stuck = self.sas.get(&spi).and_then(|sa| sa.children.values().find(|child| late(child))).map(|child| child.id);
        if let Some(child) = stuck {
            self.on_failed(now, child, "it did not answer in time");
        }
        let Some(sa) = self.sas.get_mut(&spi) else { return };
        if sa.deadline.take_if(|at| *at <= now).is_some() {
            match sa.stage {
                Stage::HalfOpen(_) | Stage::Refused => return self.remove(now, spi, None),
                Stage::Replaced => return self.leave(now, spi),
                Stage::Parting(_) => return self.parted(now, spi),
                // An heir that took over nothing, and on which nothing was ever said: nobody knows it.
                Stage::Established if sa.children.is_empty() && sa.requests.next == 0 && sa.replies.expected == 0 => {
                    return self.remove(now, spi, None);
                }
                Stage::Established if sa.children.is_empty() => {
                    return self.end(now, spi, End::Delete(Fault::Ended("made no child".to_owned())));
                }
                _ => {}
            }
        }
        if sa.probe_at.take_if(|at| *at <= now).is_some() {
            sa.requests.waiting.push_back(Task::Probe);
        }
        sa.keep_alive(&mut self.cx, now);
        self.rekey_due(now, spi, host);
        self.renew_due(now, spi, host);
        self.again(now, spi);
        self.after(now, spi);
    }

    /// Repeats a request whose time has come, or gives up.
    fn again(&mut self, now: u64, spi: u64) {
        let Some(sa) = self.sas.get_mut(&spi) else { return };
        if sa.requests.outstanding.as_ref().is_none_or(|request| request.due > now) {
            return;
        }
        sa.confirms_in_vain(&mut self.cx, now);
        let to = sa.asked_at();
        let Some(request) = sa.requests.outstanding.as_mut() else { return };
        match request.fire(now, &self.cx.config, &mut self.cx.jitter) {
            // RFC 7383 section 2.6.1: all pieces again.
            Due::Again => {
                for (local, remote) in to {
                    request.datagrams.iter().for_each(|datagram| self.cx.send(local, remote, datagram.clone()));
                }
            }
            Due::GiveUp(fault) => self.vanished(now, spi, fault),
        }
    }
}
