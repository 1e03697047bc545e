//! Whole screens.

use std::time::Duration;

use super::{Options, render};
use crate::admin::{Core, Engine, Ike, Interface, Peer, PeerState, SCHEMA, Sa, Sandbox, Site, State, Traffic};
use penstock_uapi::reply::protection;

fn sa(core: u16, phase: &str) -> Sa {
    Sa {
        core,
        inbound_spi: format!("1a2b3c0{core}"),
        outbound_spi: if phase == "expected" { String::new() } else { format!("deadbe0{core}") },
        suite: if phase == "expected" { String::new() } else { "aes256-gcm".into() },
        esn: true,
        phase: phase.into(),
        fallback: core == 0,
        source_port: "own".into(),
        age_ms: 184_000,
        outbound: Traffic { packets: 9, bytes: 9000 },
        inbound: Traffic { packets: 1, bytes: 900 },
        ..Sa::default()
    }
}

/// Two peers, one down; two cores; some drops.
pub(crate) fn state() -> State {
    let core = |core: u16| Core {
        core,
        cpu: core + 2,
        ring: core == 0,
        asleep: core == 1,
        parked: 0,
        waiting: 0,
        counters: [("sent_packets", 1200), ("udp_sends", 100), ("opened_packets", 7), ("receive_queue_overflows", 3)]
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
        drops: [("source_not_local", 2), ("replay", 0)].map(|(name, value)| (name.to_owned(), value)).into(),
    };
    let mut state = State {
        schema: SCHEMA,
        site: Site {
            name: "frankfurt".into(),
            port: 4500,
            pid: 70,
            age_ms: 7_500_000,
            config: "/etc/penstock/penstock.toml".into(),
            version: "0.1.0".into(),
            ..Site::default()
        },
        engine: Engine { running: true, pid: 71, age_ms: 7_400_000, generation: 1, starts: 2, ..Engine::default() },
        interface: Interface { name: "pen0".into(), addresses: vec!["192.168.192.1/30".into()], mtu: 1438 },
        peers: vec![
            Peer {
                name: "berlin".into(),
                state: PeerState::Up,
                since_ms: 184_000,
                endpoint: "vpn.example.net:4500".into(),
                remote: "198.51.100.9:4500".parse().ok(),
                local_subnets: vec!["10.43.43.0/24".into()],
                subnets: vec!["10.44.0.0/16".into(), "10.45.0.0/16".into()],
                outbound: Traffic { packets: 1234, bytes: 1_500_000 },
                inbound: Traffic { packets: 5, bytes: 420 },
                idle_ms: Some(40),
                ike: Some(Ike {
                    initiator_spi: "0102030405060708".into(),
                    responder_spi: "1112131415161718".into(),
                    initiated: true,
                    proposal: "aes256-gcm, x25519".into(),
                    age_ms: 184_100,
                    rekey_in_ms: None,
                    nat_here: false,
                    nat_there: true,
                }),
                sas: vec![sa(1, "expected"), sa(0, "active")],
                ..Peer::default()
            },
            Peer {
                name: "london".into(),
                state: PeerState::Connecting,
                since_ms: 12_000,
                reason: Some("no answer from 203.0.113.7:4500".into()),
                remedy: Some("is UDP port 4500 open there? does its penstockd run?".into()),
                retry_in_ms: Some(4000),
                attempts: 3,
                endpoint: "203.0.113.7:4500".into(),
                local_subnets: vec!["10.43.43.0/24".into()],
                subnets: vec!["10.43.100.0/24".into()],
                psk_weak: Some("it has 6 characters that are worth 28 bits at most, and 128 are needed".into()),
                ..Peer::default()
            },
        ],
        cores: vec![core(0), core(1)],
        ..State::default()
    };
    state.engine.set_features(penstock_uapi::request::feature::ALL & !penstock_uapi::request::feature::USO);
    state.engine.sandbox = Sandbox::new(protection::NAMES.iter().fold(0, |mask, (bit, ..)| mask | bit), 7);
    state.sum_drops();
    state
}

const SCREEN: &str = "\
frankfurt: 1 of 2 peers not up

CONNECTING  london  203.0.113.7:4500  for 12 s, 3 attempts, next in 4 s
  why   no answer from 203.0.113.7:4500
  try   is UDP port 4500 open there? does its penstockd run?
  weak key: it has 6 characters that are worth 28 bits at most, and 128 are needed; replace it at both sites (penstock key psk)
  net   10.43.43.0/24 <-> 10.43.100.0/24

