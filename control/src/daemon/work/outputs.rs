//! What the state machine wants done: datagrams, installs, words for the log.

use std::net::SocketAddr;

use penstock_ike::{Level, Nat, Output, When};
use penstock_uapi::install::{self, Outbound};
use penstock_uapi::request::{Limits, Redirect, source};
use penstock_uapi::{Endpoint, Spi};
use tokio::time::Instant;
use zerocopy::little_endian::U32;

use super::super::install::{Finished, NewInbound, key};
use super::super::policies::peer_of;
use super::{Event, Home, LOG_PAUSE, PeerId, Status, Work, specified};
use crate::config::{Peer, SourcePort};
use crate::log;
use crate::socket::ike::IkeSocket;

/// How long the inbound SAs of an earlier control go on receiving once the peer has new ones. Nobody can tell the peer
/// to delete the old ones, because their IKE SA died with that control. A Penstock stops sending on them about three
/// seconds after it has the new ones; another peer when it has asked by the old IKE SA in vain, which may take minutes.
const INHERITED_DRAIN_MS: u32 = 180_000;

/// Why nothing is installed for an SPI of an engine that was relieved.
const RELIEVED: &str = "its engine was relieved meanwhile";

impl Work {
    /// The configuration of a peer.
    pub(super) fn peer(&self, id: PeerId) -> Option<&Peer> {
        self.config.peers.iter().zip(&self.ids).find(|(_, other)| **other == id).map(|(peer, _)| peer)
    }

    pub(super) fn name(&self, id: PeerId) -> String {
        self.peer(id).map(|peer| peer.name.clone()).unwrap_or_default()
    }

    /// Does everything that the state machine wants done now.
    pub(super) fn carry_out(&mut self) {
        while let Some(output) = self.ike.poll() {
            self.carry_out_one(output);
        }
    }

