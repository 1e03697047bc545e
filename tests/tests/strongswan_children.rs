//! Given a strongSwan with several networks, in one child or in a child each, then each packet leaves by a child that
//! covers it, what no child covers does not leave, and a child that comes or goes takes nothing from the others.

use std::time::Duration;

use penstock_perf::load::{Direction, Udp};
use penstock_tests::mixed::{Mixed, MixedOptions};
use serde_json::Value;

const HERE: [&str; 3] = ["10.43.43.0/24", "10.43.44.0/24", "fd00:43:43::/64"];
const THERE: [&str; 3] = ["10.43.100.0/24", "10.43.101.0/24", "fd00:43:100::/64"];
/// Datagrams that must not pass.
const COUNT: i64 = 200;
/// Two children with nothing in common.
const TWO: &str = "net {\nlocal_ts = 10.43.100.0/24\nremote_ts = 10.43.43.0/24\nesp_proposals = aes256gcm16\n}\n\
                   two {\nlocal_ts = 10.43.101.0/24\nremote_ts = 10.43.44.0/24\nesp_proposals = aes128gcm16\n}";

fn options() -> MixedOptions {
    MixedOptions { subnets: [HERE.into(), THERE.into()], ..MixedOptions::default() }
}

/// Datagrams pass both ways between two networks, all of them.
fn passes(mixed: &Mixed, here: &str, there: &str) {
    let udp = Udp { flows: 2, count: 200, rate: 500.0, direction: Direction::Both, ..Udp::default() };
    let outcome = udp.run(&mixed.host(0, here), &mixed.host(1, there)).expect("sockets");
    println!("{here} with {there}: {}", outcome.total);
    assert!(outcome.total.is_perfect(), "{here} with {there}: {:?}\n{}", outcome.flows, mixed.picture());
}

/// None pass from here to there, for a reason that Penstock names.
fn stays(mixed: &Mixed, here: &str, there: &str, reason: &str) {
    let before = mixed.counters();
    let [from, to] = [mixed.host(0, here), mixed.host(1, there)].map(|host| host.udp(0).expect("a socket"));
    to.set_nonblocking(true).expect("a socket");
    for _ in 0..COUNT {
        from.send_to(&[7; 100], to.local_addr().expect("bound")).expect("the route is there");
    }
    // One without an SA waits a second for it.
    std::thread::sleep(Duration::from_millis(1_300));
    assert!(to.recv(&mut [0; 200]).is_err(), "{here} to {there}: {}", mixed.picture());
    let dropped = mixed.counters().since(&before).drop(reason);
    println!("{here} to {there}: {COUNT} sent, {dropped} dropped as {reason}");
    assert_eq!(dropped, COUNT, "{here} to {there}: {}", mixed.picture());
}

/// Packets of each active SA of Penstock, outbound and inbound.
fn sas(mixed: &Mixed) -> Vec<(u64, u64)> {
    let peer = mixed.peer();
    let active = peer["sas"].as_array().expect("a list").iter().filter(|sa| sa["phase"] == "active");
    let number = |sa: &Value, way: &str| sa[way]["packets"].as_u64().or_else(|| sa[format!("{way}_packets")].as_u64()).unwrap_or_default();
    active.map(|sa| (number(sa, "outbound"), number(sa, "inbound"))).collect()
}

#[test]
fn one_child_carries_several_networks_of_each_side() {
    let mixed = Mixed::start(&options()).expect("both come up");
    let [four, five, six] = [0, 1, 2].map(|at| THERE[at]);
    for (here, there) in [(HERE[0], four), (HERE[0], five), (HERE[1], four), (HERE[1], five), (HERE[2], six)] {
        passes(&mixed, here, there);
    }
    assert_eq!(sas(&mixed).len(), 1);
    mixed.counters().assert_no_drops(&[]);
}

#[test]
fn each_of_two_children_carries_its_own_networks() {
    let mut mixed = Mixed::new(&MixedOptions { children: TWO.into(), ..options() }).expect("the lab");
    mixed.penstock_waits().expect("it starts");
    mixed.swan.initiate("net").expect("the first child");
    mixed.wait_up(1, Duration::from_secs(5)).expect("the first child");
    passes(&mixed, HERE[0], THERE[0]);
    mixed.swan.initiate("two").expect("the second child");
    mixed.wait_up(2, Duration::from_secs(5)).expect("both children");
    // The second one has taken nothing from the first.
    passes(&mixed, HERE[0], THERE[0]);
    passes(&mixed, HERE[1], THERE[1]);
    mixed.counters().assert_no_drops(&[]);
    let carried = sas(&mixed);
    println!("outbound and inbound packets of each SA: {carried:?}");
    assert_eq!(carried.len(), 2, "{}", mixed.picture());
    assert!(carried.iter().all(|(outbound, inbound)| *outbound >= 400 && *inbound >= 400), "{carried:?}");
    // What no child covers leaves by none.
    stays(&mixed, HERE[0], THERE[1], "source_not_local");
    stays(&mixed, HERE[1], THERE[0], "source_not_local");

    // And when one goes, the other one stays.
    mixed.swan.swanctl(&["--terminate", "--child", "net"]).expect("it closes");
    std::thread::sleep(Duration::from_millis(500));
    passes(&mixed, HERE[1], THERE[1]);
    stays(&mixed, HERE[0], THERE[0], "no_sa");
    assert_eq!(sas(&mixed).len(), 1);
}

#[test]
fn a_new_control_keeps_each_of_two_children_apart() {
    let mut mixed = Mixed::new(&MixedOptions { children: TWO.into(), ..options() }).expect("the lab");
    mixed.penstock_waits().expect("it starts");
    for (number, child) in [(1, "net"), (2, "two")] {
        mixed.swan.initiate(child).expect("a child");
        mixed.wait_up(number, Duration::from_secs(5)).expect("it is up");
    }
    let old = mixed.site[0].kill_control().expect("it runs");
    mixed.site[0].wait_new_control(old, Duration::from_secs(10)).expect("another one");
    passes(&mixed, HERE[0], THERE[0]);
    passes(&mixed, HERE[1], THERE[1]);
    assert_eq!(sas(&mixed).len(), 2, "{}", mixed.picture());
    mixed.counters().assert_no_drops(&[]);
}

/// Penstock offers all, strongSwan agrees to one network of each side and to a part of another.
#[test]
fn strongswan_narrows_what_penstock_offers() {
    let children = "net {\nlocal_ts = 10.43.100.0/25\nremote_ts = 10.43.43.0/24\nesp_proposals = aes256gcm16\n}";
    let mixed = Mixed::start(&MixedOptions { children: children.into(), ..options() }).expect("both come up");
    passes(&mixed, HERE[0], THERE[0]);
    stays(&mixed, HERE[1], THERE[0], "source_not_local");
    stays(&mixed, HERE[0], THERE[1], "no_route");
    let children = mixed.swan.children().expect("charon answers");
    assert_eq!((children[0].value("local-ts"), children[0].value("remote-ts")), ("10.43.100.0/25", "10.43.43.0/24"));
}
