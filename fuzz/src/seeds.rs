//! The recipes of the corpora: real frames, real messages of a handshake, the project's own example of a configuration. Small on
//! purpose; what a fuzzer found interesting is added by hand if it stands for something new.

use std::io;
use std::path::Path;

use penstock::admin::{Command, Core, Engine, Peer, PeerState, Request, Response, Sa, State};
use penstock_uapi::Status;
use penstock_uapi::event::{Acquire, OutboundActive, PathMtu, PeerMoved, SaLimit, StrayIke, UnknownSpi};
use penstock_uapi::frame::{self, Body};
use penstock_uapi::reply::{CoreState, PolicyState, SaState, Welcome};
use penstock_uapi::request::{
    AttachCore, ExpectSpi, Hello, Inject, InstallInbound, InstallOutbound, Policy, PolicyBegin, PolicyCommit, PolicyPairs, ReadState,
    Retire, Start,
};
use zerocopy::FromZeros;

use crate::handshake::{self, Site, written};
use crate::peer::{self, Payload, exchange, kind};
use crate::{TARGETS, canary, esp, records, tun};

/// The inputs of a target, each with its name.
#[must_use]
pub fn recipes(target: &str) -> Vec<(&'static str, Vec<u8>)> {
    match target {
        "esp_inbound" => esp_inbound(),
        "esp_opened" => esp_opened(),
        "tun_outbound" => tun_outbound(),
        "tun_round_trip" => vec![
            ("udp4", [&[0, 0, 100, 1], [7; 900].as_slice()].concat()),
            ("udp6", [&[0x41, 0, 200, 2], [8; 700].as_slice()].concat()),
            ("tcp4", [&[0x82, 5, 0, 3], [9; 4000].as_slice()].concat()),
            ("tcp6", [&[0xf3, 4, 0, 4], [10; 3000].as_slice()].concat()),
            ("one", vec![2, 1, 0, 5, 1]),
        ],
        "udp_control" => udp_control(),
        "uapi_requests" => uapi_requests(),
        "uapi_answers" => vec![("all", records::join(said()))],
        "ike_request" => vec![("plain", peer::first_request()), ("penstock", Site::new().initiate())],
        "ike_response" => ike_response(),
        "ike_auth_request" => vec![("plain", handshake::honest(kind::ID_I)), ("penstock", theirs(0, 0))],
        "ike_auth_response" => vec![("plain", handshake::honest(kind::ID_R)), ("penstock", theirs(1, 0))],
        "ike_established" => ike_established(),
        "ike_fragments" => vec![
            ("honest", handshake::honest_pieces()),
            ("after", [&[1], records::join([vec![1, 2, 41, 0, 0], vec![2, 2, 0, 0, 8, 0, 0, 0, 0]]).as_slice()].concat()),
            ("alone", [&[1], records::join([vec![1, 1, 0]]).as_slice()].concat()),
            ("beyond", [&[0], records::join([vec![0, 0, 1], vec![9, 3, 1], vec![255, 255, 1]]).as_slice()].concat()),
        ],
        "ike_intermediate" => vec![
            ("request", handshake::honest_intermediate()),
            ("answer", [&[0], written(&[Payload::new(kind::KE, [[0, 36, 0, 0].as_slice(), &[7; 1088]].concat())]).as_slice()].concat()),
            ("short", [&[0], written(&[Payload::new(kind::KE, [0, 36, 0, 0, 7])]).as_slice()].concat()),
            ("other", [&[1], written(&[Payload::new(kind::KE, [0, 35, 0, 0, 7])]).as_slice()].concat()),
        ],
        "config" => config(),
        "psk" => {
            ["0sVGhpcyBpcyBub3QgdGhlIGtleSB0aGF0IHlvdSB3YW50", "0x00112233445566778899aabbccddeeff", "correct horse battery", "0s", "0x1"]
                .into_iter()
                .zip(["base64", "hex", "text", "no-base64", "odd-hex"])
                .map(|(text, name)| (name, text.as_bytes().to_vec()))
                .collect()
        }
        "admin_request" => {
            let line = |command| Request { id: 7, command }.to_line().into_bytes();
            let peer = Some("london".to_owned());
            vec![
                ("show", line(Command::Show)),
                ("up", line(Command::Up { peer: peer.clone() })),
                ("down", line(Command::Down { peer })),
                ("unknown", b"{\"id\":7,\"command\":\"dance\"}".to_vec()),
            ]
        }
        "admin_response" => vec![
            ("show", shown().to_line().into_bytes()),
            ("done", Response::done(2, "london: connecting").to_line().into_bytes()),
            ("refused", Response::refused(3, 1, "no peer").to_line().into_bytes()),
        ],
        "canary" => vec![("records", [&[3, 1, 2, 3], [5, 1, 2, 3, 4, 5].as_slice(), &[0, 1, 9]].concat())],
        _ => Vec::new(),
    }
}

