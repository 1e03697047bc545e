//! The difference between two configurations, section by section, and what it costs.
//!
//! Each comparison takes its section apart by name, so that a key that is new to the configuration does not compile until it has
//! found its place here.

use std::net::IpAddr;

use ipnet::IpNet;

use super::site;
use crate::admin::{Change, Cost, Kind};
use crate::config::{Config, Interface, Peer, Site};

/// A configuration and what of this machine it is seen with.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) config: &'a Config,
    /// The addresses of this machine.
    pub(super) here: &'a [IpNet],
}

/// A key, whether its values differ, and what that costs.
type Key = (&'static str, bool, Cost);

/// What differs, in the order site, interface, peers by name.
pub(super) fn between(running: View<'_>, wanted: View<'_>) -> Vec<Change> {
    let mut changes = Vec::new();
    changes.extend(changed("site".into(), &site_keys(&running.config.site, &wanted.config.site)));
    let (old, new) = (&running.config.interface, &wanted.config.interface);
    changes.extend(changed(format!("interface.{}", new.name), &interface_keys(old, new)));
    changes.extend(peers(running, wanted));
    changes
}

/// Both lists are sorted by name.
fn peers(running: View<'_>, wanted: View<'_>) -> Vec<Change> {
    let mut changes = Vec::new();
    let (mut old, mut new) = (running.config.peers.iter().peekable(), wanted.config.peers.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return changes,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(old), Some(new)) => old.name.cmp(&new.name),
        };
        let whole = |peer: Option<&Peer>, kind: Kind| {
            peer.map(|peer| Change { section: format!("peer.{}", peer.name), kind, keys: Vec::new(), cost: Cost::Tunnel })
        };
        match order {
            std::cmp::Ordering::Less => changes.extend(whole(old.next(), Kind::Removed)),
            std::cmp::Ordering::Greater => changes.extend(whole(new.next(), Kind::Added)),
            std::cmp::Ordering::Equal => {
                let both = old.next().zip(new.next());
                changes
                    .extend(both.and_then(|(old, new)| changed(format!("peer.{}", new.name), &peer_keys((old, running), (new, wanted)))));
            }
        }
    }
}

fn changed(section: String, keys: &[Key]) -> Option<Change> {
    let differing: Vec<&Key> = keys.iter().filter(|(_, differs, _)| *differs).collect();
    let cost = differing.iter().map(|(.., cost)| *cost).max()?;
    Some(Change { section, kind: Kind::Changed, keys: differing.iter().map(|(key, ..)| (*key).to_owned()).collect(), cost })
}

fn site_keys(old: &Site, new: &Site) -> Vec<Key> {
    let Site {
        name,
        port,
        ike_port,
        listen,
        cores,
        cpus,
        poll_us,
        persist,
        mark,
        table,
        port_place: _,
        ike_port_place: _,
        listen_place: _,
        cores_place: _,
    } = new;
    vec![
        // As our identity it is a key of each peer that has no `local_id`.
        ("name", *name != old.name, Cost::Nothing),
        ("port", *port != old.port, Cost::Restart),
        ("ike_port", *ike_port != old.ike_port, Cost::Restart),
        ("listen", *listen != old.listen, Cost::Restart),
        ("cores", *cores != old.cores, Cost::Restart),
        ("cpus", *cpus != old.cpus, Cost::Restart),
        ("poll_us", *poll_us != old.poll_us, Cost::Restart),
        ("persist", *persist != old.persist, Cost::Nothing),
        ("mark", *mark != old.mark, Cost::Restart),
        ("table", *table != old.table, Cost::Restart),
    ]
}

fn interface_keys(old: &Interface, new: &Interface) -> Vec<Key> {
    let Interface { name, address, mtu, place: _ } = new;
    vec![
        ("name", *name != old.name, Cost::Restart),
        ("address", *address != old.address, Cost::Nothing),
        ("mtu", *mtu != old.mtu, Cost::Restart),
    ]
}

