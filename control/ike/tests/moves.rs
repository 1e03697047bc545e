//! Given two sites, when a NAT stands between them or an endpoint changes, then both learn of it, and only what has proved itself
//! moves anything.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // a test may fail

mod lab;

use std::net::SocketAddr;

use lab::{EAST, PEER, WEST, World, east_config, west_config};
use penstock_ike::{Config, Dpd, Nat};

const OUTSIDE: &str = "203.0.113.9:31000";
const MOVED: &str = "203.0.113.9:32000";
const ELSEWHERE: &str = "203.0.113.77:4500";

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// West is behind a NAT, asks after four seconds of silence, and reminds its NAT every second.
fn behind_nat(seed: u64) -> World {
    let (mut west, mut east) = (west_config(), east_config());
    (east.endpoint, east.start) = (None, penstock_ike::Start::Wait);
    (west.dpd, west.keepalive_ms) = (Dpd { within_ms: 8_000, ..Dpd::default() }, 1_000);
    let mut world = World::with(seed, Config::default(), Config::default(), west, east);
    world.sites[WEST].outside = Some(at(OUTSIDE));
    begin(world)
}

/// No NAT anywhere.
fn in_the_open(seed: u64) -> World {
    let (west, mut east) = (west_config(), east_config());
    east.start = penstock_ike::Start::Wait;
    begin(World::with(seed, Config::default(), Config::default(), west, east))
}

fn begin(mut world: World) -> World {
    world.initiate(WEST, true);
    world.until(5_000, "both up", World::both_up);
    world.run(200);
    world
}

fn nat(world: &World, who: usize) -> Nat {
    world.ike_sas(who)[0].nat
}

fn remote(world: &World, who: usize) -> SocketAddr {
    world.ike_sas(who)[0].remote
}

/// A packet of west's comes to east from there, as the engine tells it.
fn heard_at(world: &mut World, from: &str) {
    let (spi, _) = world.children(EAST)[0];
    world.with_ike(EAST, |now, ike| ike.peer_moved(now, spi, at(from)));
}

#[test]
fn two_penstocks_tell_each_other_under_protection_which_of_them_is_behind_a_nat() {
    let world = behind_nat(1);
    assert_eq!((nat(&world, WEST), nat(&world, EAST)), (Nat { here: true, there: false }, Nat { here: false, there: true }));
    // Known before the first outbound SA stands, so that none is ever sent from a port that the NAT does not let in.
    assert_eq!(world.sites[EAST].nats, [Nat { here: false, there: true }]);
    assert_eq!(world.sites[WEST].nats, [Nat { here: true, there: false }]);
    assert_eq!(remote(&world, EAST), at(OUTSIDE));

    let world = in_the_open(2);
    assert_eq!((nat(&world, WEST), nat(&world, EAST)), (Nat::default(), Nat::default()), "the pretended NAT is none");
}

#[test]
fn the_side_behind_a_nat_reminds_it_in_time_and_nobody_else_does() {
    let mut world = behind_nat(3);
    world.run(10_000);
    let [west, east] = &world.sites;
    let pauses: Vec<u64> = west.keepalives.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(pauses.len() >= 8 && pauses.iter().all(|pause| *pause == 1_000), "{pauses:?}");
    assert!(west.keepalives.iter().all(|(_, from, to)| (*from, *to) == (west.address, east.address)));
    assert!(east.keepalives.is_empty(), "the other side has no NAT");

    let mut open = in_the_open(4);
    open.run(60_000);
    assert!(open.sites.iter().all(|site| site.keepalives.is_empty()));
}

#[test]
fn a_rekeyed_ike_sa_goes_on_reminding_the_nat_and_following_it() {
    let mut world = behind_nat(5);
    world.with_ike(WEST, |now, ike| ike.renew(now, PEER).expect("it begins"));
    world.run(2_000);
    let before = world.sites[WEST].keepalives.len();
    world.run(5_000);
    assert!(world.sites[WEST].keepalives.len() >= before + 4, "{:?}", world.sites[WEST].keepalives);
    assert_eq!(nat(&world, EAST), Nat { here: false, there: true });
}