fn esp_inbound() -> Vec<(&'static str, Vec<u8>)> {
    let genuine = esp::genuine();
    let part = |frame: &[u8], stride: u16| [&[0], stride.to_be_bytes().as_slice(), frame].concat();
    let single: Vec<_> = genuine.iter().map(|frame| part(frame, frame.len() as u16)).collect();
    let mixed = [genuine[0].as_slice(), &[0, 0, 0, 0], &genuine[0], &[0xff]].concat();
    vec![
        ("frames", records::join(&single)),
        ("one", records::join([&single[3]])),
        ("again", records::join([&single[1], &single[1]])),
        ("mixed", records::join([part(&mixed, genuine[0].len() as u16)])),
        ("keepalive", records::join([part(&[0xff], 1)])),
        ("ike", records::join([part(&[&[0; 4], peer::first_request().as_slice()].concat(), 600)])),
    ]
}

fn esp_opened() -> Vec<(&'static str, Vec<u8>)> {
    let part = |packet: &[u8]| [&[if packet[0] >> 4 == 4 { 4 } else { 41 }, 0], packet].concat();
    let cut = |v6, tcp| {
        let whole = tun::read(v6, tcp, 5, &[1; 300], 1000);
        let packet = whole[crate::site::VNET_BYTES..].to_vec();
        records::join([part(&packet), part(&packet), part(&packet)])
    };
    vec![
        ("packets", records::join((0..esp::GENUINE).map(|number| part(&esp::packet(number))))),
        ("tcp4", cut(false, true)),
        ("tcp6", cut(true, true)),
        ("udp4", cut(false, false)),
        ("dummy", records::join([[59, 0, 1, 2, 3]])),
    ]
}

fn tun_outbound() -> Vec<(&'static str, Vec<u8>)> {
    let read = |v6, tcp, length, segment| tun::read(v6, tcp, 6, &vec![3; length], segment);
    vec![
        ("plain", records::join([read(false, false, 90, 1000), read(true, true, 90, 1000)])),
        ("tcp4", records::join([read(false, true, 4000, 1200)])),
        ("tcp6", records::join([read(true, true, 4000, 1200)])),
        ("udp4", records::join([read(false, false, 2000, 500)])),
        ("udp6", records::join([read(true, false, 2000, 500)])),
    ]
}

fn udp_control() -> Vec<(&'static str, Vec<u8>)> {
    let mut control = [0; penstock_engine::udp::CONTROL_BYTES];
    let mut writer = penstock_engine::udp::control::Writer::new(&mut control);
    writer.segment(1472);
    writer.tos(true, 0xb9);
    writer.source([192, 0, 2, 7].into());
    let mut address = [0; penstock_engine::udp::ADDRESS_BYTES];
    penstock_engine::udp::address::encode(([192, 0, 2, 7], 4500).into(), &mut address);
    vec![("control", control.to_vec()), ("address", address.to_vec())]
}

fn request<B: Body>(body: &B, tail: &[u8]) -> Vec<u8> {
    [&(B::KIND as u16).to_le_bytes(), body.as_bytes(), tail].concat()
}

