//! Given many peers between two sites, some of them carrying numbered datagrams, when the configuration is applied again and again
//! and each time one other peer comes, changes or goes, then no datagram of the others is lost and none of their keys changes.
//!
//! CI applies 40 times among 60 peers. The long form: `PENSTOCK_RELOADS=1000 PENSTOCK_PEERS=1000 cargo test -p penstock-tests --test reload -- --nocapture`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use penstock_perf::lab::{Host, Namespace, Site, SiteOptions, Wire, WireOptions, new_psk};
use penstock_perf::load::{Direction, Udp, Verdict};
use penstock_tests::counters::Counters;

/// Peers that carry datagrams.
const BUSY: usize = 4;

/// A number from the environment.
fn wanted(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().expect("a number"))
}

/// The inner network of a side towards one peer.
fn network(side: usize, peer: usize) -> String {
    format!("10.{}.{}.", [64, 128][side] + peer / 256, peer % 256)
}

/// The outer address of a side towards one peer: real peers do not share one, and one that all shared would be held back as a crowd.
fn outer(side: usize, peer: usize) -> String {
    format!("10.{}.{}.{}", side + 1, peer / 250, peer % 250 + 1)
}

/// The section of one peer, with more lines.
fn section(side: usize, peer: usize, more: &str) -> String {
    let other = 1 - side;
    format!(
        "[peer.p{peer:04}]\nendpoint = \"{}\"\nlocal_address = \"{}\"\nlocal_id = \"s{side}-{peer}\"\nremote_id = \"s{other}-{peer}\"\nper_core = false\n\
         local_subnets = [\"{}0/24\"]\nsubnets = [\"{}0/24\"]\npsk_file = \"one.psk\"\n{more}",
        outer(other, peer),
        outer(side, peer),
        network(side, peer),
        network(other, peer),
    )
}

fn config(side: usize, sections: &[String]) -> String {
    format!("[site]\nname = \"s{side}\"\ncores = 2\n[interface.pen0]\naddress = [\"192.168.192.{}/30\"]\n{}", side + 1, sections.concat())
}

/// The SPIs at a site by peer, of those that are up.
fn spis(site: &Site) -> BTreeMap<String, Vec<String>> {
    let state = site.show_json().expect("the daemon answers");
    let peers = state["peers"].as_array().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let of = |peer: &serde_json::Value| {
        let sas = peer["sas"].as_array().cloned().unwrap_or_default();
        sas.iter().filter(|sa| sa["phase"] == "active").map(|sa| text(&sa["inbound_spi"])).collect()
    };
    peers.iter().map(|peer| (text(&peer["name"]), of(peer))).collect()
}

/// The same, once nothing moves any more: both sides began at once, and of two IKE SAs of a peer one closes.
fn settled(site: &Site) -> BTreeMap<String, Vec<String>> {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let first = spis(site);
        std::thread::sleep(Duration::from_secs(3));
        if first == spis(site) && first.values().all(|spis| spis.len() == 1) {
            return first;
        }
        assert!(Instant::now() < until, "the SAs do not settle: {first:?}");
    }
}

/// Datagrams both ways with the busy peers until it is enough.
fn load(namespaces: &[Namespace; 2], enough: &AtomicBool) -> Verdict {
    let host = |side: usize, peer: usize| Host {
        namespace: namespaces[side].clone(),
        address: format!("{}1", network(side, peer)).parse().expect("an address"),
    };
    let one = |peer: usize| {
        let mut total = Verdict::default();
        let udp = Udp { rate: 300.0, direction: Direction::Both, linger: Duration::from_secs(2), ..Udp::default() };
        while !enough.load(Ordering::Relaxed) {
            total.add(&udp.run(&host(0, peer), &host(1, peer)).expect("sockets").total);
        }
        total
    };
    let mut total = Verdict::default();
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..BUSY).map(|peer| scope.spawn(move || one(peer))).collect();
        running.into_iter().for_each(|one| total.add(&one.join().expect("the load")));
    });
    total
}

