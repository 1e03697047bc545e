//! Many sites call one at once from behind one address, as a NAT makes it. All come up, though far more are under way than one
//! sender may have half open.

mod lab;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use lab::{Chance, KEY, Source, peer_config};
use penstock_ike::{Config, Ike, Output, PeerConfig, PeerId, PeerState, Psk};

const HUB: usize = usize::MAX;

/// The hub, its callers, and the datagrams between them by time and number.
struct Crowd {
    now: u64,
    hub: (Ike, Source),
    callers: Vec<(Ike, Source)>,
    flights: BTreeMap<(u64, u64), (usize, usize, Vec<u8>)>,
    sent: u64,
    half_open_most: usize,
    up: usize,
}

fn hub_address() -> SocketAddr {
    "198.51.100.2:4500".parse().expect("an address")
}

/// One address for all, and a port for each.
fn outside(who: usize) -> SocketAddr {
    SocketAddr::new("192.0.2.1".parse().expect("an address"), 10_000 + who as u16)
}

/// What both ends know of a caller.
fn named(who: usize, hub: bool) -> PeerConfig {
    let (name, net) = (format!("site-{who}"), format!("10.{}.{}.0/24", who >> 8, who & 255));
    let (us, them) = if hub { ("hub", name.as_str()) } else { (name.as_str(), "hub") };
    let (ours, theirs) = if hub { ("172.16.0.0/16", net.as_str()) } else { (net.as_str(), "172.16.0.0/16") };
    let config = peer_config(&name, us, them, ours, theirs, hub_address());
    let id = PeerId(who as u32);
    PeerConfig { id, psk: Psk::new(KEY.to_vec()), endpoint: config.endpoint.filter(|_| !hub), ml_kem: true, ..config }
}

impl Crowd {
    fn new(count: usize) -> Self {
        let site = |salt: u64| {
            let mut source = Source { chance: Chance::new(salt), next_spi: 0x1000, dry: false };
            (Ike::new(Config::default(), 0, &mut source), source)
        };
        let mut hub = site(1);
        let mut callers: Vec<_> = (0..count).map(|who| site(2 + who as u64)).collect();
        for (who, caller) in callers.iter_mut().enumerate() {
            hub.0.set_peer(0, named(who, true));
            caller.0.set_peer(0, named(who, false));
            caller.0.initiate(0, PeerId(who as u32), true, &mut caller.1);
        }
        let mut crowd = Self { now: 0, hub, callers, flights: BTreeMap::new(), sent: 0, half_open_most: 0, up: 0 };
        (0..count).for_each(|who| crowd.drain(who));
        crowd
    }

    /// Does what a site asks; its engine does each step at once.
    fn drain(&mut self, who: usize) {
        let (now, hub) = (self.now, who == HUB);
        let (ike, _) = if hub { &mut self.hub } else { &mut self.callers[who] };
        while let Some(output) = ike.poll() {
            match output {
                Output::Send { to, message, .. } => {
                    let to = if hub { usize::from(to.port() - 10_000) } else { HUB };
                    self.sent += 1;
                    self.flights.insert((now + 50, self.sent), (who, to, message));
                }
                Output::Expect { child, .. } => ike.expected(now, child),
                Output::InstallInbound { child, .. } => ike.installed(now, child),
                Output::InstallOutbound { child, .. } => ike.activated(now, child),
                Output::Up { .. } if !hub => self.up += 1,
                _ => {}
            }
        }
        self.half_open_most = self.half_open_most.max(self.hub.0.half_open());
    }

    /// Delivers what is due at the next moment and lets the callers look at the clock.
    fn step(&mut self) {
        let timers = self.callers.iter().filter_map(|(ike, _)| ike.next_deadline()).min();
        let flight = self.flights.keys().next().map(|(at, _)| *at);
        self.now = timers.into_iter().chain(flight).min().expect("something is due").max(self.now);
        while let Some(entry) = self.flights.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (from, to, message) = entry.remove();
            if to == HUB {
                self.hub.0.receive(self.now, outside(from), hub_address(), &message, &mut self.hub.1);
            } else {
                let (ike, source) = &mut self.callers[to];
                ike.receive(self.now, hub_address(), outside(to), &message, source);
            }
            self.drain(to);
        }
        for who in 0..self.callers.len() {
            let (ike, source) = &mut self.callers[who];
            if ike.next_deadline().is_some_and(|at| at <= self.now) {
                ike.tick(self.now, source);
                self.drain(who);
            }
        }
        self.hub.0.tick(self.now, &mut self.hub.1);
        self.drain(HUB);
    }
}

#[test]
fn sites_behind_one_address_all_come_up() {
    let count = 1_300;
    let mut crowd = Crowd::new(count);
    while crowd.up < count {
        crowd.step();
        assert!(crowd.now < 10_000, "{} of {count} are up", crowd.up);
    }
    println!("{count} sites behind one address are up after {} ms, at most {} half open", crowd.now, crowd.half_open_most);
    assert_eq!(crowd.half_open_most, 1_024, "more wanted in at once than one sender may have");
    assert!(crowd.hub.0.snapshot(crowd.now).iter().all(|peer| peer.state == PeerState::Up));
    assert_eq!(crowd.hub.0.half_open(), 0);
}