#[test]
fn a_nat_that_forgot_is_followed_by_the_next_request_from_behind_it() {
    let mut world = behind_nat(6);
    world.sites[WEST].outside = Some(at(MOVED));
    // West hears nothing and asks; its request comes from the new port.
    world.until(8_000, "east has followed", |world| remote(world, EAST) == at(MOVED));
    let (spi, _) = world.children(EAST)[0];
    let told = world.sites[EAST].redirects.last().copied().expect("its child goes on to there");
    assert_eq!((told.0, told.2, told.3), (spi, at(MOVED), Nat { here: false, there: true }));
    world.run(20_000);
    assert!(world.both_up(), "{}", world.describe());
    assert_eq!(world.sites[EAST].ups, 1, "without a new handshake");
}

#[test]
fn a_packet_from_elsewhere_moves_the_peer_once_that_place_has_answered() {
    let mut world = in_the_open(7);
    // West has another address now, and the old one leads nowhere.
    world.sites[WEST].address = at(ELSEWHERE);
    heard_at(&mut world, ELSEWHERE);
    assert!(world.sites[EAST].redirects.is_empty(), "a packet alone moves nothing");
    world.run(50);
    assert_eq!(remote(&world, EAST), at(ELSEWHERE));
    assert_eq!(world.sites[EAST].redirects.len(), 1);
    assert_eq!(world.sites[EAST].redirects[0].2, at(ELSEWHERE));
    assert!(world.sites[EAST].said("has moved from 192.0.2.1:4500 to 203.0.113.77:4500"), "{}", world.describe());
    assert_eq!(nat(&world, EAST), Nat::default(), "it is still not behind a NAT");
}

#[test]
fn a_packet_names_the_port_of_its_core_and_the_peer_is_found_on_the_port_of_its_ike() {
    let mut world = in_the_open(19);
    world.sites[WEST].address = at(ELSEWHERE);
    heard_at(&mut world, "203.0.113.77:38808");
    world.run(9);
    // Whatever port a core hears IKE on, the answer leaves from the one that all share.
    world.flights.values_mut().filter(|flight| flight.to == EAST).for_each(|flight| flight.from = at(ELSEWHERE));
    world.run(50);
    assert_eq!(remote(&world, EAST), at(ELSEWHERE), "{}", world.describe());
}

#[test]
fn a_request_from_elsewhere_is_asked_after_even_while_another_hint_is_and_in_the_pause_after_it() {
    for later in [20, 5_000] {
        let mut world = in_the_open(20);
        // Somebody else's address first, with a packet of west's.
        heard_at(&mut world, "203.0.113.200:4500");
        world.run(later);
        world.sites[WEST].address = at(ELSEWHERE);
        let (spi, _) = world.children(WEST)[0];
        let (now, site) = (world.now, &mut world.sites[WEST]);
        site.ike.rekey_child(now, spi, &mut site.source).expect("it begins");
        world.drain(WEST);
        world.run(if later < 1_000 { 3_000 } else { 200 });
        assert_eq!(remote(&world, EAST), at(ELSEWHERE), "{}", world.describe());
    }
}

#[test]
fn replayed_packets_from_elsewhere_move_nobody() {
    let mut world = in_the_open(8);
    world.sent.clear();
    for _ in 0..50 {
        heard_at(&mut world, ELSEWHERE);
        world.run(1_000);
    }
    assert_eq!(remote(&world, EAST), at("192.0.2.1:4500"));
    assert!(world.sites[EAST].redirects.is_empty());
    assert!(world.both_up(), "{}", world.describe());
    // At most three tries, one answer from the true place, and a pause.
    let asked = world.sent.iter().filter(|(who, _)| *who == EAST).count();
    assert!(asked <= 50, "{asked} messages in 50 s");
    assert!(world.sites[EAST].said("does not answer; it stays at"), "{}", world.describe());
}

