//! One engine relieves another: who reads the TUN queue when, and who ends.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use penstock_uapi::reply::HandBack;
use penstock_uapi::request::{AttachCore, Shutdown, Start, TakeQueues, feature};
use penstock_uapi::{Counter, Kind, Role, Status};
use zerocopy::little_endian::{U16, U32, U64};

use super::client::Client;
use super::site::{Engine, Options, POLICY, Pairing, directory};

const TAKE: TakeQueues = TakeQueues { reserved: U32::ZERO };

/// What a site's engine hands back for its one core, in travelling order.
fn descriptors(pair: &mut Pairing) -> Vec<(Role, OwnedFd)> {
    let client = &mut pair.sites[0].client;
    *client = Client::connect(&pair.sites[0].engine.socket);
    // The engine hears of the end of the last writer a moment later.
    let deadline = Instant::now() + Duration::from_secs(5);
    let answers = loop {
        match client.hello(true) {
            Ok(answers) => break answers,
            Err(status) => assert!(status == Status::NotWriter && Instant::now() < deadline, "{status:?}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let answer = answers.into_iter().find(|answer| answer.kind == Kind::HandBack).expect("one core");
    let roles = Role::in_mask(answer.body::<HandBack>().roles.get()).expect("known roles").collect::<Vec<_>>();
    roles.into_iter().zip(answer.descriptors).filter(|(role, _)| *role != Role::Listen).collect()
}

fn attach(client: &mut Client, parts: &[(Role, &OwnedFd)]) {
    let roles = parts.iter().fold(0, |bits, (role, _)| bits | role.bit());
    let fds: Vec<_> = parts.iter().map(|(_, fd)| fd.as_fd()).collect();
    let attach = AttachCore { core: U16::ZERO, cpu: U16::ZERO, roles: U32::new(roles) };
    client.ask_with(&attach, &[], &fds).expect("they fit");
}

fn waiting(set: u8) -> Start {
    Start {
        cores: U16::new(1),
        mtu: U16::new(1418),
        vnet_header_bytes: 10,
        generation: 2,
        features: U16::new(feature::ALL),
        poll_us: U32::ZERO,
        drop_stale: 0,
        set,
        waits: 1,
        reserved: 0,
    }
}

/// Datagrams into the device of the first site.
fn send(pair: &Pairing, count: u32) {
    let to = SocketAddr::new(pair.host(1, false).address, 9);
    let from = SocketAddr::new(pair.host(0, false).address, 0);
    let socket = pair.sites[0].namespace.enter(|| UdpSocket::bind(from)).expect("inside").expect("our address");
    for _ in 0..count {
        socket.send_to(b"from inside", to).expect("the route leads into the device");
    }
    std::thread::sleep(Duration::from_millis(200));
}

fn read(client: &mut Client) -> u64 {
    client.state().counter(Counter::OutboundPackets)
}

fn relieves(without: &'static str) {
    let mut pair = Pairing::new(&Options { without, ..Options::default() });
    let parts = descriptors(&mut pair);
    let parts: Vec<_> = parts.iter().map(|(role, fd)| (*role, fd)).collect();
    let mut engine = Engine::start(&directory("next"), &Options { without, ..Options::default() });
    let mut next = Client::connect(&engine.socket);
    next.hello(true).expect("the writer");
    attach(&mut next, &parts);
    assert_eq!(next.ask(&waiting(2)).err(), Some(Status::Malformed));
    assert_eq!(next.ask(&waiting(1)).err(), Some(Status::Order), "the second set was not handed over");
    next.ask(&waiting(0)).expect("it runs");

    // Given one that waits beside one that runs, when packets come, then the one that runs has all of them.
    let before = read(&mut pair.sites[0].client);
    send(&pair, 20);
    let after = read(&mut pair.sites[0].client);
    assert!(after >= before + 20, "{before} {after}");
    assert_eq!(read(&mut next), 0);

    // When it is told to leave, then nobody has them, and they wait.
    pair.sites[0].client.ask(&Shutdown { drain_ms: U32::new(60_000) }).expect("it leaves");
    let left = read(&mut pair.sites[0].client);
    send(&pair, 20);
    assert_eq!((read(&mut pair.sites[0].client), read(&mut next)), (left, 0));

    // When the other takes the queues, then it has those that waited, and those that come.
    next.ask(&TAKE).expect("it reads");
    send(&pair, 20);
    let taken = read(&mut next);
    assert!(taken >= 40, "{taken}");
    assert_eq!(read(&mut pair.sites[0].client), left);
    assert_eq!(next.ask(&TAKE).err(), Some(Status::Order), "they are its own already");

    // And it adds what the old one has counted to what it counts.
    let counted = pair.sites[0].client.state();
    next.ask(&counted.cores[0]).expect("a core");
    let mut policy = counted.policies[0];
    policy.outbound_packets = U64::new(1_000);
    next.ask(&policy).expect("a policy");
    assert_eq!(read(&mut next), taken + left);
    assert!(next.state().policies.iter().all(|state| state.policy.get() != POLICY), "it has no such policy");

    // The old one ends sooner when it is told so, and no later.
    pair.sites[0].client.ask(&Shutdown { drain_ms: U32::new(120_000) }).expect("no later");
    pair.sites[0].client.ask(&Shutdown { drain_ms: U32::ZERO }).expect("now");
    let deadline = Instant::now() + Duration::from_secs(5);
    while pair.sites[0].engine.lives() {
        assert!(Instant::now() < deadline, "it was told to end");
        std::thread::sleep(Duration::from_millis(10));
    }
    // The one in its place outlives its writer now.
    drop(next);
    std::thread::sleep(Duration::from_millis(300));
    assert!(engine.lives());
}

#[test]
fn queues_change_hands_between_rings() {
    relieves("");
}

#[test]
fn queues_change_hands_between_plain_calls() {
    relieves("ring");
}

#[test]
fn queues_change_hands_where_each_read_is_asked_for() {
    relieves("read-multishot");
}

#[test]
fn an_engine_that_waits_ends_with_its_writer() {
    let mut pair = Pairing::new(&Options::default());
    let parts = descriptors(&mut pair);
    let parts: Vec<_> = parts.iter().map(|(role, fd)| (*role, fd)).collect();
    let mut engine = Engine::start(&directory("next"), &Options::default());
    let mut next = Client::connect(&engine.socket);
    next.hello(true).expect("the writer");
    attach(&mut next, &parts);
    assert_eq!(next.ask(&TAKE).err(), Some(Status::Order), "before the start");
    next.ask(&waiting(0)).expect("it runs");
    assert!(engine.lives());
    drop(next);
    let deadline = Instant::now() + Duration::from_secs(5);
    while engine.lives() {
        assert!(Instant::now() < deadline, "nobody will tell it to take the queues");
        std::thread::sleep(Duration::from_millis(10));
    }
    // One that runs goes on without a writer.
    pair.sites[0].client = Client::connect(&pair.sites[0].engine.socket);
    assert!(pair.sites[0].engine.lives());
}
