//! Whatever bytes come over the socket, the engine goes on serving.

use std::time::Duration;

use penstock_uapi::Kind;

use super::client::Client;
use super::site::{Engine, Options, Pairing, directory};

/// Bytes that look random and are the same in each run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|byte| *byte = self.next() as u8);
    }
}

/// A frame of any kind whose body is noise.
fn frame(kind: u16, length: usize, noise: &mut Noise) -> Vec<u8> {
    let mut bytes = vec![0; 16 + length];
    bytes[..2].copy_from_slice(&kind.to_le_bytes());
    bytes[4..8].copy_from_slice(&(length as u32).to_le_bytes());
    bytes[8..16].copy_from_slice(&77u64.to_le_bytes());
    noise.fill(&mut bytes[16..]);
    bytes
}

fn drain(client: &Client, patience: Duration) {
    while client.receive(patience).is_some() {}
}

#[test]
fn bytes_of_every_length_and_frames_of_every_kind_leave_it_serving() {
    let mut engine = Engine::start(&directory("hostile"), &Options { sandbox: true, ..Options::default() });
    let mut noise = Noise(1);
    for length in 0..=300 {
        let client = Client::connect(&engine.socket);
        let mut bytes = vec![0; length];
        noise.fill(&mut bytes);
        client.send_raw(&bytes).expect("it is sent");
        let answer = client.receive(Duration::from_secs(5));
        assert_eq!(answer.is_some(), length >= 16, "{length}");
    }
    let mut client = Client::connect(&engine.socket);
    client.hello(true).expect("it serves");
    for kind in (0..=15).chain(99..=108).chain(199..=210) {
        // A shutdown with noise in it is one all the same.
        for length in (0..=200).filter(|length| kind != Kind::Shutdown as u16 || *length != 4) {
            client.send_raw(&frame(kind, length, &mut noise)).expect("it is sent");
            assert!(client.receive(Duration::from_secs(5)).is_some(), "{kind} {length}");
        }
    }
    assert!(engine.lives());
    assert!(client.state().cores.is_empty());
}

#[test]
fn noise_in_every_field_leaves_a_running_engine_serving() {
    let mut pair = Pairing::new(&Options { cores: 2, sandbox: true, ..Options::default() });
    let site = &mut pair.sites[0];
    let mut noise = Noise(2);
    let sizes = [(4, 8), (5, 72), (6, 40), (7, 16), (8, 8), (9, 104), (10, 176), (11, 8), (12, 100), (13, 4), (2, 8), (3, 16)];
    for round in 0..300 {
        for (kind, length) in sizes {
            let mut bytes = frame(kind, length, &mut noise);
            // Small numbers reach further than large ones.
            if round % 3 > 0 {
                bytes[16..].iter_mut().for_each(|byte| *byte &= if round % 3 == 1 { 1 } else { 7 });
            }
            site.client.send_raw(&bytes).expect("it is sent");
            assert!(site.client.receive(Duration::from_secs(5)).is_some());
        }
        drain(&site.client, Duration::ZERO);
    }
    drain(&site.client, Duration::from_millis(300));
    assert!(site.engine.lives());
    assert_eq!(site.client.state().cores.len(), 2);
}

#[test]
fn a_client_that_does_not_read_holds_nobody_up() {
    let mut engine = Engine::start(&directory("slow"), &Options::default());
    let mut stuck = Client::connect(&engine.socket);
    stuck.hello(false).expect("a reader");
    let mut noise = Noise(3);
    // Until the engine reads no more of its requests.
    while stuck.send_raw(&frame(Kind::ReadState as u16, 4, &mut noise)).is_ok() {}
    let mut other = Client::connect(&engine.socket);
    other.hello(true).expect("it is served");
    // More clients than it takes: the others wait until one goes.
    let crowd: Vec<Client> = (0..40).map(|_| Client::connect(&engine.socket)).collect();
    assert!(other.state().cores.is_empty());
    drop(crowd);
    Client::connect(&engine.socket).hello(false).expect("there is room again");
    assert!(engine.lives());
}
