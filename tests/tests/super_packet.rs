//! Given a site that forwards nothing, when its device is up, then this machine's own super-packets fill one UDP send; and when
//! somebody turns forwarding on, then the device takes whole ones within seconds, because others' would be cut apart.

use std::time::{Duration, Instant};

use penstock_perf::lab::{Namespace, Pair, PairOptions};

/// What the device asks for.
fn gso_max_size(namespace: &Namespace) -> u32 {
    let shown = namespace.ip("-d link show dev pen0").expect("the device is there");
    let mut words = shown.split_whitespace().skip_while(|word| *word != "gso_max_size");
    words.nth(1).and_then(|bytes| bytes.parse().ok()).expect("a number of bytes")
}

fn becomes(namespace: &Namespace, wanted: u32) {
    let until = Instant::now() + Duration::from_secs(20);
    while gso_max_size(namespace) != wanted {
        assert!(Instant::now() < until, "{} bytes instead of {wanted}", gso_max_size(namespace));
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn forwarding_asks_for_whole_super_packets() {
    let pair = Pair::start(&PairOptions::default()).expect("both sites come up");
    let site = pair.sites[0].namespace();
    // 44 segments of 1,386 bytes, and what TCP reserves for headers.
    becomes(site, 44 * 1386 + 321);
    site.set_sysctl("net/ipv4/conf/lo/forwarding", "1").expect("a sysctl");
    becomes(site, 65_536);
    site.set_sysctl("net/ipv4/conf/lo/forwarding", "0").expect("a sysctl");
    becomes(site, 44 * 1386 + 321);
}