UP  berlin  vpn.example.net:4500 (at 198.51.100.9:4500)  for 3 min 4 s
  net   10.43.43.0/24 <-> 10.44.0.0/16, 10.45.0.0/16
  out   1.5 MB in 1,234 packets
  in    420 B in 5 packets  last 40 ms ago
  IKE   0102030405060708/1112131415161718  aes256-gcm, x25519  started by us, 3 min 4 s ago, it is behind a NAT
  core  SPI in    SPI out   suite       ESN  phase             age        out     in     port
  0     1a2b3c00  deadbe00  aes256-gcm  yes  active, fallback  3 min 4 s  9.0 kB  900 B  own
  1     1a2b3c01  -         -           yes  expected          3 min 4 s  9.0 kB  900 B  own

interface  pen0  192.168.192.1/30  MTU 1438
receives   UDP port 4500 on all addresses
engine     pid 71, up 2 h 3 min, generation 1, started again once; with ring, read-multishot, gather, gro, gso; without uso
sandbox    full, Landlock ABI 7
control    pid 70, up 2 h 5 min, version 0.1.0, /etc/penstock/penstock.toml

core  CPU  calls  now     out packets  a send  in packets  a receive  moves
0     2    ring   busy    1,200        12.0    7           -          0
1     3    plain  asleep  1,200        12.0    7           -          0

drops
  4  source_not_local  the source is in no local_subnets: a masquerade rule?

also
  6  receive_queue_overflows  datagrams lost before us, the socket's buffer was full: raise net.core.rmem_max
";

#[test]
fn the_screen_begins_with_what_is_down() {
    assert_eq!(render(&state(), Options::default()), SCREEN);
}

#[test]
fn one_peer_is_shown_alone() {
    let screen = render(&state(), Options { peer: Some("berlin"), ..Options::default() });
    assert!(
        screen.starts_with("UP  berlin") && !screen.contains("london") && !screen.contains("drops") && !screen.contains("interface"),
        "{screen}"
    );
}

#[test]
fn rates_come_from_two_states() {
    let (before, mut now) = (state(), state());
    if let Some(peer) = now.peers.first_mut() {
        peer.outbound.bytes += 1_250_000;
    }
    let screen = render(&now, Options { before: Some((&before, Duration::from_secs(1))), ..Options::default() });
    assert!(screen.contains("  out   2.8 MB in 1,234 packets  10.0 Mbit/s\n"), "{screen}");
    assert!(screen.contains("  in    420 B in 5 packets  0 bit/s  last 40 ms ago\n"), "{screen}");
}

#[test]
fn colour_adds_to_the_words_and_takes_nothing_away() {
    let screen = render(&state(), Options { colour: true, ..Options::default() });
    assert!(screen.contains("\u{1b}[1;33mCONNECTING\u{1b}[0m  london") && screen.contains("\u{1b}[1;32mUP\u{1b}[0m  berlin"), "{screen}");
    let plain = ["\u{1b}[1;31m", "\u{1b}[1;32m", "\u{1b}[1;33m", "\u{1b}[0m"].iter().fold(screen, |text, code| text.replace(code, ""));
    assert_eq!(plain, SCREEN);
}

#[test]
fn text_of_the_other_side_cannot_drive_the_terminal() {
    let mut state = state();
    if let Some(peer) = state.peers.last_mut() {
        peer.reason = Some("peer says: \u{1b}[2J\r\nUP  london".into());
    }
    let screen = render(&state, Options::default());
    assert!(!screen.contains('\u{1b}') && !screen.contains('\r') && !screen.contains("\nUP  london"), "{screen}");
}

#[test]
fn a_dead_engine_and_an_empty_site_are_said_at_the_top() {
    let mut state = state();
    state.peers.clear();
    state.cores.clear();
    state.drops.clear();
    state.engine = Engine { reason: Some("killed by signal 9".into()), ..Engine::default() };
    let screen = render(&state, Options::default());
    let top: Vec<_> = screen.lines().take(2).collect();
    assert_eq!(
        top,
        [
            "frankfurt: no peer is configured; add [peer.NAME] to /etc/penstock/penstock.toml",
            "no engine: killed by signal 9; nothing passes, and nothing leaves in clear"
        ]
    );
    assert!(screen.ends_with("\nno drops\n") && !screen.contains("engine     pid"), "{screen}");
}

