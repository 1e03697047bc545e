//! What the engine refuses, and with which word; and what a new control gets from it.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use penstock_uapi::reply::{HandBack, Welcome, phase};
use penstock_uapi::request::{
    AttachCore, ExpectSpi, Hello, Inject, InstallInbound, InstallOutbound, Limits, MAGIC, PolicyBegin, PolicyCommit, Redirect, Retire,
    Start, feature, source, switch,
};
use penstock_uapi::{Counter, Endpoint, Kind, Role, Spi, Status, VERSION};
use zerocopy::little_endian::{U16, U32, U64};

use super::client::Client;
use super::site::{Engine, Options, POLICY, Pairing, directory, key, key_of};

fn inbound(spi: u32, key: &[u8; 36]) -> InstallInbound {
    InstallInbound {
        spi: U32::new(spi),
        policy: U32::new(POLICY),
        window: U32::new(4096),
        reserved: U32::ZERO,
        limits: Limits::default(),
        key: key_of(key),
    }
}

fn outbound(inbound_spi: u32, key: &[u8; 36]) -> InstallOutbound {
    let remote: SocketAddr = "10.0.0.2:4500".parse().expect("an address");
    InstallOutbound {
        spi: U32::new(0x1234_5678),
        inbound_spi: U32::new(inbound_spi),
        policy: U32::new(POLICY),
        switch: switch::NOW,
        source: source::OWN,
        fallback: 0,
        per_core: 0,
        switch_ms: U32::ZERO,
        dscp: 255,
        reserved: [0; 3],
        local: Endpoint::NONE,
        remote: Endpoint::from(remote),
        limits: Limits::default(),
        key: key_of(key),
    }
}

fn spi(number: u32, core: u8) -> u32 {
    Spi::compose(number, 1, core).expect("not zero").value()
}

#[test]
fn before_the_start_nothing_can_be_installed() {
    let engine = Engine::start(&directory("order"), &Options::default());
    let mut client = Client::connect(&engine.socket);
    assert_eq!(client.ask(&PolicyBegin { generation: U64::new(1) }).err(), Some(Status::Order), "before hello");
    let mut hello = Hello { magic: U32::new(MAGIC), version: U16::new(VERSION + 1), writer: 1, reserved: 0 };
    assert_eq!(client.ask(&hello).err(), Some(Status::Version));
    hello.magic = U32::new(MAGIC + 1);
    assert_eq!(client.ask(&hello).err(), Some(Status::Malformed));
    let welcome = client.hello(true).expect("the first writer");
    let welcome: &Welcome = welcome[0].body();
    assert_eq!((welcome.cores.get(), welcome.hand_backs.get(), welcome.pid.get()), (0, 0, engine.pid()));
    assert_eq!(client.hello(true).err(), Some(Status::Order), "twice");
    assert_eq!(client.ask(&PolicyBegin { generation: U64::new(1) }).err(), Some(Status::Order));
    assert_eq!(client.ask(&ExpectSpi { spi: U32::new(spi(1, 0)), policy: U32::new(1) }).err(), Some(Status::Order));
    assert_eq!(client.ask(&inbound(spi(1, 0), &key())).err(), Some(Status::Order));
    assert_eq!(client.ask(&outbound(spi(1, 0), &key())).err(), Some(Status::Order));
    let start = Start {
        cores: U16::new(1),
        mtu: U16::new(1400),
        vnet_header_bytes: 10,
        generation: 0,
        features: U16::new(feature::ALL),
        poll_us: U32::ZERO,
        drop_stale: 0,
        set: 0,
        waits: 0,
        reserved: 0,
    };
    assert_eq!(client.ask(&start).err(), Some(Status::Order), "nothing attached");
    assert_eq!(client.ask(&Start { mtu: U16::new(10), ..start }).err(), Some(Status::Malformed));

    let mut second = Client::connect(&engine.socket);
    assert_eq!(second.hello(true).err(), Some(Status::NotWriter));
    second.hello(false).expect("a reader");
    assert_eq!(second.ask(&start).err(), Some(Status::NotWriter));
    assert!(second.state().cores.is_empty());
}