fn uapi_requests() -> Vec<(&'static str, Vec<u8>)> {
    let policy = Policy { policy: 7.into(), ..Policy::new_zeroed() };
    let pairs = PolicyPairs { policy: 7.into(), count: 1.into() };
    let tail = [0; size_of::<penstock_uapi::request::Pair>()];
    let policies = [
        request(&PolicyBegin { generation: 1.into() }, &[]),
        request(&policy, &[]),
        request(&pairs, &tail),
        request(&PolicyCommit { generation: 1.into(), policies: 1.into(), pairs: 1.into() }, &[]),
    ];
    let rest = [
        request(&Hello::new_zeroed(), &[]),
        request(&AttachCore::new_zeroed(), &[]),
        request(&Start::new_zeroed(), &[]),
        request(&ExpectSpi { spi: 0x1_0000.into(), policy: 7.into() }, &[]),
        request(&InstallInbound::new_zeroed(), &[]),
        request(&InstallOutbound::new_zeroed(), &[]),
        request(&Retire::new_zeroed(), &[]),
        request(&Inject::new_zeroed(), &[1; 40]),
        request(&ReadState::new_zeroed(), &[]),
    ];
    let raw = [&[0xff, 0xff], frame::answer(Status::Done, 5).as_slice()].concat();
    vec![("policies", records::join(policies)), ("rest", records::join(rest)), ("raw", records::join([raw, vec![0xff, 0xff, 1, 2]]))]
}

fn said() -> Vec<Vec<u8>> {
    fn of<B: Body>(body: &B, tail: &[u8]) -> Vec<u8> {
        frame::encode(Status::Done, 0, body, tail).to_vec()
    }
    let mut events = vec![
        of(&Welcome::new_zeroed(), &[]),
        of(&CoreState::new_zeroed(), &[]),
        of(&PolicyState::new_zeroed(), &[]),
        of(&SaState::new_zeroed(), &[]),
    ];
    let from = penstock_uapi::Endpoint::from(std::net::SocketAddr::from(([192, 0, 2, 7], 4500)));
    events.extend([
        of(&StrayIke { from, to: from }, &[1; 40]),
        of(&UnknownSpi { spi: 0x1_0000.into(), from }, &[]),
        of(&SaLimit::new_zeroed(), &[]),
        of(&PeerMoved { spi: 0x1_0000.into(), from }, &[]),
        of(&Acquire::new_zeroed(), &[]),
        of(&OutboundActive::new_zeroed(), &[]),
        of(&PathMtu::new_zeroed(), &[]),
        frame::answer(Status::More, 9).to_vec(),
    ]);
    events
}

/// The payloads of our own message `number` as the initiator (`side` 0) or responder (1), as an input.
fn theirs(side: usize, number: usize) -> Vec<u8> {
    let [began, answered] = handshake::conversation();
    let messages = if side == 0 { began } else { answered };
    let mut payloads = messages.get(number).cloned().unwrap_or_default();
    // Whoever plays it is the other end: names and subnets change places, the proof is made anew.
    let body =
        |kind| messages.get(number).into_iter().flatten().find(|payload: &&Payload| payload.kind == kind).map(|found| found.body.clone());
    for payload in &mut payloads {
        let other = match payload.kind {
            kind::AUTH => Some(Vec::new()),
            kind::ID_I => body(kind::ID_R),
            kind::ID_R => body(kind::ID_I).or(Some([&[2, 0, 0, 0], b"there.example".as_slice()].concat())),
            kind::TS_I => body(kind::TS_R),
            kind::TS_R => body(kind::TS_I),
            _ => None,
        };
        payload.body = other.unwrap_or(std::mem::take(&mut payload.body));
    }
    written(&payloads)
}

fn ike_response() -> Vec<(&'static str, Vec<u8>)> {
    let request = Site::new().initiate();
    let error = |kind: u16, data: &[u8]| {
        let body = [&[0, 0], kind.to_be_bytes().as_slice(), data].concat();
        let (first, body) = peer::chain(&[Payload::new(kind::NOTIFY, body)]);
        let spi = request.first_chunk().map_or(0, |spi| u64::from_be_bytes(*spi));
        peer::message([spi, 0], first, exchange::INIT, 0x20, 0, &body)
    };
    let mut site = Site::new();
    site.hear(&peer::first_request());
    vec![
        ("plain", peer::first_response(&request)),
        ("penstock", site.sent.last().cloned().unwrap_or_default()),
        ("no-proposal", error(14, &[])),
        ("other-group", error(17, &[0, 19])),
        ("cookie", error(16_390, &[7; 33])),
    ]
}