#[test]
fn a_change_that_waits_to_be_confirmed_says_for_how_long() {
    let mut state = state();
    assert!(!render(&state, Options::default()).contains("not confirmed"));
    state.site.rolled_back_in_ms = Some(25_400);
    let screen = render(&state, Options::default());
    assert!(screen.contains("\nnot confirmed: the last apply is rolled back in 25 s unless you keep it: penstock confirm\n"), "{screen}");
}

#[test]
fn a_weaker_sandbox_says_what_is_missing_and_what_it_takes() {
    let mut state = state();
    state.engine.sandbox = Sandbox::new(protection::CALLS | protection::FILES, 3);
    let screen = render(&state, Options::default());
    assert!(screen.contains("\nsandbox    reduced, Landlock ABI 3\n") && !screen.contains("without files"), "{screen}");
    assert!(screen.contains("\n             without ports:       Linux 6.7 or newer with Landlock\n"), "{screen}");
    state.engine.sandbox = Sandbox::new(0, 0);
    let screen = render(&state, Options::default());
    assert!(screen.contains("\nsandbox    none: whoever takes the engine over has all its rights"), "{screen}");
}

#[test]
fn the_json_is_stable() {
    let json = serde_json::to_value(state()).expect("JSON");
    let keys = |value: &serde_json::Value| {
        value.as_object().map(|object| object.keys().cloned().collect::<Vec<_>>().join(" ")).unwrap_or_default()
    };
    assert_eq!(keys(&json), "cores drops engine interface peers schema site");
    assert_eq!(json["schema"], 1);
    assert_eq!(keys(&json["site"]), "age_ms config listen name pid port version");
    assert_eq!(keys(&json["engine"]), "age_ms features features_off generation pid running sandbox starts");
    assert_eq!(keys(&json["engine"]["sandbox"]), "landlock_abi level missing protections");
    assert_eq!(keys(&json["interface"]), "addresses mtu name");
    assert_eq!(
        keys(&json["peers"][0]),
        "attempts endpoint idle_ms ike inbound local_id local_subnets name outbound remote remote_id sas since_ms state subnets"
    );
    assert_eq!(json["peers"][1]["state"], "connecting");
    assert_eq!(keys(&json["peers"][0]["ike"]), "age_ms initiated initiator_spi nat_here nat_there proposal responder_spi");
    assert_eq!(
        keys(&json["peers"][0]["sas"][0]),
        "age_ms core esn fallback inbound inbound_spi outbound outbound_spi phase source_port suite"
    );
    assert_eq!(keys(&json["cores"][0]), "asleep core counters cpu drops parked ring waiting");
    assert_eq!(json["drops"]["source_not_local"], 4);
    assert_eq!(json["drops"].as_object().map(serde_json::Map::len), Some(penstock_uapi::Drop::COUNT), "every reason, also those with 0");
    assert_eq!(serde_json::from_value::<State>(json).expect("a state"), state());
}

#[test]
fn one_peer_in_detail_names_both_sides_its_next_keys_its_selectors_and_the_last_error() {
    let mut state = state();
    let berlin = &mut state.peers[0];
    (berlin.local_id, berlin.remote_id) = ("frankfurt".into(), "berlin".into());
    (berlin.last_error, berlin.last_error_ms) = (Some("berlin refused us: NO_PROPOSAL_CHOSEN for a rekey".into()), Some(65_000));
    berlin.local = "192.0.2.1:4500".parse().ok();
    berlin.ike.as_mut().expect("it is up").rekey_in_ms = Some(7_200_000);
    let sa = berlin.sas.last_mut().expect("it is up");
    (sa.rekey_in_ms, sa.local_subnets, sa.subnets) = (Some(60_000), vec!["10.43.43.0/24".into()], vec!["10.44.0.0/16".into()]);
    let screen = render(&state, Options { peer: Some("berlin"), detail: true, ..Options::default() });
    for line in [
        "  us    frankfurt at 192.0.2.1:4500",
        "  peer  berlin at 198.51.100.9:4500",
        "  IKE: new keys in 2 h",
        "  1a2b3c00: new keys in 1 min; 10.43.43.0/24 <-> 10.44.0.0/16",
        "  last error 1 min 5 s ago: berlin refused us: NO_PROPOSAL_CHOSEN for a rekey",
    ] {
        assert!(screen.lines().any(|shown| shown == line), "no «{line}» in\n{screen}");
    }
    let brief = render(&state, Options { peer: Some("berlin"), ..Options::default() });
    assert!(!brief.contains("new keys"), "{brief}");
}
