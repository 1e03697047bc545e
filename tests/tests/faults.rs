//! Given two sites under load, when somebody takes away what the daemon made in the kernel, then it is there again within five seconds,
//! packets pass, and one line of the log says so. No datagram leaves in clear meanwhile.

use std::process::Command;
use std::time::{Duration, Instant};

use penstock_perf::lab::{Family, Pair, PairOptions, Site, descendants};
use penstock_perf::load::{Direction, Udp};
use penstock_tests::capture::Capture;
use penstock_tests::counters::Counters;
use penstock_tests::host::{NoDescriptors, SmallDisk, TinyBuffers};

/// How long a fault may take to heal once its cause is gone.
const HEALED: Duration = Duration::from_secs(5);

/// What the kernel has of ours at the left site.
fn kernel(pair: &Pair) -> Vec<String> {
    let namespace = pair.sites[0].namespace();
    let sorted = |what: &str| {
        let text = namespace.ip(what).unwrap_or_default();
        let mut lines: Vec<String> = text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.contains("valid_lft")).collect();
        lines.sort();
        lines.join("\n")
    };
    ["-o addr show dev pen0 up", "-4 route show table 28773", "-6 route show table 28773", "-4 rule show", "-6 rule show"]
        .map(sorted)
        .into()
}

fn passes(pair: &Pair) -> bool {
    let [left, right] = [0, 1].map(|side| pair.inner(side, Family::V4));
    let udp = Udp { count: 50, rate: 1000.0, direction: Direction::Both, linger: Duration::from_millis(200), ..Udp::default() };
    udp.run(&left, &right).is_ok_and(|outcome| outcome.total.is_perfect())
}