fn peer_keys((old, running): (&Peer, View<'_>), (new, wanted): (&Peer, View<'_>)) -> Vec<Key> {
    let Peer {
        name: _,
        endpoint,
        start,
        local_address,
        local_subnets,
        subnets,
        psk,
        psk_weak: _,
        local_id,
        remote_id,
        suites,
        ike_suites,
        ml_kem,
        source_port,
        per_core,
        window,
        rekey_child,
        rekey_ike,
        pfs,
        nat_keepalive,
        dpd,
        dpd_action,
        place: _,
        endpoint_place: _,
        local_address_place: _,
    } = new;
    // The addresses of interface and machine take part in what is offered and where our own packets come from.
    let offered = |peer: &Peer, view: View<'_>| site::offered(view.config, peer, view.here);
    let sources =
        |peer: &Peer, view: View<'_>| [true, false].map(|v4| site::source(view.config, peer, view.here, v4)) as [Option<IpAddr>; 2];
    let same_subnets = *local_subnets == old.local_subnets && *subnets == old.subnets;
    vec![
        ("endpoint", *endpoint != old.endpoint, Cost::Tunnel),
        ("start", *start != old.start, Cost::Nothing),
        ("local_address", *local_address != old.local_address, Cost::Tunnel),
        ("local_subnets", *local_subnets != old.local_subnets, Cost::Tunnel),
        ("subnets", *subnets != old.subnets, Cost::Tunnel),
        ("psk_file", *psk != old.psk, Cost::Tunnel),
        ("local_id", *local_id != old.local_id, Cost::Tunnel),
        ("remote_id", *remote_id != old.remote_id, Cost::Tunnel),
        ("suites", *suites != old.suites, Cost::Tunnel),
        ("ike_suites", *ike_suites != old.ike_suites, Cost::Tunnel),
        ("ml_kem", *ml_kem != old.ml_kem, Cost::Tunnel),
        ("source_port", *source_port != old.source_port, Cost::Rekey),
        ("per_core", *per_core != old.per_core, Cost::Tunnel),
        ("window", *window != old.window, Cost::Rekey),
        ("rekey_child", *rekey_child != old.rekey_child, Cost::Nothing),
        ("rekey_ike", *rekey_ike != old.rekey_ike, Cost::Nothing),
        ("pfs", *pfs != old.pfs, Cost::Nothing),
        ("nat_keepalive", *nat_keepalive != old.nat_keepalive, Cost::Nothing),
        ("dpd", *dpd != old.dpd, Cost::Nothing),
        ("dpd_action", *dpd_action != old.dpd_action, Cost::Nothing),
        ("offered own address", same_subnets && offered(new, wanted) != offered(old, running), Cost::Tunnel),
        ("source address", same_subnets && sources(new, wanted) != sources(old, running), Cost::Nothing),
    ]
}