#[test]
fn an_answer_with_another_source_moves_nobody_even_from_where_the_peer_was_heard() {
    for hinted in [false, true] {
        let mut world = in_the_open(9);
        let (spi, _) = world.children(EAST)[0];
        let (now, site) = (world.now, &mut world.sites[EAST]);
        site.ike.rekey_child(now, spi, &mut site.source).expect("it begins");
        world.drain(EAST);
        world.run(3);
        if hinted {
            heard_at(&mut world, ELSEWHERE);
        }
        world.run(6);
        // Somebody on the way gives west's answer another source.
        world.flights.values_mut().filter(|flight| flight.to == EAST).for_each(|flight| flight.from = at(ELSEWHERE));
        world.run(20);
        assert_ne!(world.children(EAST)[0].0, spi, "the answer itself is west's\n{}", world.describe());
        world.run(10_000);
        assert_eq!(remote(&world, EAST), at("192.0.2.1:4500"));
        assert!(world.sites[EAST].redirects.is_empty());
    }
}

#[test]
fn what_is_on_its_way_is_sent_to_the_new_place_too() {
    let mut world = in_the_open(11);
    world.sites[WEST].address = at(ELSEWHERE);
    // East asks for keys, and its request goes where west no longer is.
    let (spi, _) = world.children(EAST)[0];
    let (now, site) = (world.now, &mut world.sites[EAST]);
    site.ike.rekey_child(now, spi, &mut site.source).expect("it begins");
    world.drain(EAST);
    world.run(20);
    heard_at(&mut world, ELSEWHERE);
    world.run(400);
    assert_eq!(remote(&world, EAST), at(ELSEWHERE), "{}", world.describe());
    assert_ne!(world.children(EAST)[0].0, spi, "the rekey came to its end\n{}", world.describe());
}

#[test]
fn a_lost_address_of_this_machine_is_replaced_and_the_peer_follows() {
    let mut world = in_the_open(12);
    let (west, east) = (world.sites[WEST].address, world.sites[EAST].address);
    world.sites[WEST].address = at(ELSEWHERE);
    world.with_ike(WEST, |now, ike| ike.local_gone(now, west.ip()));
    // At once: whatever the kernel chooses.
    assert_eq!(world.sites[WEST].redirects.first().map(|told| (told.1, told.2)), Some((at("0.0.0.0:4500"), east)));
    world.run(200);
    // The answer says which one that is, and east has confirmed it.
    assert_eq!(world.ike_sas(WEST)[0].local, at(ELSEWHERE));
    assert_eq!(world.sites[WEST].redirects.last().map(|told| told.1), Some(at(ELSEWHERE)));
    assert_eq!(remote(&world, EAST), at(ELSEWHERE));
    assert_eq!(world.sites[EAST].redirects.last().map(|told| told.2), Some(at(ELSEWHERE)));
    // An address that nobody uses changes nothing.
    let told = world.sites[WEST].redirects.len();
    world.with_ike(WEST, |now, ike| ike.local_gone(now, west.ip()));
    world.run(200);
    assert_eq!(world.sites[WEST].redirects.len(), told);
}

#[test]
fn a_configured_local_address_is_kept_to() {
    let (mut west, mut east) = (west_config(), east_config());
    (west.local, east.start) = (Some(at("192.0.2.1:0").ip()), penstock_ike::Start::Wait);
    let mut world = begin(World::with(13, Config::default(), Config::default(), west, east));
    world.with_ike(WEST, |now, ike| ike.local_gone(now, at("192.0.2.1:0").ip()));
    assert!(world.sites[WEST].redirects.is_empty());
}

#[test]
fn a_site_that_moves_behind_a_nat_is_known_to_be_there() {
    let mut world = in_the_open(14);
    world.sites[WEST].outside = Some(at(OUTSIDE));
    heard_at(&mut world, OUTSIDE);
    world.run(100);
    assert_eq!((nat(&world, WEST), nat(&world, EAST)), (Nat { here: true, there: false }, Nat { here: false, there: true }));
    let last = |who: usize| world.sites[who].redirects.last().map(|told| told.3);
    assert_eq!((last(WEST), last(EAST)), (Some(nat(&world, WEST)), Some(nat(&world, EAST))));
}

