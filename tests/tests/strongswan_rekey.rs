//! Given Penstock and strongSwan under steady numbered traffic both ways, when one of them renews the keys of packets or of IKE
//! every two seconds, or both do at the same moment, also where messages of IKE are lost, or strongSwan authenticates anew before it
//! gives the old SA up, then not one packet is lost or comes twice, strongSwan derives the same new keys as Penstock, with a fresh key
//! exchange and without, and one pair is left within ten seconds.
//!
//! On a busy machine a program may wait for a processor until a queue in front of it overflows. That has nothing to do with keys: the
//! kernel counts it, and the stories subtract it and print it by the name of the queue.
//!
//! `PENSTOCK_REKEY_SECONDS=60` makes each run a minute long.

use std::time::{Duration, Instant};

use penstock_perf::lab::{Family, Offload};
use penstock_perf::load::{Direction, Udp, Verdict};
use penstock_tests::mixed::{Mixed, MixedOptions};
use penstock_tests::nat::nft;

/// Between two rekeys that a story asks for.
const EVERY: Duration = Duration::from_secs(2);
/// What strongSwan agrees to where a rekey comes with a key exchange of its own.
const PFS: &str = "aes256gcm16-curve25519";

fn seconds() -> u64 {
    std::env::var("PENSTOCK_REKEY_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(8)
}

/// What is counted before and after a run.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Successors of children that Penstock has put into use.
    children: usize,
    /// Renewals of the IKE SA that Penstock logged.
    ike: usize,
}

fn seen(mixed: &Mixed) -> Seen {
    let log = mixed.site[0].log();
    Seen { children: log.matches("child-rekeyed").count(), ike: log.matches("has new keys").count() }
}

/// Runs the load; `act` is done every two seconds meanwhile. Returns what was renewed, how often `act` was done, what became of the
/// packets, and how many of them a queue had no room for.
fn under_load(mixed: &Mixed, act: impl Fn(&Mixed)) -> (Seen, usize, Verdict, u64) {
    let [left, right] = mixed.inner(Family::V4);
    let load = |seconds: u64| Udp {
        flows: 2,
        rate: 1_000.0,
        sizes: vec![64, 1200],
        duration: Duration::from_secs(seconds),
        direction: Direction::Both,
        linger: Duration::from_secs(2),
        ..Udp::default()
    };
    load(1).run(&left, &right).expect("sockets");
    let (before, missed, length) = (seen(mixed), mixed.missed(), seconds());
    let (outcome, acted) = std::thread::scope(|scope| {
        let running = scope.spawn(|| load(length).run(&left, &right).expect("sockets"));
        let end = Instant::now() + Duration::from_secs(length);
        let mut acted = 0;
        while Instant::now() + EVERY < end {
            std::thread::sleep(EVERY);
            act(mixed);
            acted += 1;
        }
        (running.join().expect("the load"), acted)
    });
    let after = seen(mixed);
    let renewed = Seen { children: after.children - before.children, ike: after.ike - before.ike };
    let missed = mixed.missed().since(&missed);
    println!("{renewed:?} in {length} s, asked for {acted} times: {}; {missed}", outcome.total);
    assert!(outcome.total.received > 2_000 * length, "{}", outcome.total);
    (renewed, acted, outcome.total, missed.total())
}

/// The same; asserts that nothing is lost, but for what queues had no room for while a program waited for a processor.
fn loses_nothing(mixed: &Mixed, act: impl Fn(&Mixed)) -> (Seen, usize) {
    let (renewed, acted, total, missed) = under_load(mixed, act);
    let lost = total.lost.saturating_sub(missed);
    assert_eq!((lost, total.duplicate, total.corrupt), (0, 0, 0), "{renewed:?}: {total}\n{}", mixed.picture());
    mixed.counters().assert_no_drops(&[]);
    (renewed, acted)
}

/// Asks strongSwan for something; it is done when this returns.
fn strongswan(words: &'static [&'static str]) -> impl Fn(&Mixed) {
    move |mixed| drop(mixed.swan.swanctl(words).expect("charon renews"))
}

/// The group of the key exchange that strongSwan's newest child was made with, if it had one of its own.
fn group(mixed: &Mixed) -> Option<String> {
    let children = mixed.swan.children().expect("charon answers");
    let newest = children.iter().max_by_key(|child| child.number("uniqueid")).expect("a child");
    Some(newest.value("dh-group").to_owned()).filter(|group| !group.is_empty())
}

fn with(esp: &str, peer_toml: &str) -> MixedOptions {
    MixedOptions { esp: esp.into(), peer_toml: peer_toml.into(), ..MixedOptions::default() }
}

#[test]
fn strongswan_renews_the_child_without_and_with_a_key_exchange() {
    for (esp, expected) in [("aes256gcm16", None), (PFS, Some("CURVE_25519"))] {
        let mixed = Mixed::start(&with(esp, "")).expect("both come up");
        let (renewed, acted) = loses_nothing(&mixed, strongswan(&["--rekey", "--child", "net"]));
        assert!(acted >= 3 && renewed.children >= acted, "{renewed:?} of {acted}: {}", mixed.picture());
        assert_eq!(group(&mixed).as_deref(), expected, "{}", mixed.picture());
    }
}