#[test]
fn a_thousand_reloads_cost_those_that_they_are_not_about_nothing() {
    let (peers, reloads) = (wanted("PENSTOCK_PEERS", 60), wanted("PENSTOCK_RELOADS", 40));
    let namespaces = [Namespace::new("one").expect("a namespace"), Namespace::new("two").expect("a namespace")];
    let _wire = Wire::new(&namespaces[0], &namespaces[1], &WireOptions::default()).expect("a wire");
    let secrets = vec![("one.psk".to_owned(), new_psk().expect("a key"))];
    let sections = [0, 1].map(|side| (0..peers).map(|peer| section(side, peer, "")).collect::<Vec<_>>());
    let mut sites = [0, 1].map(|side| {
        let here = side + 1;
        namespaces[side].ip(&format!("route add local 10.{here}.0.0/16 dev lo")).expect("ip");
        namespaces[side].ip(&format!("route add 10.{}.0.0/16 via 10.0.0.{}", 3 - here, 3 - here)).expect("ip");
        for peer in 0..BUSY {
            namespaces[side].ip(&format!("addr add {}1/32 dev lo", network(side, peer))).expect("ip");
        }
        let options = SiteOptions { config: config(side, &sections[side]), secrets: secrets.clone(), ..SiteOptions::default() };
        Site::new(["one", "two"][side], &namespaces[side], options).expect("a site")
    });
    let started = Instant::now();
    sites.iter_mut().for_each(|site| site.start().expect("it starts"));
    sites.iter_mut().for_each(|site| drop(site.wait_up(Duration::from_secs(120)).expect("all peers come up")));
    println!("{peers} peers up after {:.1?}", started.elapsed());

    let (before, counted) = (settled(&sites[0]), Counters::of_sites(&sites));
    let enough = AtomicBool::new(false);
    let mut took = Vec::new();
    let total = std::thread::scope(|scope| {
        let running = scope.spawn(|| load(&namespaces, &enough));
        for reload in 0..reloads {
            // The touched one, another each time, changes at each cost, goes, and comes back with the next reload.
            let touched = BUSY + reload / 5 % (peers - BUSY);
            let mut now = sections[0].clone();
            match reload % 5 {
                0 => now[touched].push_str("dpd = \"20s\"\n"),
                1 => now[touched].push_str("dpd = \"20s\"\nwindow = 2048\n"),
                2 => now[touched].push_str("ml_kem = false\n"),
                3 => drop(now.remove(touched)),
                _ => (),
            }
            sites[0].write_config(&config(0, &now)).expect("our own file");
            let start = Instant::now();
            let output = sites[0].penstock(&["apply"]).expect("the command");
            took.push(start.elapsed());
            assert!(output.status.success(), "{output:?}\n{}", sites[0].log());
            let text = String::from_utf8_lossy(&output.stdout);
            assert_eq!(text.lines().filter(|line| line.starts_with(['+', '-', '~'])).count(), 1, "{text}");
        }
        enough.store(true, Ordering::Relaxed);
        running.join().expect("the load")
    });
    took.sort_unstable();
    println!("{reloads} reloads: median {:.1?}, longest {:.1?}; {total}", took[took.len() / 2], took[took.len() - 1]);
    assert_eq!((total.lost, total.duplicate), (0, 0), "{total}\n{}", Counters::picture_of(&sites));
    let after = spis(&sites[0]);
    let untouched = |name: &str| name[1..].parse::<usize>().is_ok_and(|peer| peer < BUSY || peer >= BUSY + reloads.div_ceil(5));
    let kept =
        before.iter().filter(|(name, _)| untouched(name)).inspect(|(name, spis)| assert_eq!(after.get(*name), Some(*spis), "{name}"));
    println!("{} peers were never touched and have the keys that they had", kept.count());
    assert_eq!(after.len(), peers);
    let touched = before.iter().filter(|(name, _)| !untouched(name));
    touched.for_each(|(name, spis)| assert_ne!(after.get(name), Some(spis), "{name} was touched"));
    println!("dropped for want of an SA: {}", Counters::of_sites(&sites).since(&counted).drop("no_sa"));
}