#[test]
fn descriptors_must_be_what_they_are_said_to_be() {
    let engine = Engine::start(&directory("descriptors"), &Options::default());
    let mut client = Client::connect(&engine.socket);
    client.hello(true).expect("the writer");
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    let null = std::fs::File::open("/dev/null").expect("a file");
    let tun = std::fs::File::open("/dev/net/tun").expect("a file");
    let (udp, tcp, null, tun) = (udp.as_fd(), tcp.as_fd(), null.as_fd(), tun.as_fd());
    let [t, s, o] = [Role::Tun, Role::Shared4, Role::Own4].map(Role::bit);
    let cases = [
        (t | s | o, vec![tun, udp], Status::Descriptors),
        (t | s | o, vec![null, udp, udp], Status::Descriptors),
        (t | s | o, vec![tun, udp, tcp], Status::Descriptors),
        (t | Role::Shared6.bit() | Role::Own6.bit(), vec![tun, udp, udp], Status::Descriptors),
        (t | s, vec![tun, udp], Status::Descriptors),
        (s | o, vec![udp, udp], Status::Descriptors),
        (t | s | o | Role::Listen.bit(), vec![tun, udp, udp, udp], Status::Descriptors),
        (t | s | o | 1 << 20, vec![tun, udp, udp], Status::Malformed),
    ];
    for (roles, descriptors, expected) in cases {
        let attach = AttachCore { core: U16::ZERO, cpu: U16::ZERO, roles: U32::new(roles) };
        assert_eq!(client.ask_with(&attach, &[], &descriptors).err(), Some(expected), "{roles:b}");
    }
    let attach = AttachCore { core: U16::new(256), cpu: U16::ZERO, roles: U32::new(t | s | o) };
    assert_eq!(client.ask_with(&attach, &[], &[tun, udp, udp]).err(), Some(Status::Unknown));
    let attach = AttachCore { core: U16::ZERO, ..attach };
    client.ask_with(&attach, &[], &[tun, udp, udp]).expect("these fit");
    assert_eq!(client.ask_with(&attach, &[], &[tun, udp, udp]).err(), Some(Status::Exists));
    let begin = PolicyBegin { generation: U64::new(1) };
    assert_eq!(client.ask_with(&begin, &[], &[udp]).err(), Some(Status::Descriptors));
}

#[test]
fn pairs_come_in_their_order_and_keys_only_once() {
    let mut pair = Pairing::new(&Options::default());
    let client = &mut pair.sites[0].client;
    let (one, two, three) = (spi(500, 0), spi(501, 0), spi(502, 0));
    let used = key();
    assert_eq!(client.ask(&outbound(one, &key())).err(), Some(Status::Order), "outbound first");
    client.ask(&ExpectSpi { spi: U32::new(one), policy: U32::new(POLICY) }).expect("announced");
    assert_eq!(client.ask(&ExpectSpi { spi: U32::new(one), policy: U32::new(POLICY) }).err(), Some(Status::Exists));
    assert_eq!(client.ask(&outbound(one, &key())).err(), Some(Status::Order), "only announced");
    client.ask(&inbound(one, &used)).expect("installed");
    assert_eq!(client.ask(&inbound(one, &key())).err(), Some(Status::Exists));
    assert_eq!(client.ask(&inbound(two, &used)).err(), Some(Status::Exists), "the same key");
    assert_eq!(client.ask(&outbound(one, &used)).err(), Some(Status::Exists), "the same key outbound");
    client.ask(&outbound(one, &key())).expect("installed");
    assert_eq!(client.ask(&outbound(one, &key())).err(), Some(Status::Exists));
    let cases = [
        (InstallInbound { policy: U32::new(99), ..inbound(two, &key()) }, Status::Unknown),
        (InstallInbound { window: U32::new(64), ..inbound(two, &key()) }, Status::Malformed),
        (inbound(spi(500, 9), &key()), Status::Unknown),
        (inbound(255, &key()), Status::Malformed),
    ];
    for (request, expected) in cases {
        assert_eq!(client.ask(&request).err(), Some(expected), "{request:?}");
    }
    let mut wrong = inbound(two, &key());
    wrong.key.suite = 9;
    assert_eq!(client.ask(&wrong).err(), Some(Status::Malformed));
    client.ask(&inbound(two, &key())).expect("a refused request has changed nothing");
    for request in [
        InstallOutbound { remote: Endpoint::NONE, ..outbound(two, &key()) },
        InstallOutbound { policy: U32::new(99), ..outbound(two, &key()) },
        InstallOutbound { spi: U32::new(255), ..outbound(two, &key()) },
        InstallOutbound { dscp: 64, ..outbound(two, &key()) },
        InstallOutbound { source: 2, ..outbound(two, &key()) },
    ] {
        assert_eq!(client.ask(&request).err(), Some(Status::Malformed), "{request:?}");
    }
    // What is redirected must be able to send, and to there.
    let there: std::net::SocketAddr = "127.0.0.1:4500".parse().expect("an address");
    let to = |spi| Redirect { spi: U32::new(spi), source: 1, reserved: [0; 3], local: Endpoint::NONE, remote: there.into() };
    client.ask(&to(one)).expect("redirected");
    let moved = client.state().sas.iter().find(|sa| sa.inbound_spi.get() == one).and_then(|sa| sa.remote.to_socket());
    assert_eq!(moved, Some(there));
    let v6: std::net::SocketAddr = "[::1]:0".parse().expect("an address");
    for (request, expected) in [
        (to(three), Status::Unknown),
        (to(two), Status::Order),
        (to(255), Status::Malformed),
        (Redirect { remote: Endpoint::NONE, ..to(one) }, Status::Malformed),
        (Redirect { source: 2, ..to(one) }, Status::Malformed),
        (Redirect { local: v6.into(), ..to(one) }, Status::Malformed),
    ] {
        assert_eq!(client.ask(&request).err(), Some(expected), "{request:?}");
    }
    // A retired pair is gone, but its key is remembered.
    client.ask(&Retire { spi: U32::new(one), drain_ms: U32::ZERO }).expect("retired");
    assert_eq!(client.ask(&Retire { spi: U32::new(one), drain_ms: U32::ZERO }).err(), Some(Status::Unknown));
    assert_eq!(client.ask(&inbound(three, &used)).err(), Some(Status::Exists));
    client.ask(&Retire { spi: U32::new(two), drain_ms: U32::new(60_000) }).expect("retired");
    assert!(client.state().sas.iter().any(|sa| sa.inbound_spi.get() == two && sa.phase == phase::DRAINING));
    assert_eq!(client.ask(&outbound(two, &key())).err(), Some(Status::Order), "it is ending");
    // A table without the policy takes its pairs with it.
    let generation = U64::new(9);
    client.ask(&PolicyBegin { generation }).expect("a table begins");
    assert_eq!(client.ask(&PolicyCommit { generation, policies: U32::new(1), pairs: U32::ZERO }).err(), Some(Status::Malformed));
    assert!(!client.state().sas.is_empty(), "a refused table has changed nothing");
    client.ask(&PolicyBegin { generation }).expect("a table begins");
    client.ask(&PolicyCommit { generation, policies: U32::ZERO, pairs: U32::ZERO }).expect("an empty table");
    let state = client.state();
    assert!(state.sas.is_empty() && state.policies.is_empty(), "{:?}", state.sas);
    assert_eq!(client.ask(&PolicyBegin { generation }).err(), Some(Status::Exists));
}