    fn carry_out_one(&mut self, output: Output) {
        match output {
            Output::Send { from, to, message } => {
                // A refused send is a lost message: it is sent again in time.
                let _ = self.socket(from, to).map(|socket| socket.send(&message, specified(from.ip()), to));
            }
            Output::Expect { child, peer, spi } => match Spi::new(spi) {
                Some(own) => match self.home(spi) {
                    Home::Engine(installer) => installer.expect(child, peer, own),
                    Home::Relieved => self.ike.install_failed(self.now(), child, RELIEVED),
                },
                None => self.ike.install_failed(self.now(), child, "a reserved SPI"),
            },
            Output::InstallInbound { child, peer, spi, keys, selectors } => {
                let window = self.peer(peer).map_or(0, |peer| peer.window);
                let Some(own) = Spi::new(spi) else { return self.ike.install_failed(self.now(), child, "a reserved SPI") };
                self.source.spis.insert(spi, peer);
                let inbound = NewInbound { peer, spi: own, key: key(&keys), window, selectors };
                let token = self.tokens.remove(&child);
                match self.home(spi) {
                    Home::Engine(installer) => installer.inbound(child, token, inbound),
                    Home::Relieved => self.ike.install_failed(self.now(), child, RELIEVED),
                }
            }
            Output::InstallOutbound { child, peer, spi, keys, when, local, remote, fallback, per_core, nat, inbound_spi } => {
                let shared_port = self.shares_port(peer, nat);
                let outbound = Outbound {
                    spi,
                    when: match when {
                        When::Now => install::When::Now,
                        When::OnInbound { or_after_ms } => install::When::OnInbound { or_after_ms },
                    },
                    shared_port,
                    fallback,
                    per_core,
                    dscp: None,
                    local: endpoint(local),
                    remote: remote.into(),
                    limits: Limits::default(),
                    key: key(&keys),
                };
                let token = self.tokens.remove(&child);
                match self.home(inbound_spi) {
                    Home::Engine(installer) => installer.outbound(child, token, outbound),
                    Home::Relieved => self.ike.install_failed(self.now(), child, RELIEVED),
                }
            }
            Output::Redirect { peer, inbound_spi, local, remote, nat, .. } => {
                let source = if self.shares_port(peer, nat) { source::SHARED } else { source::OWN };
                let (spi, local) = (U32::new(inbound_spi), endpoint(local));
                let redirect = Redirect { spi, source, reserved: [0; 3], local, remote: remote.into() };
                // A relieved engine sends nothing.
                if let Home::Engine(installer) = self.home(inbound_spi) {
                    installer.redirect(redirect);
                }
            }
            Output::Keepalive { from, to } => {
                // The next one comes in any case.
                let _ = self.socket(from, to).map(|socket| socket.send_keepalive(specified(from.ip()), to));
            }
            Output::Retire { child, inbound_spi, drain_ms, .. } => {
                self.source.release(inbound_spi);
                let token = self.tokens.remove(&child);
                // A relieved engine ends all it has.
                if let Home::Engine(installer) = self.home(inbound_spi) {
                    installer.retire(token, inbound_spi, drain_ms);
                }
            }
            Output::Up { peer, inbound_spi, selectors, fallback, replaces, .. } => {
                self.peer_up(peer);
                let list = |nets: &[ipnet::IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
                let (name, local, remote) = (self.name(peer), list(&selectors.local), list(&selectors.remote));
                let spi = format!("{inbound_spi:08x}");
                let what = if replaces.is_some() { "child-rekeyed" } else { "child-up" };
                log::info(what, &[("peer", &name), ("spi", &spi), ("fallback", &fallback), ("local", &local), ("remote", &remote)]);
            }
            Output::Quiet { peer } => self.listen_for(peer),
            Output::Down { peer, reason } => self.peer_down(peer, reason),
            Output::Event { peer, level, text } => {
                let level = if level == Level::Info { log::Level::Info } else { log::Level::Warning };
                let name = peer.map(|peer| self.name(peer)).unwrap_or_default();
                if let Some(status) = peer.and_then(|peer| self.statuses.get_mut(&peer)).filter(|_| level == log::Level::Warning) {
                    status.last_error = Some((Instant::now(), text.clone()));
                }
                log::line(level, "ike", &[("peer", &name), ("text", &text)]);
            }
        }
    }

    /// The socket of our port from which an address is reached.
    fn socket(&self, from: SocketAddr, to: SocketAddr) -> Option<&IkeSocket> {
        let [v4, v6] = if from.port() == penstock_ike::FIRST_PORT { &self.first_sockets } else { &self.sockets };
        if to.is_ipv4() { v4.as_deref() } else { v6.as_deref() }
    }

    /// Whether all cores send to a peer from the port of IKE: so it is configured, or a NAT in between knows no other.
    fn shares_port(&mut self, peer: PeerId, nat: Nat) -> bool {
        let asked = self.peer(peer).is_some_and(|peer| peer.source_port == SourcePort::Shared);
        let shared = asked || nat.here || nat.there;
        // Both sides send so then, and further SAs get one entrance.
        self.source.set_shared(peer, shared);
        shared
    }

    fn peer_up(&mut self, id: PeerId) {
        let name = self.name(id);
        if let Some(status) = self.statuses.get_mut(&id)
            && !status.up
        {
            *status = Status { since: Instant::now(), up: true, attempts: 0, reason: None, last_error: status.last_error.take() };
            log::info("peer-up", &[("peer", &name)]);
        }
        let old = self.inherited.remove(&id).unwrap_or_default();
        for spi in &old {
            self.installer.retire(None, *spi, INHERITED_DRAIN_MS);
        }
        if !old.is_empty() {
            log::info("adopted-retired", &[("peer", &name), ("sas", &old.len())]);
        }
    }

    fn peer_down(&mut self, id: PeerId, reason: String) {
        let level = if self.ending { log::Level::Info } else { log::Level::Warning };
        log::line(level, "peer-down", &[("peer", &self.name(id)), ("reason", &reason)]);
        if let Some(status) = self.statuses.get_mut(&id) {
            if status.up {
                status.since = Instant::now();
            }
            (status.up, status.attempts, status.reason) = (false, status.attempts + 1, Some(reason));
        }
        // Its name may lead elsewhere by now.
        self.look_up(id);
    }

    /// A step of an install came back.
    pub(super) fn step_finished(&mut self, finished: Finished) {
        let Finished { epoch, child, result } = finished;
        let now = self.now();
        if !self.knows_epoch(epoch) {
            return self.ike.install_failed(now, child, "it was replaced meanwhile");
        }
        match result {
            Ok(token) => {
                let told = match &token {
                    super::Token::Expected(_) => penstock_ike::Ike::expected,
                    super::Token::Inbound(_) => penstock_ike::Ike::installed,
                    super::Token::Pair(_) => penstock_ike::Ike::activated,
                };
                // One that was retired meanwhile has nothing left to come.
                if self.ike.has_child(child) {
                    self.tokens.insert(child, token);
                }
                told(&mut self.ike, now, child);
            }
            Err(reason) => {
                log::warning("install-failed", &[("reason", &reason)]);
                self.ike.install_failed(now, child, &reason);
            }
        }
    }

    /// Something that the engine said.
    pub(super) fn engine_event(&mut self, event: Event) {
        match event {
            // The engine knows the address that it came to; its port is the one that all share.
            Event::StrayIke { from, to, message } => self.receive_ike(from, SocketAddr::new(to.ip(), self.config.site.port), &message),
            Event::Acquire { policy, core, per_core: true } => {
                let now = self.now();
                // A refusal has its reason in the state of the peer, and the engine asks again while there is traffic.
                let _ = self.ike.create_child(now, peer_of(policy), core, &mut self.source);
            }
            Event::Acquire { policy, .. } => {
                let now = self.now();
                self.ike.acquire(now, peer_of(policy), &mut self.source);
            }
            Event::OutboundActive { .. } | Event::Lost => (),
            Event::SaLimit { spi, hard, outbound } => self.used_up(spi, hard, outbound),
            Event::UnknownSpi { spi, from } => self.unknown_spi(spi, from),
            Event::PeerMoved { spi, from } => {
                let (now, peer) = (self.now(), self.source.spis.get(&spi).map(|id| self.name(*id)).unwrap_or_default());
                log::info("peer-heard-elsewhere", &[("peer", &peer), ("from", &from)]);
                self.ike.peer_moved(now, spi, from);
            }
            Event::PathMtu { spi, refused } => {
                let peer = self.source.spis.get(&spi).map(|id| self.name(*id)).unwrap_or_default();
                log::warning("path-mtu", &[("peer", &peer), ("refused_bytes", &refused), ("try", &"a smaller mtu in [interface]")]);
            }
        }
    }

    /// A key nears its end, or has come to it: its pair is rekeyed. What is refused now is tried again by itself.
    fn used_up(&mut self, spi: u32, hard: bool, outbound: bool) {
        let Some(id) = self.source.spis.get(&spi).copied() else { return };
        log::info(
            "key-used-up",
            &[("peer", &self.name(id)), ("spi", &format_args!("{spi:08x}")), ("hard", &hard), ("outbound", &outbound)],
        );
        let now = self.now();
        if let Err(why) = self.ike.rekey_child(now, spi, &mut self.source) {
            log::info("not-rekeyed-now", &[("spi", &format_args!("{spi:08x}")), ("reason", &why)]);
        }
    }

    /// Nothing about such a packet is authenticated: it is counted, and told at most now and then.
    fn unknown_spi(&mut self, spi: u32, from: std::net::SocketAddr) {
        self.unknown_spis = self.unknown_spis.saturating_add(1);
        if self.unknown_logged.is_none_or(|at| at.elapsed() > LOG_PAUSE) {
            self.unknown_logged = Some(Instant::now());
            log::info("unknown-spi", &[("spi", &format_args!("{spi:08x}")), ("from", &from), ("events", &self.unknown_spis)]);
        }
    }
}

/// An address of ours for the engine, which takes none for the kernel's choice.
fn endpoint(local: SocketAddr) -> Endpoint {
    if local.ip().is_unspecified() { Endpoint::NONE } else { local.into() }
}
