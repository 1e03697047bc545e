//! Given sites at work, when the configuration files change and are applied, then what differs comes into force and nothing else is
//! touched: the other peers lose no packet and keep their keys. Mistakes and refusals change nothing, and what is not confirmed is
//! rolled back.

use std::collections::BTreeSet;
use std::process::Output;
use std::thread::sleep;
use std::time::{Duration, Instant};

use penstock_perf::lab::{Family, Host, Pair, PairOptions, Site};
use penstock_perf::load::{Direction, Udp, UdpOutcome};
use penstock_tests::counters::Counters;
use serde_json::Value;

/// A second peer of frankfurt's: another network of the same far machine, with identities of its own.
const ROME: &str = "[peer.rome]\nendpoint = \"10.0.0.2\"\nlocal_id = \"florence\"\nremote_id = \"rome\"\n\
                    local_subnets = [\"10.44.43.0/24\"]\nsubnets = [\"10.44.100.0/24\"]\npsk_file = \"london.psk\"\n";
/// What london calls it.
const FLORENCE: &str = "[peer.florence]\nendpoint = \"10.0.0.1\"\nlocal_id = \"rome\"\nremote_id = \"florence\"\n\
                        local_subnets = [\"10.44.100.0/24\"]\nsubnets = [\"10.44.43.0/24\"]\npsk_file = \"frankfurt.psk\"\n";

/// Two sites at work; london has the second peer from the start. Gives frankfurt's file, too.
fn pair() -> (Pair, String) {
    let options = PairOptions { cores: [2, 2], more_toml: [String::new(), FLORENCE.into()], ..PairOptions::default() };
    let mut pair = Pair::new(&options).expect("both sites");
    for (site, address) in pair.sites.iter().zip(["10.44.43.1/32", "10.44.100.1/32"]) {
        site.namespace().ip(&format!("addr add {address} dev lo")).expect("ip");
    }
    pair.sites.iter_mut().for_each(|site| site.start().expect("it starts"));
    let start = Duration::from_secs(10);
    pair.sites[0].wait_up(start).expect("it comes up");
    pair.sites[1].wait_peers_up(1, start).expect("it comes up");
    let config = std::fs::read_to_string(pair.sites[0].config_path()).expect("our own file");
    // The SAs of all cores, made on their first traffic, are there before anything is measured.
    load(&pair, 1);
    pair.sites.iter().for_each(settle);
    (pair, config)
}