#[test]
fn penstock_renews_the_child_without_and_with_a_key_exchange() {
    for (esp, toml, expected) in
        [("aes256gcm16", "rekey_child = \"2s\"", None), (PFS, "rekey_child = \"2s\"\npfs = true", Some("CURVE_25519"))]
    {
        let mixed = Mixed::start(&with(esp, toml)).expect("both come up");
        let (renewed, _) = loses_nothing(&mixed, |_| ());
        assert!(renewed.children >= 3, "{renewed:?}: {}", mixed.picture());
        assert_eq!(group(&mixed).as_deref(), expected, "{}", mixed.picture());
    }
}

#[test]
fn either_side_renews_the_ike_sa() {
    let mixed = Mixed::start(&with("aes256gcm16", "")).expect("both come up");
    let (renewed, acted) = loses_nothing(&mixed, strongswan(&["--rekey", "--ike", "frankfurt"]));
    assert!(acted >= 3 && renewed.ike >= acted, "{renewed:?} of {acted}: {}", mixed.picture());
    // What the last IKE SA derives for a child is right, too.
    let (renewed, acted) = loses_nothing(&mixed, strongswan(&["--rekey", "--child", "net"]));
    assert!(renewed.children >= acted, "{renewed:?} of {acted}: {}", mixed.picture());
    drop(mixed);

    let mixed = Mixed::start(&with("aes256gcm16", "rekey_ike = \"2s\"")).expect("both come up");
    let (renewed, _) = loses_nothing(&mixed, |_| ());
    assert!(renewed.ike >= 3, "{renewed:?}: {}", mixed.picture());
}

#[test]
fn strongswan_authenticates_anew_before_it_gives_the_old_sa_up() {
    let options = MixedOptions { charon: "make_before_break = yes".into(), ..MixedOptions::default() };
    let mixed = Mixed::start_from_strongswan(&options).expect("both come up");
    let id = |mixed: &Mixed| mixed.peer()["ike"].clone();
    let before = id(&mixed);
    // It takes its old SAs down at the answer to its DELETE: what Penstock sent on them has to be through by then.
    let (_, acted) = loses_nothing(&mixed, strongswan(&["--rekey", "--ike", "frankfurt", "--reauth"]));
    assert!(acted >= 3, "{}", mixed.picture());
    assert_ne!(id(&mixed), before, "another IKE SA: {}", mixed.picture());
}

#[test]
fn a_wire_that_merges_loses_nothing_either() {
    let mixed = Mixed::start(&with("aes256gcm16", "")).expect("both come up");
    mixed.wire.set_offload(Offload::Gro).expect("veth can do it");
    let (renewed, acted) = loses_nothing(&mixed, strongswan(&["--rekey", "--child", "net"]));
    assert!(acted >= 3 && renewed.children >= acted, "{renewed:?} of {acted}: {}", mixed.picture());
}

/// Pairs of SAs that Penstock does not give up.
fn lasting(mixed: &Mixed) -> usize {
    let peer = mixed.peer();
    let sas = peer["sas"].as_array().map(Vec::as_slice).unwrap_or_default();
    sas.iter().filter(|sa| sa["phase"] != "draining").count()
}

/// Asks both sides for new keys.
fn both(mixed: &Mixed) {
    std::thread::scope(|scope| {
        scope.spawn(|| drop(mixed.swan.swanctl(&["--rekey", "--child", "net"])));
        scope.spawn(|| drop(mixed.site[0].penstock(&["peer", "rekey", "london"])));
    });
}

fn comes_to_one_pair(mixed: &Mixed) {
    let until = Instant::now() + Duration::from_secs(10);
    while (mixed.swan.children().expect("charon answers").len(), lasting(mixed)) != (1, 1) {
        assert!(Instant::now() < until, "{}", mixed.picture());
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn both_at_once_come_to_one_pair() {
    let mixed = Mixed::start(&with("aes256gcm16", "")).expect("both come up");
    let (renewed, acted) = loses_nothing(&mixed, both);
    assert!(acted >= 3 && renewed.children >= acted, "{renewed:?} of {acted}: {}", mixed.picture());
    comes_to_one_pair(&mixed);
}

/// Takes every message of IKE from strongSwan for a while; packets go on.
fn deafen(mixed: &Mixed, meanwhile: impl FnOnce()) {
    let order = |orders: &str| nft(mixed.swan.namespace(), orders).expect("nft");
    // Four bytes of zero stand where ESP has its SPI (RFC 3948 section 2.2).
    order(
        "table inet deaf {\nchain wire {\ntype filter hook prerouting priority -300;\n\
         iifname \"wire0\" udp dport 4500 @th,64,32 0 counter drop\n}\n}\n",
    );
    meanwhile();
    order("delete table inet deaf\n");
}

/// strongSwan has asked for a successor and has no answer: it does not know that child yet, and says so when it is asked to rekey it
/// (that version; RFC 7296 section 2.25.1 has it say TEMPORARY_FAILURE).
#[test]
fn what_strongswan_has_not_heard_of_is_not_rekeyed() {
    let mixed = Mixed::start(&with("aes256gcm16", "")).expect("both come up");
    let (renewed, _) = loses_nothing(&mixed, |mixed| {
        std::thread::scope(|scope| {
            deafen(mixed, || {
                mixed.swan.swanctl(&["--rekey", "--child", "net"]).expect("charon asks");
                std::thread::sleep(Duration::from_millis(200));
                // It says how it went when that is known.
                scope.spawn(|| drop(mixed.site[0].penstock(&["peer", "rekey", "london"])));
                std::thread::sleep(Duration::from_millis(200));
            });
        });
    });
    assert!(renewed.children >= 2, "{renewed:?}: {}", mixed.picture());
    comes_to_one_pair(&mixed);
}
