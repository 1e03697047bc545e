//! Device, addresses, routes and rules against the real kernel, each test in a network namespace of its own. Needs
//! root; without it there is nothing to see and the tests pass.
//!
//! Each test runs itself again inside `ip netns exec`, so that the whole process lives in the namespace.

use std::process::Command;

use penstock::netlink::{Netlink, Plan, Route};
use penstock::tun;

const INSIDE: &str = "PENSTOCK_TEST_INSIDE";

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("iproute2 is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn ip(arguments: &str) -> String {
    run("ip", &arguments.split(' ').collect::<Vec<_>>())
}

/// Whether this is the run inside the namespace; else it is made, used and removed here.
fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let root = std::fs::read_to_string("/proc/self/status").is_ok_and(|s| s.lines().any(|l| l.starts_with("Uid:\t0\t0")));
    if !root {
        return false;
    }
    let name = format!("pen-control-{}-{test}", std::process::id());
    ip(&format!("netns add {name}"));
    let own = std::env::current_exe().expect("a program");
    let status =
        Command::new("ip").args(["netns", "exec", &name]).arg(own).args(["--exact", test, "--nocapture"]).env(INSIDE, "1").status();
    ip(&format!("netns del {name}"));
    assert!(status.expect("ip can be run").success(), "{test} failed inside the namespace");
    false
}

fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work);
}

fn plan(subnets: &[&str]) -> Plan {
    let source = Some([10, 9, 9, 1].into());
    let routes = subnets.iter().map(|s| Route { subnet: s.parse().expect("a prefix"), source }).collect();
    Plan { device: "pen0".into(), addresses: vec!["10.9.9.1/30".parse().expect("a prefix")], mtu: 1438, routes, mark: 77, table: 4500 }
}

/// A local network 192.0.2.0/24 behind eth0 with a default gateway, as any site has.
fn site() {
    ip("link set lo up");
    ip("link add eth0 type veth peer name eth1");
    ip("addr add 192.0.2.10/24 dev eth0");
    ip("link set eth0 up");
    ip("link set eth1 up");
    ip("route add default via 192.0.2.1");
}

#[test]
fn a_default_route_leaves_the_local_network_and_marked_packets_alone() {
    if !inside("a_default_route_leaves_the_local_network_and_marked_packets_alone") {
        return;
    }
    block_on(async {
        // Given a site, and a peer that takes everything
        site();
        let queues = tun::open("pen0", 2, true).expect("a device");
        let netlink = Netlink::connect().expect("netlink");
        let plan = plan(&["0.0.0.0/0", "10.43.0.0/16"]);
        // When the plan is applied, twice
        netlink.apply(&plan).await.expect("applied");
        let first = (ip("rule"), ip("route show table 4500"), ip("addr show pen0"));
        netlink.apply(&plan).await.expect("applied again");
        // Then nothing changed the second time
        assert_eq!(first, (ip("rule"), ip("route show table 4500"), ip("addr show pen0")));
        // and each destination goes where it should
        for (to, device) in [
            ("203.0.113.7", "pen0"),
            ("10.43.1.1", "pen0"),
            ("192.0.2.20", "eth0"),
            ("203.0.113.7 mark 77", "eth0"),
            ("10.43.1.1 mark 77", "eth0"),
        ] {
            let route = ip(&format!("route get {to}"));
            assert!(route.contains(&format!("dev {device} ")), "{to}: {route}");
        }
        assert!(ip("route get 10.43.1.1").contains("src 10.9.9.1"));
        // and a longer route of the administrator wins
        ip("route add 10.43.7.0/24 via 192.0.2.1");
        assert!(ip("route get 10.43.7.7").contains("dev eth0"));
        drop(queues);
    });
}

#[test]
fn what_was_made_is_taken_away_and_nothing_else() {
    if !inside("what_was_made_is_taken_away_and_nothing_else") {
        return;
    }
    block_on(async {
        // Given a device of the administrator's
        site();
        ip("rule add from 198.51.100.0/24 lookup main priority 100");
        let before = (ip("rule"), ip("route show table all"));
        ip("tuntap add pen0 mode tun multi_queue vnet_hdr");
        let queues = tun::open("pen0", 1, true).expect("the device is used");
        let netlink = Netlink::connect().expect("netlink");
        let plan = plan(&["10.43.0.0/16"]);
        netlink.apply(&plan).await.expect("applied");
        // When a smaller plan takes its place
        let smaller = Plan { routes: Vec::new(), ..plan.clone() };
        netlink.apply(&smaller).await.expect("applied");
        assert!(ip("route show table 4500").is_empty());
        // Then removing it leaves the device, because this daemon did not make it
        netlink.apply(&plan).await.expect("applied");
        netlink.remove(&plan).await.expect("removed");
        assert!(!ip("addr show pen0").contains("10.9.9.1"));
        netlink.remove(&plan).await.expect("nothing left to remove is no error");
        drop(queues);
        ip("link del pen0");
        assert_eq!(before, (ip("rule"), ip("route show table all")));
        // and a device that it did make goes
        let queues = tun::open("pen0", 1, true).expect("a device");
        netlink.claim("pen0", "test").await.expect("claimed");
        netlink.apply(&plan).await.expect("applied");
        netlink.remove(&plan).await.expect("removed");
        assert!(!ip("link").contains("pen0"));
        drop(queues);
    });
}

#[test]
fn a_network_that_is_connected_here_is_found() {
    if !inside("a_network_that_is_connected_here_is_found") {
        return;
    }
    block_on(async {
        site();
        let netlink = Netlink::connect().expect("netlink");
        let connected = netlink.connected("pen0").await.expect("asked");
        let found = ["192.0.2.0/24", "192.0.0.0/16", "0.0.0.0/0"].map(|s| connected.contains(&s.parse().expect("a prefix")));
        assert_eq!(found, [true, false, false]);
        assert_eq!(netlink.path_mtu([192, 0, 2, 1].into(), 77).await.expect("asked"), Some(1500));
        ip("link set eth0 mtu 9000");
        assert_eq!(netlink.path_mtu([203, 0, 113, 7].into(), 77).await.expect("asked"), Some(9000));
    });
}

#[test]
fn queues_are_opened_again_and_foreign_descriptors_refused() {
    if !inside("queues_are_opened_again_and_foreign_descriptors_refused") {
        return;
    }
    let first = tun::open("pen0", 2, true).expect("a device");
    tun::verify("pen0", &first.queues[1]).expect("it is");
    assert!(tun::verify("pen1", &first.queues[0]).is_err());
    let file = std::fs::File::open("/dev/null").expect("a file").into();
    assert!(tun::verify("pen0", &file).is_err());
    drop(first);
    // The device has stayed, with nobody on its queues.
    assert!(ip("link").contains("pen0"));
    drop(tun::open("pen0", 2, false).expect("it is opened again"));
    // A device of another kind is refused with a remedy.
    ip("link del pen0");
    ip("link add pen0 type veth peer name other");
    let error = tun::open("pen0", 1, true).expect_err("a device of another kind");
    assert!(error.to_string().contains("ip link del"), "{error}");
}