#[test]
fn what_somebody_takes_away_is_put_back() {
    let pair = Pair::start(&PairOptions { cores: [2, 2], ..PairOptions::default() }).expect("both sites come up");
    assert!(passes(&pair));
    let wire = pair.wire.device();
    let capture = pair.sites[1].namespace().enter(|| Capture::start(&wire)).expect("the namespace").expect("the link");
    let before = kernel(&pair);
    assert!(before[1].contains("10.43.100.0/24") && before[2].contains("fd00:43:100::"), "{before:?}");
    let site = &pair.sites[0];
    for fault in [
        "route flush table 28773",
        "-6 route flush table 28773",
        "addr del 192.168.192.1/30 dev pen0",
        "addr flush dev pen0",
        "rule flush",
        "link set pen0 down",
        "link set pen0 name other0",
        "link set pen0 down name other0",
    ] {
        let told = site.log().matches("event=put-back").count();
        let start = Instant::now();
        site.namespace().ip(fault).expect("ip");
        // A flush of the rules takes the kernel's own along, which are nobody's to put back but the operator's.
        if fault == "rule flush" {
            site.namespace().ip("rule add from all lookup main priority 32766").expect("ip");
            site.namespace().ip("rule add from all lookup default priority 32767").expect("ip");
        }
        while kernel(&pair) != before {
            assert!(start.elapsed() < HEALED, "{fault}: not healed: {:?}\nbefore: {before:?}\n{}", kernel(&pair), site.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        let healed = start.elapsed();
        while site.log().matches("event=put-back").count() == told {
            assert!(start.elapsed() < HEALED, "{fault}: no line in the log\n{}", site.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(passes(&pair), "{fault}: {}", Counters::picture(&pair));
        std::thread::sleep(Duration::from_millis(500));
        println!("{fault}: there again after {healed:.0?}; {} lines", site.log().matches("event=put-back").count() - told);
    }
    let inner: Vec<u8> = [[10, 43, 43, 1], [10, 43, 100, 1]].concat();
    let frames = capture.finish().expect("a capture");
    assert!(frames.len() > 100 && !frames.iter().any(|frame| frame.windows(8).any(|window| window == inner)), "nothing leaves in clear");
}

#[test]
fn a_device_that_somebody_deletes_is_made_again() {
    let pair = Pair::start(&PairOptions { cores: [2, 2], ..PairOptions::default() }).expect("both sites come up");
    assert!(passes(&pair));
    let wire = pair.wire.device();
    let capture = pair.sites[1].namespace().enter(|| Capture::start(&wire)).expect("the namespace").expect("the link");
    let before = kernel(&pair);
    let site = &pair.sites[0];
    for _ in 0..2 {
        let start = Instant::now();
        site.namespace().ip("link del pen0").expect("ip");
        while !(kernel(&pair) == before && passes(&pair)) {
            assert!(start.elapsed() < HEALED, "not healed: {:?}\nbefore: {before:?}\n{}", kernel(&pair), site.log());
        }
        println!("packets pass again {:.0?} after the device was deleted", start.elapsed());
    }
    assert_eq!(site.log().matches("event=device-made-again").count(), 2, "{}", site.log());
    Counters::of(&pair).assert_sums();
    let inner: Vec<u8> = [[10, 43, 43, 1], [10, 43, 100, 1]].concat();
    let frames = capture.finish().expect("a capture");
    assert!(frames.len() > 100 && !frames.iter().any(|frame| frame.windows(8).any(|window| window == inner)), "nothing leaves in clear");
}

/// Waits until packets pass again.
fn wait_healed(pair: &Pair, fault: &str) {
    let start = Instant::now();
    while !passes(pair) {
        assert!(start.elapsed() < HEALED, "{fault}: not healed\n{}\n{}", pair.sites[0].log(), Counters::picture(pair));
    }
    println!("{fault}: packets pass again after {:.0?}", start.elapsed());
}

fn lines(site: &Site, event: &str) -> usize {
    site.log().matches(&format!("event={event}")).count()
}

#[test]
fn a_full_disk_costs_lines_of_the_log_and_nothing_else() {
    let mut pair = Pair::new(&PairOptions { cores: [2, 2], ..PairOptions::default() }).expect("two sites");
    // Given a site whose log and run directory are on a disk of 64 KiB
    let run_dir = pair.sites[0].run_dir();
    let disk = SmallDisk::over(&run_dir).expect("a disk");
    std::os::unix::fs::symlink(run_dir.join("log"), pair.sites[0].log_path()).expect("a link");
    pair.sites.iter_mut().try_for_each(Site::start).expect("both daemons start");
    pair.wait_up(Duration::from_secs(10)).expect("both sites come up");
    assert!(passes(&pair));
    let control = pair.sites[0].control_pid().expect("it runs");
    // when that is full and an engine dies
    let filler = disk.fill().expect("it gets full");
    let told = pair.sites[0].log().len();
    let engine = pair.sites[0].kill_engine().expect("it runs");
    wait_healed(&pair, "a full disk");
    assert_ne!(pair.sites[0].engine_pid().expect("another runs"), engine);
    assert_eq!(pair.sites[0].control_pid().expect("it runs"), control, "control lives on without a log");
    assert!(pair.sites[0].log().len() < told + 4096, "the disk was full");
    // then there are lines again once there is room.
    std::fs::remove_file(filler).expect("ours");
    let before = lines(&pair.sites[0], "engine-replaced");
    pair.sites[0].kill_engine().expect("it runs");
    wait_healed(&pair, "a disk with room");
    assert!(lines(&pair.sites[0], "engine-replaced") > before, "{}", pair.sites[0].log());
    // And nothing stays behind: a folder with a disk over a part of it could not be removed.
    let folder = run_dir.parent().expect("the site's folder").to_owned();
    drop(disk);
    drop(pair);
    assert!(!folder.exists(), "{folder:?} is still there");
}

#[test]
fn without_descriptors_packets_pass_and_an_engine_that_dies_comes_back_once_there_are_some() {
    let pair = Pair::start(&PairOptions { cores: [2, 2], ..PairOptions::default() }).expect("both sites come up");
    assert!(passes(&pair));
    let control = pair.sites[0].control_pid().expect("it runs");
    let engine = pair.sites[0].engine_pid().expect("it runs");
    let launcher = pair.sites[0].launcher_pid().expect("it runs");
    assert!(descendants(launcher).contains(&control));
    let none = NoDescriptors::of(&[launcher, control]).expect("prlimit");
    assert!(passes(&pair), "packets go on");
    assert!(Command::new("kill").args(["-9", &engine.to_string()]).status().expect("kill can be run").success());
    std::thread::sleep(Duration::from_secs(2));
    assert!(!passes(&pair) && lines(&pair.sites[0], "engine-not-started") > 0, "{}", pair.sites[0].log());
    drop(none);
    wait_healed(&pair, "no descriptors");
    assert_eq!(pair.sites[0].control_pid().expect("it runs"), control);
}

#[test]
fn sockets_with_hardly_any_buffer_lose_packets_under_a_name_and_no_more_once_they_have_some() {
    let pair = Pair::start(&PairOptions { cores: [2, 2], ..PairOptions::default() }).expect("both sites come up");
    assert!(passes(&pair));
    let tiny = TinyBuffers::of(pair.sites[0].engine_pid().expect("it runs")).expect("its sockets");
    let [left, right] = [0, 1].map(|side| pair.inner(side, Family::V4));
    let udp =
        Udp { flows: 4, rate: 10_000.0, direction: Direction::Both, duration: Duration::from_secs(1), segments: 16, ..Udp::default() };
    let outcome = udp.run(&left, &right).expect("sockets");
    drop(tiny);
    wait_healed(&pair, "tiny buffers");
    let counted = Counters::of(&pair);
    println!("{}; {} overflows; {:?}", outcome.total, counted.counter("receive_queue_overflows"), counted.drops());
    assert!(outcome.total.lost > 0 && outcome.total.duplicate + outcome.total.corrupt == 0, "{}", outcome.total);
    assert!(counted.counter("receive_queue_overflows") > 0, "{counted:?}");
    counted.assert_sums();
}