#[test]
fn strays_from_control_reach_their_core_and_unknown_ones_are_told() {
    let mut pair = Pairing::new(&Options { cores: 2, ..Options::default() });
    let client = &mut pair.sites[0].client;
    let from = Endpoint::from(Some("10.0.0.2:4500".parse().expect("an address")));
    let inject = Inject { from, to: Endpoint::NONE, tos: 0, reserved: [0; 3] };
    let mut frame = [0; 64];
    for core in [0, 1] {
        frame[..4].copy_from_slice(&spi(0x3_1234, core).to_be_bytes());
        client.ask_with(&inject, &frame, &[]).expect("it is a packet");
    }
    frame[..4].copy_from_slice(&spi(1, 77).to_be_bytes());
    assert_eq!(client.ask_with(&inject, &frame, &[]).err(), Some(Status::Unknown));
    assert_eq!(client.ask_with(&inject, &[1, 2, 3], &[]).err(), Some(Status::Malformed));
    let state = pair.sites[0].settled();
    assert_eq!(state.counter(Counter::InboundHandoffIn), 2);
    let events: Vec<Kind> = pair.sites[0].client.events.iter().map(|event| event.kind).collect();
    assert_eq!(events.iter().filter(|kind| **kind == Kind::UnknownSpi).count(), 2, "{events:?}");
}

/// Control dies, packets go on, and the next control gets every descriptor back.
#[test]
fn a_new_control_adopts_what_runs() {
    let mut pair = Pairing::new(&Options { cores: 2, ..Options::default() });
    let site = &mut pair.sites[0];
    let before = site.client.state();
    let mut client = Client::connect(&site.engine.socket);
    assert_eq!(client.hello(true).err(), Some(Status::NotWriter), "the first one lives");
    let old = std::mem::replace(&mut site.client, client);
    drop(old);
    let answers = (0..100).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        site.client.hello(true).ok()
    });
    let answers = answers.expect("the first one is gone");
    let welcome: Welcome = *answers[0].body();
    assert_eq!((welcome.cores.get(), welcome.hand_backs.get(), welcome.policy_generation.get()), (2, 2, 1));
    for (core, answer) in answers[1..].iter().enumerate() {
        let hand_back: &HandBack = answer.body();
        assert_eq!(usize::from(hand_back.core.get()), core);
        let roles: Vec<Role> = Role::in_mask(hand_back.roles.get()).expect("known roles").collect();
        assert_eq!(roles.len(), answer.descriptors.len());
        assert_eq!(roles.contains(&Role::Listen), core == 0);
        assert_eq!(roles.contains(&Role::Ike4), core == 0);
        let tun = roles.iter().zip(&answer.descriptors).find(|(role, _)| **role == Role::Tun).expect("a queue").1;
        let own = roles.iter().zip(&answer.descriptors).find(|(role, _)| **role == Role::Own4).expect("a socket").1;
        assert!(penstock_engine::tun::queue::is_tun(tun));
        let port = socket2::SockRef::from(own).local_addr().expect("bound").as_socket().expect("an address").port();
        assert_ne!(port, 0);
    }
    assert_eq!(answers.len(), 3);
    let after = site.client.state();
    assert_eq!(after.sas.len(), before.sas.len());
    site.set_policies(2);
    assert_eq!(site.client.state().sas.len(), before.sas.len(), "pairs outlive a table that has their policy");
}
