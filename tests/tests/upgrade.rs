//! Given two sites under load, when penstockd is replaced on disk and upgraded while it runs, then not one packet is lost and the
//! engine goes on; a program that cannot take over does not.
//!
//! The same for the engine, which is relieved by another one: packets wait for a moment in the queues of the TUN device.
//!
//! CI upgrades each three times. The long form: `PENSTOCK_UPGRADES=100 cargo test -p penstock-tests --test upgrade -- --nocapture`.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use penstock_perf::lab::{Family, Pair, PairOptions, binary};
use penstock_perf::load::{Direction, Udp, Verdict};
use penstock_tests::counters::Counters;

/// Puts a program in the place of another in one step, as a package manager does.
fn replace(program: &Path, by: &[u8]) {
    let new = program.with_extension("new");
    fs::write(&new, by).expect("our own file");
    fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("our own file");
    fs::rename(new, program).expect("our own file");
}

/// Ends the load, also when the story fails: a scope waits for its threads.
struct Enough<'a>(&'a AtomicBool);

impl Enough<'_> {
    fn tell(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Drop for Enough<'_> {
    fn drop(&mut self) {
        self.tell();
    }
}

/// Numbered datagrams both ways until it is enough.
fn load(pair: &Pair, enough: &AtomicBool) -> Verdict {
    let [left, right] = [0, 1].map(|side| pair.inner(side, Family::V4));
    let udp = Udp { flows: 4, rate: 1000.0, direction: Direction::Both, ..Udp::default() };
    let mut total = Verdict::default();
    while !enough.load(Ordering::Relaxed) {
        total.add(&udp.run(&left, &right).expect("sockets").total);
    }
    total
}

fn times() -> usize {
    std::env::var("PENSTOCK_UPGRADES").ok().map_or(3, |text| text.parse().expect("a number"))
}

#[test]
fn the_engine_is_upgraded_under_load_and_no_packet_notices() {
    let pair = Pair::start(&PairOptions { cores: [2, 2], ..PairOptions::default() }).expect("both sites come up");
    let enough = AtomicBool::new(false);
    let (mut took, mut pauses) = (Vec::new(), Vec::new());
    let total = std::thread::scope(|scope| {
        let (pair, told, enough) = (&pair, &enough, Enough(&enough));
        let running = scope.spawn(move || load(pair, told));
        for number in 0..times() {
            let site = &pair.sites[number % 2];
            let before = site.engine_pid().expect("an engine runs");
            let start = Instant::now();
            let output = site.penstock(&["upgrade", "engine", "--json"]).expect("the command");
            took.push(start.elapsed());
            assert!(output.status.success(), "{output:?}\n{}\n{}", pair.sites[0].log(), pair.sites[1].log());
            let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
            pauses.push(answer["pause_us"].as_u64().expect("a number"));
            assert!(answer["sas"].as_u64().expect("a number") >= 1, "{answer}");
            let after = site.engine_pid().expect("an engine runs");
            assert!(answer["from"]["pid"] == before && answer["to"]["pid"] == after && before != after, "{answer}");
            wait_ended(before);
        }
        enough.tell();
        running.join().expect("the load")
    });
    took.sort_unstable();
    pauses.sort_unstable();
    println!(
        "{} upgrades of engines: median {:.2?}, longest {:.2?}; the TUN queues are read by nobody for {} us (median), {} us (longest); {total}",
        took.len(),
        took[took.len() / 2],
        took[took.len() - 1],
        pauses[pauses.len() / 2],
        pauses[pauses.len() - 1],
    );
    assert_eq!((total.lost, total.duplicate, total.corrupt), (0, 0, 0), "{total}\n{}", Counters::picture(&pair));
    let counters = Counters::of(&pair);
    counters.assert_no_drops(&[]);
}

