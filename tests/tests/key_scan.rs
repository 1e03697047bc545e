//! Given two sites that have talked under keys which a scan of their memory finds, when these keys are replaced, then a second after
//! the last of them is out of use no trace of them is left: not in the memory of engine, control or launcher, not in logs or files.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use penstock_perf::lab::{Family, Pair, PairOptions};
use penstock_perf::load::{Direction, Udp};
use penstock_tests::keys::{self, Key};

/// The process above this one.
fn parent(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("it has a parent");
    line.trim().parse().expect("a number")
}

/// Engine, control and launcher of a site.
fn processes(pair: &Pair, side: usize) -> [u32; 3] {
    let site = &pair.sites[side];
    let control = site.control_pid().expect("it runs");
    [site.engine_pid().expect("it runs"), control, parent(control)]
}

/// The keys that both sites have: those of the SAs between them, and no random generator's.
fn shared(pair: &Pair, which: usize) -> BTreeSet<Key> {
    let [left, right] = [0, 1].map(|side| keys::expanded(processes(pair, side)[which]).expect("root may read it"));
    left.intersection(&right).copied().collect()
}

/// All SPIs that a site shows, whatever they are in.
fn spis(pair: &Pair, side: usize) -> BTreeSet<String> {
    let state = pair.sites[side].show_json().expect("the daemon answers");
    let sas = state["peers"][0]["sas"].as_array().cloned().unwrap_or_default();
    sas.iter().filter_map(|sa| sa["inbound_spi"].as_str().map(str::to_owned)).collect()
}

/// Where these keys are: one line for each process and folder.
fn traces(pair: &Pair, old: &BTreeSet<Key>) -> Vec<String> {
    let mut traces = Vec::new();
    for side in [0, 1] {
        for (name, pid) in ["engine", "control", "launcher"].into_iter().zip(processes(pair, side)) {
            let found = keys::in_memory(pid, old).expect("root may read it");
            traces.extend(found.values().map(|part| format!("in the memory of {name} {side}: {part}")));
        }
        let found = keys::in_files(pair.sites[side].folder(), old).expect("our own files").len();
        traces.extend((found > 0).then(|| format!("{found} in the files of site {side}")));
    }
    traces
}

#[test]
fn no_trace_of_a_key_is_left_a_second_after_it_was_replaced() {
    let pair = Pair::start(&PairOptions { cores: [2, 2], ..PairOptions::default() }).expect("both sites come up");
    let [left, right] = [0, 1].map(|side| pair.inner(side, Family::V4));
    let load = Udp { flows: 8, rate: 500.0, duration: Duration::from_secs(2), direction: Direction::Both, ..Udp::default() };
    load.run(&left, &right).expect("sockets");

    let sas = spis(&pair, 0).len();
    let (packets, ike) = (shared(&pair, 0), shared(&pair, 1));
    println!("{sas} pairs of SAs; {} keys of packets found in both engines, {} of IKE in both controls", packets.len(), ike.len());
    assert_eq!(packets.len(), 2 * sas, "each pair has a key each way");
    let old: BTreeSet<Key> = packets.union(&ike).copied().collect();
    // The scan finds what is there: where the keys are in use, in this very process, and in a file.
    assert!(traces(&pair, &packets).iter().any(|trace| trace.contains("memory of engine 0")));
    let here = keys::in_memory(std::process::id(), &old).expect("our own memory");
    assert_eq!(here.into_keys().collect::<BTreeSet<Key>>(), old);
    let planted = pair.sites[0].folder().join("planted");
    std::fs::write(&planted, old.iter().flatten().copied().collect::<Vec<u8>>()).expect("our own folder");
    assert!(traces(&pair, &old).contains(&format!("{} in the files of site 0", old.len())));
    std::fs::remove_file(planted).expect("our own file");

    let before = [0, 1].map(|side| spis(&pair, side));
    let answer = pair.sites[0].penstock(&["peer", "rekey", "london"]).expect("the command");
    assert!(answer.status.success(), "{answer:?}");
    let until = Instant::now() + Duration::from_secs(20);
    while [0, 1].iter().any(|side| !spis(&pair, *side).is_disjoint(&before[*side])) {
        assert!(Instant::now() < until, "the old SAs do not go: {:?}", spis(&pair, 0));
        load.run(&left, &right).expect("sockets");
    }
    std::thread::sleep(Duration::from_secs(1));
    assert!(shared(&pair, 0).is_disjoint(&old) && !shared(&pair, 0).is_empty(), "other keys are in use");
    assert_eq!(traces(&pair, &old), Vec::<String>::new(), "old keys are left");
}
