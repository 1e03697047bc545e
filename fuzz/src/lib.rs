//! Hostile bytes for every parser that hears a stranger, a peer, or the other process.
//!
//! ```text
//!   corpus/NAME/*  ─► cargo test       every committed input, through every target
//!                  ─► penstock-fuzz    mutations of them, blind to coverage, on the stable compiler
//!                  ─► cargo fuzz       libFuzzer, guided by coverage, on a nightly compiler (fuzz/libfuzzer)
//! ```
//! A target is a plain function over bytes. It panics when a promise is broken, and so do the crates under test: a panic in
//! them is a finding too. All state is made anew for each input, so that an input alone replays its finding.

pub mod canary;
pub mod control;
pub mod engine;
pub mod esp;
pub mod forge;
pub mod handshake;
pub mod mutate;
pub mod peer;
pub mod records;
pub mod seeds;
pub mod site;
pub mod text;
pub mod tun;

/// One thing that is fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its folder in `corpus`.
    pub name: &'static str,
    /// What hears the bytes.
    pub about: &'static str,
    /// Hears them.
    pub run: fn(&[u8]),
}

const fn target(name: &'static str, about: &'static str, run: fn(&[u8])) -> Target {
    Target { name, about, run }
}

/// All targets that must not panic.
pub const TARGETS: &[Target] = &[
    target("esp_inbound", "datagrams from the wire, as a core's path hears them", esp::inbound),
    target("esp_opened", "what an authenticated peer puts into its frames", esp::opened),
    target("tun_outbound", "reads of the TUN queue: virtio header and packet", tun::outbound),
    target("tun_round_trip", "super-packets, split and merged again, against what went in", tun::round_trip),
    target("udp_control", "control messages and addresses beside a receive", engine::udp_control),
    target("uapi_requests", "frames to the engine's admin thread", engine::requests),
    target("uapi_answers", "answers and events of an engine, as control reads them", control::answers),
    target("ike_request", "a stranger's first IKE message", handshake::first_request),
    target("ike_response", "an answer to our first IKE message", handshake::first_response),
    target("ike_auth_request", "IKE_AUTH from somebody who has the keys of the IKE SA", handshake::auth_request),
    target("ike_auth_response", "the answer to our IKE_AUTH", handshake::auth_response),
    target("ike_established", "requests and responses of an authenticated peer", handshake::established),
    target("ike_fragments", "protected messages in pieces, before and after the proof", handshake::fragments),
    target("ike_intermediate", "a second key exchange, from either side", handshake::intermediate),
    target("config", "penstock.toml", text::config),
    target("psk", "the text of a key file", text::psk),
    target("admin_request", "a line from the command to the daemon", text::request),
    target("admin_response", "a line from the daemon to the command, and how it is shown", text::response),
];

/// The target of this name; `canary` too, which must panic.
#[must_use]
pub fn find(name: &str) -> Option<Target> {
    TARGETS.iter().copied().chain([canary::TARGET]).find(|target| target.name == name)
}