/// The ends of everything that one side sent, as ports.
fn ports(world: &mut World) -> std::rc::Rc<std::cell::RefCell<Vec<(usize, u16, u16)>>> {
    let seen = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let noted = std::rc::Rc::clone(&seen);
    world.tap = Some(Box::new(move |flight| {
        noted.borrow_mut().push((flight.to, flight.from.port(), flight.at.port()));
        Vec::new()
    }));
    seen
}

fn from_port_500(seed: u64) -> World {
    let (mut west, mut east) = (west_config(), east_config());
    (west.endpoint, east.start) = (Some(at("198.51.100.2:500")), penstock_ike::Start::Wait);
    World::with(seed, Config::default(), Config::default(), west, east)
}

#[test]
fn what_begins_on_port_500_goes_on_between_the_ports_of_nat_traversal() {
    let mut world = from_port_500(15);
    let seen = ports(&mut world);
    let world = begin(world);
    let seen = seen.borrow();
    assert_eq!(seen[..2], [(EAST, 500, 500), (WEST, 500, 500)], "IKE_SA_INIT");
    assert!(seen.len() >= 4 && seen[2..].iter().all(|(_, from, to)| (*from, *to) == (4500, 4500)), "{seen:?}");
    assert_eq!((remote(&world, WEST), remote(&world, EAST)), (at("198.51.100.2:4500"), at("192.0.2.1:4500")));
    assert_eq!((nat(&world, WEST), nat(&world, EAST)), (Nat::default(), Nat::default()));
}

#[test]
fn a_peer_that_stays_on_port_500_is_told_that_it_cannot() {
    let mut world = from_port_500(16);
    // Somebody else's IKE: IKE_AUTH comes to port 500 as well.
    world.initiate(WEST, true);
    for _ in 0..2_000 {
        world.run(1);
        world.flights.values_mut().filter(|flight| flight.to == EAST).for_each(|flight| flight.at.set_port(500));
    }
    assert!(!world.up(EAST) && !world.up(WEST) && world.sites[EAST].said("stays on port 500"), "{}", world.describe());
    assert!(world.children(EAST).is_empty());
}

#[test]
fn a_confirmation_that_comes_from_a_third_place_moves_nobody() {
    let mut world = in_the_open(17);
    world.sites[WEST].address = at(ELSEWHERE);
    heard_at(&mut world, ELSEWHERE);
    world.run(9);
    // West is there and answers, and somebody on the way gives the answer yet another source.
    let third = at("203.0.113.5:4500");
    let answers = world.flights.values_mut().filter(|flight| flight.to == EAST).map(|flight| flight.from = third).count();
    assert_eq!(answers, 1);
    world.run(20);
    assert_eq!(remote(&world, EAST), at("192.0.2.1:4500"), "{}", world.describe());
    assert!(world.sites[EAST].redirects.is_empty() && nat(&world, EAST) == Nat::default(), "nor is it taken to be behind a NAT");
}

#[test]
fn a_request_with_another_source_moves_a_peer_at_once_only_behind_a_nat() {
    for (nat, moves) in [(false, false), (true, true)] {
        let mut world = if nat { behind_nat(18) } else { in_the_open(18) };
        let before = remote(&world, EAST);
        let (spi, _) = world.children(WEST)[0];
        let (now, site) = (world.now, &mut world.sites[WEST]);
        site.ike.rekey_child(now, spi, &mut site.source).expect("it begins");
        world.drain(WEST);
        world.run(3);
        let requests = world.flights.values_mut().filter(|flight| flight.to == EAST).map(|flight| flight.from = at(MOVED)).count();
        assert_eq!(requests, 1);
        world.run(10);
        assert_eq!(remote(&world, EAST), if moves { at(MOVED) } else { before }, "{}", world.describe());
    }
}