/// A relieved engine ends when what was on its way to it has come.
fn wait_ended(pid: u32) {
    let start = Instant::now();
    while Path::new(&format!("/proc/{pid}")).exists() {
        assert!(start.elapsed() < Duration::from_secs(9), "the relieved engine stays");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn control_is_upgraded_under_load_and_no_packet_notices() {
    let times = times();
    let mut pair = Pair::new(&PairOptions { cores: [2, 2], ..PairOptions::default() }).expect("both sites");
    let built = fs::read(binary("penstockd").expect("it is built")).expect("it can be read");
    let program = pair.sites[0].folder().join("penstockd");
    replace(&program, &built);
    pair.sites[0].use_daemon(&program);
    pair.sites.iter_mut().for_each(|site| site.start().expect("it starts"));
    pair.wait_up(Duration::from_secs(10)).expect("both come up");
    let engine = pair.sites[0].engine_pid().expect("an engine runs");
    let enough = AtomicBool::new(false);
    let mut took = Vec::new();
    let total = std::thread::scope(|scope| {
        let (pair, told, enough) = (&pair, &enough, Enough(&enough));
        let running = scope.spawn(move || load(pair, told));
        for _ in 0..times {
            std::thread::sleep(Duration::from_millis(300));
            let site = &pair.sites[0];
            let old = site.control_pid().expect("it answers");
            replace(&program, &built);
            let start = Instant::now();
            let output = site.penstock(&["upgrade"]).expect("the command");
            took.push(start.elapsed());
            assert!(output.status.success(), "{output:?}\n{}", site.log());
            site.wait_new_control(old, Duration::from_secs(1)).expect("another control answers");
        }
        enough.tell();
        running.join().expect("the load")
    });
    took.sort_unstable();
    println!(
        "{times} upgrades of control: median {:.2?}, longest {:.2?} until all is held by the new one; {total}",
        took[times / 2],
        took[times - 1]
    );
    assert_eq!((total.lost, total.duplicate, total.corrupt), (0, 0, 0), "{total}\n{}", Counters::picture(&pair));
    assert_eq!(pair.sites[0].engine_pid().expect("an engine runs"), engine, "the engine goes on");
    Counters::of(&pair).assert_no_drops(&[]);
}

#[test]
fn a_program_that_cannot_take_over_changes_nothing() {
    let mut pair = Pair::new(&PairOptions::default()).expect("both sites");
    let program = pair.sites[0].folder().join("penstockd");
    let built = fs::read(binary("penstockd").expect("it is built")).expect("it can be read");
    replace(&program, &built);
    pair.sites[0].use_daemon(&program);
    pair.sites.iter_mut().for_each(|site| site.start().expect("it starts"));
    pair.wait_up(Duration::from_secs(10)).expect("both come up");
    let site = &pair.sites[0];
    let before = site.control_pid().expect("it answers");
    let refused = |why: &str| {
        let output = site.penstock(&["upgrade"]).expect("the command");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains("failed its trial"), "{said}");
        assert!(site.log().contains(why), "{}", site.log());
        assert_eq!(site.control_pid().expect("it answers"), before);
    };
    // A program that ends at once.
    replace(&program, b"#!/bin/sh\nexit 7\n");
    refused("exit status: 7");
    // A good program, and files that it cannot read.
    replace(&program, &built);
    let good = fs::read_to_string(site.config_path()).expect("our own file");
    site.write_config(&good.replace("endpoint", "endpiont")).expect("our own file");
    refused("peer.london.endpiont: unknown key");
    site.write_config(&good).expect("our own file");
    let output = site.penstock(&["upgrade", "--json"]).expect("the command");
    assert!(output.status.success(), "{output:?}\n{}", site.log());
    let [left, right] = [0, 1].map(|side| pair.inner(side, Family::V4));
    let udp = Udp { count: 1000, rate: 2000.0, direction: Direction::Both, ..Udp::default() };
    let total = udp.run(&left, &right).expect("sockets").total;
    assert!(total.received > 0 && total.lost == 0, "{total}");
    assert_ne!(site.control_pid().expect("it answers"), before);
}

#[test]
fn an_engine_that_cannot_take_over_changes_nothing() {
    let mut pair = Pair::new(&PairOptions::default()).expect("both sites");
    let built = fs::read(binary("penstock-engine").expect("it is built")).expect("it can be read");
    let program = pair.sites[0].folder().join("penstock-engine");
    replace(&program, &built);
    pair.sites[0].use_engine(&program);
    pair.sites.iter_mut().for_each(|site| site.start().expect("it starts"));
    pair.wait_up(Duration::from_secs(10)).expect("both come up");
    let before = pair.sites[0].engine_pid().expect("an engine runs");
    let enough = AtomicBool::new(false);
    let total = std::thread::scope(|scope| {
        let (pair, program, told, enough) = (&pair, &program, &enough, Enough(&enough));
        let running = scope.spawn(move || load(pair, told));
        // One that ends at once, one that never answers, and none at all.
        for (text, why) in
            [("#!/bin/sh\nexit 7\n", "has ended"), ("#!/bin/sh\nexec sleep 20\n", "does not answer"), ("", "cannot be started")]
        {
            replace(program, text.as_bytes());
            if text.is_empty() {
                fs::remove_file(program).expect("our own file");
            }
            let output = pair.sites[0].penstock(&["upgrade", "engine"]).expect("the command");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains("the engine that runs goes on") && said.contains(why), "{said}\n{}", pair.sites[0].log());
            assert_eq!(pair.sites[0].engine_pid().expect("an engine runs"), before);
        }
        enough.tell();
        running.join().expect("the load")
    });
    assert_eq!((total.lost, total.duplicate, total.corrupt), (0, 0, 0), "{total}\n{}", Counters::picture(&pair));
    // And a good one does.
    replace(&program, &built);
    let output = pair.sites[0].penstock(&["upgrade", "engine"]).expect("the command");
    assert!(output.status.success(), "{output:?}\n{}", pair.sites[0].log());
    assert_ne!(pair.sites[0].engine_pid().expect("an engine runs"), before);
}