/// Waits until the SAs with london or frankfurt stay the same: where both sides began at once one of two pairs goes after seconds.
fn settle(site: &Site) {
    let seen = || ["london", "frankfurt"].map(|peer| spis(site, peer));
    let until = Instant::now() + Duration::from_secs(30);
    let (mut last, mut since) = (seen(), Instant::now());
    while since.elapsed() < Duration::from_secs(3) {
        assert!(Instant::now() < until, "the SAs do not settle\n{}", site.log());
        sleep(Duration::from_millis(100));
        let now = seen();
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
}

/// Numbered datagrams both ways with the peer that is never touched.
fn load(pair: &Pair, seconds: u64) -> UdpOutcome {
    let [left, right] = [0, 1].map(|side| pair.inner(side, Family::V4));
    let udp = Udp { flows: 4, rate: 1000.0, duration: Duration::from_secs(seconds), direction: Direction::Both, ..Udp::default() };
    udp.run(&left, &right).expect("sockets")
}

/// Writes frankfurt's file and applies it; gives the plan.
fn apply(site: &Site, config: &str, words: &[&str]) -> Value {
    site.write_config(config).expect("our own file");
    let output = site.penstock(&[&["apply", "--json"], words].concat()).expect("the command");
    assert!(output.status.success(), "{output:?}\n{}", site.log());
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    answer["plan"].clone()
}

/// The changes of a plan: `peer.rome changed pfs window: rekey`.
fn changes(plan: &Value) -> Vec<String> {
    let list = |value: &Value| value.as_array().map(|keys| keys.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "));
    let text = |change: &Value, key: &str| change[key].as_str().unwrap_or_default().to_owned();
    let all = plan["changes"].as_array().expect("a list");
    let told = |change: &Value| {
        let keys = list(&change["keys"]).map(|keys| format!(" {keys}")).unwrap_or_default();
        format!("{} {}{keys}: {}", text(change, "section"), text(change, "kind"), text(change, "cost"))
    };
    all.iter().map(told).collect()
}

/// The SPIs in use with a peer at frankfurt; none if there is no such peer.
fn spis(site: &Site, peer: &str) -> BTreeSet<String> {
    let state = site.show_json().expect("the daemon answers");
    let peers = state["peers"].as_array().expect("a list");
    let sas = peers.iter().find(|shown| shown["name"] == peer).and_then(|peer| peer["sas"].as_array().cloned()).unwrap_or_default();
    sas.iter().filter(|sa| sa["phase"] == "active").filter_map(|sa| sa["inbound_spi"].as_str().map(str::to_owned)).collect()
}

fn names(site: &Site) -> Vec<String> {
    let state = site.show_json().expect("the daemon answers");
    state["peers"].as_array().expect("a list").iter().filter_map(|peer| peer["name"].as_str().map(str::to_owned)).collect()
}

fn routes(site: &Site) -> String {
    site.namespace().ip("route show table all dev pen0").expect("ip")
}

/// Waits until the second peer carries packets.
fn rome_answers(pair: &Pair) {
    let [left, right] = ["10.44.43.1", "10.44.100.1"];
    let host = |side: usize, ip: &str| Host { namespace: pair.sites[side].namespace().clone(), address: ip.parse().expect("an address") };
    let until = Instant::now() + Duration::from_secs(5);
    let udp = Udp { count: 20, rate: 500.0, direction: Direction::Both, linger: Duration::from_millis(200), ..Udp::default() };
    while !udp.run(&host(0, left), &host(1, right)).is_ok_and(|outcome| outcome.total.is_perfect()) {
        assert!(Instant::now() < until, "rome does not answer\n{}", pair.sites[0].log());
        sleep(Duration::from_millis(50));
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_peer_that_comes_changes_and_goes_takes_nothing_from_another() {
    let (pair, config) = pair();
    let site = &pair.sites[0];
    let before = spis(site, "london");
    let counted = Counters::of(&pair);
    let outcome = std::thread::scope(|scope| {
        let running = scope.spawn(|| load(&pair, 10));
        sleep(Duration::from_millis(500));
        let with = |line: &str| format!("{config}{ROME}{line}");
        // Shown first, and nothing is done.
        assert_eq!(changes(&apply(site, &with(""), &["--dry-run"])), ["peer.rome added: tunnel"]);
        assert_eq!(names(site), ["london"]);
        // It comes.
        let plan = apply(site, &with(""), &[]);
        assert_eq!((changes(&plan), plan["untouched"].as_u64()), (vec!["peer.rome added: tunnel".to_owned()], Some(1)));
        rome_answers(&pair);
        let first = spis(site, "rome");
        // It changes, at no cost, ...
        assert_eq!(changes(&apply(site, &with("dpd = \"20s\"\n"), &[])), ["peer.rome changed dpd: nothing"]);
        assert_eq!(spis(site, "rome"), first);
        // ... at the cost of new keys, ...
        assert_eq!(changes(&apply(site, &with("dpd = \"20s\"\nwindow = 2048\n"), &[])), ["peer.rome changed window: rekey"]);
        let until = Instant::now() + Duration::from_secs(5);
        while !spis(site, "rome").is_disjoint(&first) {
            assert!(Instant::now() < until, "rome has no new keys\n{}", site.log());
            sleep(Duration::from_millis(20));
        }
        rome_answers(&pair);
        // ... at the cost of its tunnel.
        let rekeyed = spis(site, "rome");
        assert_eq!(changes(&apply(site, &with("per_core = false\n"), &[])), ["peer.rome changed per_core window dpd: tunnel"]);
        rome_answers(&pair);
        assert!(spis(site, "rome").is_disjoint(&rekeyed));
        // It goes, with its route.
        assert!(routes(site).contains("10.44.100.0/24"));
        assert_eq!(changes(&apply(site, &config, &[])), ["peer.rome removed: tunnel"]);
        assert_eq!(names(site), ["london"]);
        assert!(!routes(site).contains("10.44.100.0/24"));
        // And once more, by a signal.
        site.write_config(&with("")).expect("our own file");
        site.hang_up().expect("it runs");
        rome_answers(&pair);
        running.join().expect("the load")
    });
    let picture = || format!("{:?}\n{}", outcome.flows, Counters::picture(&pair));
    assert_eq!((outcome.total.lost, outcome.total.duplicate), (0, 0), "{}", picture());
    assert!(outcome.total.received > 30_000, "{}", picture());
    assert_eq!(spis(site, "london"), before, "the other peer has the keys that it had");
    let since = Counters::of(&pair).since(&counted);
    println!("{} while a peer came, changed three times, went and came; no_sa {}", outcome.total, since.drop("no_sa"));
}

#[test]
fn mistakes_and_refusals_change_nothing() {
    let (pair, config) = pair();
    let site = &pair.sites[0];
    let (before, routed) = (spis(site, "london"), routes(site));
    let same = || (spis(site, "london"), routes(site), names(site)) == (before.clone(), routed.clone(), vec!["london".to_owned()]);
    // Two mistakes: each has its line, and the good peer beside them does not come.
    let line = config.lines().count() + 1;
    let bad =
        format!("{config}[peer.paris]\nendpoint = \"10.0.0.9\"\nsubnets = [\"10.46.0.0/16\"]\npsk_file = \"none.psk\"\nfoo = 1\n{ROME}");
    site.write_config(&bad).expect("our own file");
    let output = site.penstock(&["apply"]).expect("the command");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    let place = |offset: usize, key: &str| format!("{}:{}: peer.paris.{key}:", site.config_path().display(), line + offset);
    assert!(said.contains(&place(3, "psk_file")) && said.contains(&place(4, "foo")) && said.contains("nothing is changed"), "{said}");
    assert!(same(), "{}", site.log());
    // A network that this machine is connected to.
    site.write_config(&format!("{config}{}", ROME.replace("10.44.100.0/24", "10.0.0.0/24"))).expect("our own file");
    let output = site.penstock(&["apply"]).expect("the command");
    assert!(output.status.code() == Some(2) && text(&output).contains("itself is connected to"), "{output:?}");
    assert!(same(), "{}", site.log());
    // The kernel refuses half-way: IPv6 is off, so the interface gets its second new address and not its third. Both go again, and so
    // does the new peer.
    let v4 = [", \"fd00:c0::1/126\"", ", \"fd00:43:43::/64\"", ", \"fd00:43:100::/64\""]
        .iter()
        .fold(config.clone(), |text, v6| text.replace(v6, ""));
    apply(site, &v4, &[]);
    let until = Instant::now() + Duration::from_secs(5);
    while spis(site, "london").is_empty() || !spis(site, "london").is_disjoint(&before) {
        assert!(Instant::now() < until, "no tunnel with other subnets\n{}", site.log());
        sleep(Duration::from_millis(20));
    }
    site.namespace().command("sysctl").args(["-q", "-w", "net.ipv6.conf.pen0.disable_ipv6=1"]).status().expect("sysctl runs");
    let seen = || (routes(site), site.namespace().ip("addr show dev pen0").expect("ip"), names(site), spis(site, "london"));
    let before = seen();
    let more = v4.replace("\"192.168.192.1/30\"", "\"192.168.192.1/30\", \"192.168.192.5/30\", \"fd00:c0::1/126\"");
    assert_ne!(more, v4);
    site.write_config(&format!("{more}{ROME}")).expect("our own file");
    let output = site.penstock(&["apply"]).expect("the command");
    let said = text(&output);
    let refused = said.contains("nothing is changed: cannot give pen0 the address fd00:c0::1/126") && !said.contains("way back");
    assert!(output.status.code() == Some(1) && refused, "{said}");
    assert_eq!(seen(), before, "{}", site.log());
    let outcome = load(&pair, 1);
    assert_eq!(outcome.total.lost, 0, "{:?}\n{}", outcome.flows, Counters::picture(&pair));
}

#[test]
fn what_is_not_confirmed_is_rolled_back() {
    let (pair, config) = pair();
    let site = &pair.sites[0];
    let both = format!("{config}{ROME}");
    apply(site, &both, &[]);
    rome_answers(&pair);
    let before = spis(site, "london");
    let outcome = std::thread::scope(|scope| {
        let running = scope.spawn(|| load(&pair, 7));
        let plan = apply(site, &config, &["--confirm", "2s"]);
        assert_eq!((changes(&plan), plan["confirm_within_ms"].as_u64()), (vec!["peer.rome removed: tunnel".to_owned()], Some(2000)));
        assert_eq!(names(site), ["london"]);
        // Another change has to wait for the answer.
        let output = site.penstock(&["apply"]).expect("the command");
        assert!(output.status.code() == Some(1) && text(&output).contains("penstock confirm"), "{output:?}");
        // Nobody confirms.
        let until = Instant::now() + Duration::from_secs(5);
        while names(site) != ["london", "rome"] {
            assert!(Instant::now() < until, "it is not rolled back\n{}", site.log());
            sleep(Duration::from_millis(50));
        }
        rome_answers(&pair);
        let output = site.penstock(&["confirm"]).expect("the command");
        assert!(output.status.code() == Some(1) && text(&output).contains("nothing waits"), "{output:?}");
        // Somebody does.
        apply(site, &config, &["--confirm", "1s"]);
        assert!(site.penstock(&["confirm"]).expect("the command").status.success());
        sleep(Duration::from_millis(1500));
        assert_eq!(names(site), ["london"]);
        running.join().expect("the load")
    });
    assert_eq!((outcome.total.lost, outcome.total.duplicate), (0, 0), "{:?}\n{}", outcome.flows, Counters::picture(&pair));
    assert_eq!(spis(site, "london"), before);
    let events = ["config-not-confirmed", "config-rolled-back", "config-confirmed"].map(|event| site.log().matches(event).count());
    assert_eq!(events, [1, 1, 1], "{}", site.log());
}

/// Kills control, and gives the names of the peers that the next one has.
fn names_after_death(site: &mut Site) -> Vec<String> {
    let old = site.kill_control().expect("it runs");
    site.wait_new_control(old, Duration::from_secs(10)).expect("another answers");
    names(site)
}

#[test]
fn what_is_not_confirmed_does_not_stay_because_control_died() {
    let (mut pair, config) = pair();
    let both = format!("{config}{ROME}");
    let site = &mut pair.sites[0];
    apply(site, &both, &[]);
    // Given a change that waits to be confirmed, and says so,
    apply(site, &config, &["--confirm", "60s"]);
    let left = site.show_json().expect("it answers")["site"]["rolled_back_in_ms"].as_u64().expect("it waits");
    assert!((40_000..=60_000).contains(&left), "{left}");
    assert!(text(&site.penstock(&["show"]).expect("the command")).contains("not confirmed: the last apply is rolled back in "));
    assert_eq!(names(site), ["london"]);
    // when control dies, then what ran before comes back, and stays, however often that happens.
    assert_eq!(names_after_death(site), ["london", "rome"]);
    assert!(site.log().contains("config-not-confirmed"), "{}", site.log());
    assert!(site.show_json().expect("it answers")["site"]["rolled_back_in_ms"].is_null());
    assert_eq!(names_after_death(site), ["london", "rome"]);
    rome_answers(&pair);
    // What was rolled back in time stays so, too.
    let site = &mut pair.sites[0];
    apply(site, &config, &["--confirm", "1s"]);
    let until = Instant::now() + Duration::from_secs(5);
    while names(site) != ["london", "rome"] {
        assert!(Instant::now() < until, "it is not rolled back\n{}", site.log());
        sleep(Duration::from_millis(50));
    }
    assert_eq!(names_after_death(site), ["london", "rome"]);
    // Once it is confirmed it stays.
    apply(site, &config, &["--confirm", "60s"]);
    assert!(site.penstock(&["confirm"]).expect("the command").status.success());
    assert_eq!(names_after_death(site), ["london"]);
    // A change that cannot be kept is not made.
    let obstacle = site.run_dir().join("unconfirmed.json.new");
    std::fs::create_dir(&obstacle).expect("ours");
    site.write_config(&both).expect("our own file");
    let output = site.penstock(&["apply", "--confirm", "60s"]).expect("the command");
    assert!(output.status.code() == Some(1) && text(&output).contains("unconfirmed.json"), "{output:?}");
    assert_eq!(names(site), ["london"]);
}