/// The wanted configuration with what cannot change while the daemon runs as it is.
pub(super) fn effective(running: &Config, wanted: Config) -> Config {
    let Config { site, interface, peers, warnings, notes } = wanted;
    let site = Site {
        port: running.site.port,
        listen: running.site.listen.clone(),
        cores: running.site.cores,
        cpus: running.site.cpus.clone(),
        poll_us: running.site.poll_us,
        mark: running.site.mark,
        table: running.site.table,
        ..site
    };
    let interface = Interface { name: running.interface.name.clone(), mtu: running.interface.mtu, ..interface };
    Config { site, interface, peers, warnings, notes }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;

    use super::{View, between, effective, interface_keys, peer_keys, site_keys};
    use crate::admin::{Change, Cost, Kind};
    use crate::config::Config;

    const SITE: &str = "[site]\nname = \"a\"\n[interface.pen0]\naddress = [\"192.168.192.1/30\"]\n";

    fn peer(name: &str, number: u8) -> String {
        format!(
            "[peer.{name}]\nendpoint = \"203.0.113.7\"\nremote_id = \"{name}\"\nlocal_subnets = [\"10.43.43.0/24\"]\n\
             subnets = [\"10.1.{number}.0/24\"]\npsk_file = \"one.psk\"\n"
        )
    }

    /// The configuration of these lines, beside two key files.
    fn config(test: &str, text: &str) -> Config {
        let folder = std::env::temp_dir().join(format!("penstock-changes-{}-{test}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a folder");
        for (name, digit) in [("one.psk", "01"), ("two.psk", "23")] {
            let mut key = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.join(name)).expect("a file");
            let secret = format!("0x{digit}112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef");
            std::io::Write::write_all(&mut key, secret.as_bytes()).expect("written");
        }
        let path = folder.join("penstock.toml");
        std::fs::write(&path, text).expect("written");
        let config = Config::load(&path).expect("a configuration");
        std::fs::remove_dir_all(&folder).expect("removed");
        config
    }

    fn differences(test: &str, old: &str, new: &str) -> Vec<Change> {
        let (old, new) = (config(test, old), config(test, new));
        between(View { config: &old, here: &[] }, View { config: &new, here: &[] })
    }

    #[test]
    fn peers_come_change_and_go() {
        let all = |names: &[(&str, u8)]| SITE.to_owned() + &names.iter().map(|(name, number)| peer(name, *number)).collect::<String>();
        let changes = differences("peers", &all(&[("b", 1), ("d", 2), ("e", 3)]), &all(&[("a", 4), ("b", 1), ("d", 5), ("f", 6)]));
        let told: Vec<_> = changes.iter().map(|change| (change.section.as_str(), change.kind, change.keys.join(" "))).collect();
        assert_eq!(
            told,
            [
                ("peer.a", Kind::Added, String::new()),
                ("peer.d", Kind::Changed, "subnets".into()),
                ("peer.e", Kind::Removed, String::new()),
                ("peer.f", Kind::Added, String::new()),
            ]
        );
        // Comments, order and lines are no change.
        let moved = format!("# a note\n\n{SITE}{}{}", peer("d", 2), peer("b", 1));
        assert_eq!(differences("same", &all(&[("b", 1), ("d", 2)]), &moved), []);
    }

    #[test]
    fn each_key_has_its_cost() {
        let old = format!("{SITE}{}", peer("b", 1));
        for (line, cost) in [
            ("rekey_child = \"5m\"\ndpd = \"10s\"", Cost::Nothing),
            ("window = 2048\npfs = true", Cost::Rekey),
            ("source_port = 4500", Cost::Rekey),
            ("ml_kem = false\nwindow = 2048", Cost::Tunnel),
            ("per_core = false", Cost::Tunnel),
        ] {
            let changes = differences("keys", &old, &format!("{old}{line}\n"));
            assert_eq!((changes.len(), changes[0].cost, changes[0].keys.len()), (1, cost, line.lines().count()), "{line}");
        }
        let other_key = differences("psk", &old, &old.replace("one.psk", "two.psk"));
        assert_eq!((other_key[0].keys.join(" "), other_key[0].cost), ("psk_file".into(), Cost::Tunnel));
    }

    #[test]
    fn the_name_of_the_site_is_the_identity_of_peers_without_one() {
        let old = format!("{SITE}{}{}local_id = \"x\"\n", peer("b", 1), peer("c", 2));
        let changes = differences("name", &old, &old.replace("name = \"a\"", "name = \"z\""));
        let told: Vec<_> = changes.iter().map(|change| (change.section.as_str(), change.cost)).collect();
        assert_eq!(told, [("site", Cost::Nothing), ("peer.b", Cost::Tunnel)]);
    }

    #[test]
    fn an_address_that_is_offered_is_a_change_of_the_peers_that_it_is_offered_to() {
        // The first peer's own subnet has an address of the machine, the second one is offered the interface's.
        let old = format!("{SITE}{}{}", peer("b", 1), peer("c", 2).replace("10.43.43", "10.44.44"));
        let (old, new) = (config("offer", &old), config("offer", &old.replace("192.168.192.1/30", "192.168.192.5/30")));
        let here = ["10.43.43.1/24".parse().expect("a prefix")];
        let changes = between(View { config: &old, here: &here }, View { config: &new, here: &here });
        let told: Vec<_> = changes.iter().map(|change| (change.section.as_str(), change.cost)).collect();
        assert_eq!(told, [("interface.pen0", Cost::Nothing), ("peer.c", Cost::Tunnel)]);
    }

    #[test]
    fn what_waits_for_a_restart_stays_as_it_runs_and_is_told_again() {
        let text = format!("{SITE}{}", peer("b", 1));
        let new = text.replace("name = \"a\"", "name = \"a\"\nport = 4600\npersist = true").replace("[interface.pen0]", "[interface.pen1]");
        let (old, new) = (config("old", &text), config("new", &new));
        let running = effective(&old, new.clone());
        assert_eq!((running.site.port, running.site.persist, running.interface.name.as_str()), (4500, true, "pen0"));
        let changes = between(View { config: &running, here: &[] }, View { config: &new, here: &[] });
        let told: Vec<_> = changes.iter().map(|change| (change.keys.join(" "), change.cost)).collect();
        assert_eq!(told, [("port".into(), Cost::Restart), ("name".into(), Cost::Restart)]);
    }

    /// The lists in the page on the configuration say of each key what it costs.
    #[test]
    fn the_page_says_what_each_key_costs() {
        let config = config("page", &format!("{SITE}{}", peer("b", 1)));
        let (view, peer) = (View { config: &config, here: &[] }, &config.peers[0]);
        let keys = peer_keys((peer, view), (peer, view)).into_iter().map(|(key, _, cost)| (key, cost));
        let page = include_str!("../../../docs/configuration.md");
        let items: Vec<&str> = page.split("\n- **").skip(1).map(|item| item.split("\n\n").next().unwrap_or_default()).collect();
        for (key, cost) in keys.filter(|(key, _)| !key.contains(' ')) {
            let told: Vec<&str> = items.iter().filter(|item| item.contains(&format!("`{key}`"))).copied().collect();
            let name = format!("{cost:?}").to_lowercase();
            assert!(told.len() == 1 && told[0].starts_with(&format!("{name}**")), "{key} costs {name}: {told:?}");
        }
        let (site, interface) = (&config.site, &config.interface);
        let at_restart =
            site_keys(site, site).into_iter().chain(interface_keys(interface, interface)).filter(|(.., cost)| *cost == Cost::Restart);
        for (key, ..) in at_restart.filter(|(key, ..)| *key != "name") {
            assert!(items.iter().any(|item| item.starts_with("restart**") && item.contains(&format!("`{key}`"))), "{key}");
        }
    }
}
