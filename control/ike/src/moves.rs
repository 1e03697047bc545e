//! Endpoints that move: a NAT chooses another port, a site gets another address, this machine loses one of its own.
//!
//! Where a peer is said to be behind a NAT, its newest authenticated request moves it at once (RFC 7296 section 2.23); the engine
//! does the same with packets, pair by pair. Everything else, and what the engine tells of packets, is only a hint: an empty
//! INFORMATIONAL goes to the new address and to nowhere else, and only its authenticated answer from there moves the IKE SA and all
//! its children (RFC 4555 section 3.7 calls this return routability). So whoever replays packets with another source moves nothing.
//!
//! ```text
//!   packet or request from elsewhere ─► candidate ─► Confirm, three tries ─┬─ answered from there ─► Redirect for each child
//!                                                                          └─ silence: on as a Probe to the old endpoint
//! ```

use std::net::{IpAddr, SocketAddr};

use crate::Ike;
use crate::child::Step;
use crate::context::Context;
use crate::exchange::{Came, nat};
use crate::message::{Chain, Payloads, exchange};
use crate::output::{Level, Output};
use crate::retransmit::Purpose;
use crate::sa::{IkeSa, Task};

impl Ike {
    /// The engine opened the newest packet of the pair with this inbound SPI, and it came from another endpoint than the pair's.
    pub(crate) fn on_moved(&mut self, now: u64, inbound_spi: u32, from: SocketAddr) {
        let owns = |sa: &&IkeSa| sa.live() && sa.children.values().any(|child| child.spi == inbound_spi);
        if let Some(spi) = self.sas.values().find(owns).map(|sa| sa.spi) {
            self.hint(now, spi, from, false);
        }
    }

    /// This machine has lost an address: what left from there leaves from the one that the kernel now chooses.
    pub(crate) fn on_local_gone(&mut self, now: u64, gone: IpAddr) {
        let left_from = |sa: &&IkeSa| sa.live() && sa.local.ip() == gone;
        let all: Vec<u64> = self.sas.values().filter(left_from).map(|sa| sa.spi).collect();
        for spi in all {
            let Some(sa) = self.sas.get_mut(&spi) else { continue };
            // A configured address is kept to, and waited for.
            if sa.peer.and_then(|peer| self.cx.peer(peer)).is_some_and(|config| config.local == Some(gone)) {
                continue;
            }
            sa.local = any(sa.local);
            sa.redirect(&mut self.cx);
            match &sa.requests.outstanding {
                Some(request) => request.datagrams.iter().for_each(|datagram| self.cx.send(sa.local, sa.remote, datagram.clone())),
                None => sa.requests.waiting.push_back(Task::Probe),
            }
            self.pump(now, spi);
        }
    }

    /// An authentic message of the peer came; `asks`: it is a request, and not one that came before.
    pub(crate) fn came(&mut self, now: u64, spi: u64, came: &Came, payloads: &Payloads<'_>, asks: bool) {
        let Some(sa) = self.sas.get_mut(&spi) else { return };
        // Another source than the peer's, which anybody on the way can write, says nothing of a NAT there.
        let mut changed = (!sa.live() || came.from == sa.remote) && nat::learn(sa, payloads, came);
        if !sa.live() {
            return;
        }
        // The kernel's choice becomes known by the answer.
        if sa.local.ip().is_unspecified() && sa.remote == came.from {
            (sa.local, changed) = (came.to, true);
        }
        if asks && sa.remote != came.from && sa.nat.there {
            sa.moves(&mut self.cx, came);
        } else if changed {
            sa.redirect(&mut self.cx);
        }
        if asks && sa.remote != came.from {
            self.hint(now, spi, came.from, true);
        }
    }