fn ike_established() -> Vec<(&'static str, Vec<u8>)> {
    let message = |exchange: u8, flags: u8, payloads: &[Payload]| [&[exchange, flags], written(payloads).as_slice()].concat();
    let delete = |body: &[u8]| Payload::new(kind::DELETE, body);
    let [began, _] = handshake::conversation();
    // The request for one more child is the one with a nonce.
    let has_nonce = |payloads: &&Vec<Payload>| payloads.iter().any(|payload| payload.kind == kind::NONCE);
    let child = began.iter().find(has_nonce).cloned().unwrap_or_default();
    let mut inputs = Vec::new();
    for (began, [empty, further, gone, closed, answer]) in [
        (0u8, ["probe", "child", "delete-child", "delete", "answer"]),
        (1, ["probe-began", "child-began", "delete-child-began", "delete-began", "answer-began"]),
    ] {
        inputs.extend([
            (empty, records::join([message(exchange::INFORMATIONAL, began, &[])])),
            (further, records::join([message(exchange::CREATE_CHILD, began, &child)])),
            (gone, records::join([message(exchange::INFORMATIONAL, began, &[delete(&[3, 4, 0, 1, 0x11, 0x22, 0x33, 0x44])])])),
            (closed, records::join([message(exchange::INFORMATIONAL, began, &[delete(&[1, 0, 0, 0])])])),
            (answer, records::join([message(exchange::CREATE_CHILD, began | 6, &child), message(exchange::INFORMATIONAL, began, &[])])),
        ]);
    }
    inputs
}

fn config() -> Vec<(&'static str, Vec<u8>)> {
    let two = "[site]\nname = \"frankfurt\"\n\n[interface.pen0]\naddress = [\"192.168.192.1/30\"]\n\n[peer.london]\nendpoint = \"203.0.113.7\"\n\
               local_subnets = [\"10.43.43.0/24\"]\nsubnets = [\"10.43.100.0/24\"]\npsk_file = \"london.psk\"\n";
    let tables = include_str!("../../docs/configuration.md").split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let mut inputs = vec![("two-sites", two.as_bytes().to_vec())];
    inputs.extend(["example-1", "example-2", "example-3", "example-4"].into_iter().zip(tables.map(|table| table.as_bytes().to_vec())));
    inputs
}

fn shown() -> Response {
    let (mut engine, mut core, mut sa) = (Engine::default(), CoreState::new_zeroed(), SaState::new_zeroed());
    engine.set_features(31);
    core.drops.iter_mut().for_each(|drop| *drop = 3.into());
    sa.inbound_spi = 0x1_0000.into();
    let peer = |state, name: &str| Peer {
        state,
        name: name.into(),
        sas: vec![Sa::from(&sa)],
        reason: Some("no answer".into()),
        ..Peer::default()
    };
    let peers = vec![peer(PeerState::Up, "london"), peer(PeerState::Down, "paris")];
    let mut state = State { engine, peers, cores: vec![Core::new(&core, 1)], ..State::default() };
    state.sum_drops();
    Response::show(1, state)
}

/// Writes every recipe to `corpus/TARGET/NAME`.
///
/// # Errors
/// As the file system has it.
pub fn write(corpus: &Path) -> io::Result<()> {
    for target in TARGETS.iter().chain([&canary::TARGET]) {
        let folder = corpus.join(target.name);
        std::fs::create_dir_all(&folder)?;
        for (name, bytes) in recipes(target.name) {
            std::fs::write(folder.join(name), bytes)?;
        }
    }
    Ok(())
}

/// The inputs of a folder, in the order of their names.
///
/// # Errors
/// As the file system has it.
pub fn read(folder: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut files: Vec<_> = std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
    files.sort();
    files.iter().map(std::fs::read).collect()
}
