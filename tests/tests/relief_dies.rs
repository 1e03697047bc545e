//! Given an engine that is being relieved by another, when anything of the site dies by `kill -9` on the way, then packets flow again by
//! themselves, and one engine is left.
//!
//! CI tries each a few times, at moments spread over the way. The long form:
//! `PENSTOCK_RELIEFS=30 cargo test -p penstock-tests --test relief_dies -- --nocapture`.

use std::process::Child;
use std::time::{Duration, Instant};

use penstock_perf::lab::{Family, Pair, PairOptions, descendants, kill, name_of, stand_still};
use penstock_perf::load::{Direction, Udp};
use penstock_tests::counters::Counters;

fn times() -> u32 {
    std::env::var("PENSTOCK_RELIEFS").ok().map_or(4, |text| text.parse().expect("a number"))
}

/// The engines of a site, the older one first.
fn engines(launcher: u32) -> Vec<u32> {
    let mut all: Vec<u32> =
        descendants(launcher).into_iter().filter(|pid| name_of(*pid).is_some_and(|name| name == "penstock-engine")).collect();
    all.sort_unstable();
    all
}

fn order(pair: &Pair) -> Child {
    let mut command = pair.sites[0].penstock_command().expect("it is built");
    command.args(["upgrade", "engine"]).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    command.spawn().expect("the command")
}

/// Which process dies.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Control,
    OldEngine,
    NewEngine,
}

/// Kills the victim `after` this time; how long it took until a whole burst came through both ways, or `None` if there was nobody to kill.
fn dies(pair: &Pair, victim: Victim, after: Duration) -> Option<Duration> {
    let launcher = pair.sites[0].launcher_pid().expect("it runs");
    // A control that dies again and again is started again after longer and longer pauses, five seconds at most.
    let control = pair.sites[0].wait_new_control(0, Duration::from_secs(10)).expect("it answers");
    let old = pair.sites[0].wait_new_engine(0, Duration::from_secs(5)).expect("an engine runs");
    let mut command = order(pair);
    std::thread::sleep(after);
    let new = || engines(launcher).into_iter().find(|pid| *pid != old);
    let target = match victim {
        Victim::Control => Some(control),
        Victim::OldEngine => Some(old),
        Victim::NewEngine => new(),
    };
    // It may have ended by itself in this moment.
    let _ = target.map(kill);
    let killed = Instant::now();
    let _ = command.wait();
    target?;
    let [left, right] = [0, 1].map(|side| pair.inner(side, Family::V4));
    let burst = Udp { flows: 4, count: 25, rate: 500.0, direction: Direction::Both, linger: Duration::from_millis(100), ..Udp::default() };
    let back = loop {
        let begun = killed.elapsed();
        if burst.run(&left, &right).expect("sockets").total.is_perfect() {
            break begun;
        }
        assert!(begun < Duration::from_secs(8), "{victim:?} after {after:?}\n{}", Counters::picture(pair));
    };
    // What was relieved ends by itself, and so does what was to relieve it.
    while engines(launcher).len() > 1 {
        assert!(killed.elapsed() < Duration::from_secs(25), "{victim:?} after {after:?}: two engines stay\n{}", pair.sites[0].log());
        std::thread::sleep(Duration::from_millis(50));
    }
    Some(back)
}

fn all_moments(victim: Victim) {
    let pair = Pair::start(&PairOptions { cores: [2, 2], ..PairOptions::default() }).expect("both sites come up");
    let mut backs = Vec::new();
    for number in 0..times() {
        // An upgrade takes some 60 to 100 ms.
        let after = Duration::from_millis(u64::from(number * 120 / times()));
        backs.extend(dies(&pair, victim, after));
    }
    assert!(!backs.is_empty(), "nobody died");
    // The site can still do it.
    let start = Instant::now();
    loop {
        let output = pair.sites[0].penstock(&["upgrade", "engine"]).expect("the command");
        if output.status.success() {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(15), "{output:?}\n{}", pair.sites[0].log());
        std::thread::sleep(Duration::from_millis(200));
    }
    let [left, right] = [0, 1].map(|side| pair.inner(side, Family::V4));
    let udp = Udp { flows: 4, count: 500, rate: 1000.0, direction: Direction::Both, ..Udp::default() };
    let total = udp.run(&left, &right).expect("sockets").total;
    assert!(total.is_perfect(), "{total}\n{}", Counters::picture(&pair));
    println!("{victim:?} killed {} times: all flows were back before {backs:.2?}", backs.len());
}

#[test]
fn control_dies_in_the_moment_in_which_the_queues_change_hands() {
    let pair = Pair::start(&PairOptions { cores: [2, 2], ..PairOptions::default() }).expect("both sites come up");
    let launcher = pair.sites[0].launcher_pid().expect("it runs");
    let (control, old) = (pair.sites[0].control_pid().expect("it answers"), pair.sites[0].engine_pid().expect("an engine runs"));
    // An engine that stands still cannot leave its queues: the moment lasts.
    stand_still(old).expect("it runs");
    let mut command = order(&pair);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(engines(launcher).len(), 2, "{}", pair.sites[0].log());
    kill(control).expect("it runs");
    let _ = command.wait();
    let killed = Instant::now();
    let [left, right] = [0, 1].map(|side| pair.inner(side, Family::V4));
    let burst = Udp { flows: 4, count: 25, rate: 500.0, direction: Direction::Both, linger: Duration::from_millis(100), ..Udp::default() };
    while !burst.run(&left, &right).expect("sockets").total.is_perfect() {
        assert!(killed.elapsed() < Duration::from_secs(8), "{}", Counters::picture(&pair));
    }
    println!("all flows were back before {:.2?}", killed.elapsed());
    let left = engines(launcher);
    assert!(left.len() == 1 && !left.contains(&old), "{left:?}, {old} stood still\n{}", pair.sites[0].log());
    assert!(pair.sites[0].log().contains("event=engines-ended"), "{}", pair.sites[0].log());
}

#[test]
fn control_dies_while_an_engine_is_relieved() {
    all_moments(Victim::Control);
}

#[test]
fn the_old_engine_dies_while_it_is_relieved() {
    all_moments(Victim::OldEngine);
}

#[test]
fn the_new_engine_dies_before_or_after_it_has_taken_over() {
    all_moments(Victim::NewEngine);
}