    /// The answer to a [`Purpose::Confirm`].
    pub(crate) fn confirmed(&mut self, now: u64, spi: u64, asked: SocketAddr, (came, payloads): (&Came, &Payloads<'_>)) {
        let Some(sa) = self.sas.get_mut(&spi) else { return };
        if sa.candidates(asked).contains(&came.from) {
            nat::learn(sa, payloads, came);
            sa.moves(&mut self.cx, came);
        } else {
            sa.confirm_from = now.saturating_add(self.cx.config.confirm_pause_ms);
        }
    }

    /// The peer may be at another endpoint. `asks`: a new request of the peer came from there, which nobody can make up; the next one is
    /// asked without a pause. A packet says less: by it anybody on the way can make us ask, and it has the port of the core that sent it.
    fn hint(&mut self, now: u64, spi: u64, from: SocketAddr, asks: bool) {
        let Some(sa) = self.sas.get_mut(&spi) else { return };
        let confirming = match sa.requests.outstanding.as_ref().map(|request| &request.purpose) {
            Some(Purpose::Confirm(asked)) => Some(*asked),
            _ => None,
        };
        if sa.remote == from || sa.candidate == Some(from) || confirming.is_some_and(|asked| !asks || sa.candidates(asked).contains(&from))
        {
            return;
        }
        if !asks && now < sa.confirm_from {
            return;
        }
        sa.candidate = Some(from);
        // What is on its way may wait for an answer from where the peer no longer is.
        if let (Some(request), None) = (&sa.requests.outstanding, confirming) {
            let local = sa.local_for(from);
            request.datagrams.iter().for_each(|datagram| self.cx.send(local, from, datagram.clone()));
        }
        self.pump(now, spi);
    }
}

impl IkeSa {
    /// Asks the candidate, once the window is free.
    pub(crate) fn confirm(&mut self, cx: &mut Context, now: u64) {
        let Some(candidate) = self.candidate.take() else { return };
        let (local, mut chain) = (self.local_for(candidate), Chain::default());
        nat::tell(&mut chain, self, local, candidate);
        self.send_request_to(cx, now, (exchange::INFORMATIONAL, &chain), Purpose::Confirm(candidate), (local, candidate));
        if let Some(request) = &self.requests.outstanding {
            let others = self.candidates(candidate).into_iter().filter(|other| *other != candidate);
            others.for_each(|other| request.datagrams.iter().for_each(|datagram| cx.send(local, other, datagram.clone())));
        }
    }

    /// Where the peer may be if it was heard there: there; and as each of its cores sends from a port of its own, on the port that its IKE
    /// had so far too.
    fn candidates(&self, heard: SocketAddr) -> Vec<SocketAddr> {
        let same_port = SocketAddr::new(heard.ip(), self.remote.port());
        if heard == same_port || same_port == self.remote { vec![heard] } else { vec![heard, same_port] }
    }

    /// A new endpoint had its tries, and stays what it was: a hint.
    pub(crate) fn confirms_in_vain(&mut self, cx: &mut Context, now: u64) {
        let vain = self.requests.outstanding.as_mut().and_then(crate::retransmit::Outstanding::confirms_in_vain);
        let Some((asked, peer)) = vain.zip(self.peer) else { return };
        self.confirm_from = now.saturating_add(cx.config.confirm_pause_ms);
        let text = format!("{} was heard from {asked}, which does not answer; it stays at {}", cx.name(peer), self.remote);
        cx.event(peer, Level::Info, text);
    }

    /// Between which ends, ours and the peer's, the outstanding request goes: to a candidate only, or also to one that waits.
    pub(crate) fn asked_at(&self) -> Vec<(SocketAddr, SocketAddr)> {
        let purpose = self.requests.outstanding.as_ref().map(|request| &request.purpose);
        let remotes = match purpose {
            Some(Purpose::Confirm(asked)) => self.candidates(*asked),
            _ => [Some(self.remote), self.candidate].into_iter().flatten().collect(),
        };
        remotes.into_iter().map(|remote| (self.local_for(remote), remote)).collect()
    }

    /// From where to send there: another family has addresses of its own.
    fn local_for(&self, remote: SocketAddr) -> SocketAddr {
        if remote.is_ipv4() == self.local.is_ipv4() { self.local } else { any(SocketAddr::new(remote.ip(), self.local.port())) }
    }

    /// The peer is where this message came from.
    fn moves(&mut self, cx: &mut Context, came: &Came) {
        if let Some(peer) = self.peer {
            let text = format!("{} has moved from {} to {}", cx.name(peer), self.remote, came.from);
            cx.event(peer, Level::Info, text);
        }
        (self.remote, self.local, self.candidate) = (came.from, came.to, None);
        self.redirect(cx);
    }

    /// All children go on to where the IKE SA is.
    fn redirect(&self, cx: &mut Context) {
        for child in self.children.values().filter(|child| matches!(child.step, Step::Activating | Step::Up | Step::Deleting)) {
            cx.outputs.push_back(Output::Redirect {
                child: child.id,
                peer: child.peer,
                inbound_spi: child.spi,
                local: self.local,
                remote: self.remote,
                nat: self.nat,
            });
        }
    }

    /// When the NAT in front of us is to be reminded of us.
    pub(crate) fn keepalive_at(&self) -> Option<u64> {
        let every = self.keepalive_ms.filter(|_| self.live() && self.nat.here)?;
        Some(self.kept_alive.saturating_add(every))
    }

    /// Reminds it, if it is time.
    pub(crate) fn keep_alive(&mut self, cx: &mut Context, now: u64) {
        if self.keepalive_at().is_some_and(|at| at <= now) {
            self.kept_alive = now;
            cx.outputs.push_back(Output::Keepalive { from: self.local, to: self.remote });
        }
    }
}

/// The kernel's choice of an address of the same family, and the same port.
fn any(address: SocketAddr) -> SocketAddr {
    let ip = if address.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    SocketAddr::new(ip, address.port())
}
