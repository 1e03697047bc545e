//! Given a Penstock and a strongSwan that are configured differently in one point, when either begins, then no tunnel comes up, and
//! `penstock show`, its JSON and penstockd's log each say what the difference is, in words that an operator can act on.
//!
//! Who refuses sees both offers. Who is refused is told a word only (NO_PROPOSAL_CHOSEN), so it shows what it had offered.

use std::thread::sleep;
use std::time::{Duration, Instant};

use penstock_perf::lab::new_psk;
use penstock_tests::mixed::{Mixed, MixedOptions};

/// A refusal of a first message counts only after a while (RFC 7296 section 2.21.1), on a machine that is busy otherwise too.
const PATIENCE: Duration = Duration::from_secs(15);
const OUR_IKE: &str = "AES_GCM_16_256/AES_GCM_16_128 + PRF_HMAC_SHA2_256/PRF_HMAC_SHA2_384/PRF_HMAC_SHA2_512 + X25519/P256/P384";
const OUR_ESP: &str = "AES_GCM_16_256/AES_GCM_16_128 + ESN/NO_ESN";
const OUR_NETS: &str = "10.43.43.0/24 fd00:43:43::/64 to 10.43.100.0/24 fd00:43:100::/64";
/// What to try, where keys or names differ.
const NAMES: &str = "compare both sites: the key; \"frankfurt\" must be their remote_id, \"london\" their local_id";

/// The end of a story: the reason, and what to try.
struct Told<'a> {
    reason: &'a str,
    remedy: &'a str,
}

/// Waits until the daemon names this reason, then finds it in all three places, on one line each; and nothing is up.
fn tells(mixed: &Mixed, told: &Told<'_>) {
    let start = Instant::now();
    let named = |peer: &serde_json::Value| peer["reason"].as_str().is_some_and(|reason| reason.contains(told.reason));
    let mut peer = mixed.peer();
    while !named(&peer) {
        assert!(start.elapsed() < PATIENCE, "\"{}\" is not what is said:\n{peer}\n{}", told.reason, mixed.picture());
        sleep(Duration::from_millis(50));
        peer = mixed.peer();
    }
    assert_ne!(peer["state"], "up", "{peer}");
    assert!(peer["remedy"].as_str().is_some_and(|remedy| remedy.contains(told.remedy)), "not \"{}\": {peer}", told.remedy);
    assert_eq!(mixed.swan.children().expect("charon answers"), [], "{}", mixed.picture());
    // A reason may be a moment old when the next is shown; the words stay the same.
    let output = mixed.site[0].penstock(&["show", "london"]).expect("the command runs");
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(1), "a peer that is not up: {text}");
    let line = |start: &str, part: &str| text.lines().any(|line| line.trim_start().starts_with(start) && line.contains(part));
    assert!(line("why ", told.reason) && line("try ", told.remedy), "{text}");
    let log = mixed.site[0].log();
    assert!(log.lines().any(|line| line.contains("event=ike") && line.contains(&told.reason.replace('"', "'"))), "{log}");
    println!("{}", text.trim_end());
}

/// Penstock begins.
fn penstock_begins(options: &MixedOptions, told: &Told<'_>) {
    let mut mixed = Mixed::new(options).expect("both are there");
    mixed.site[0].start().expect("it starts");
    wait_for_daemon(&mixed);
    tells(&mixed, told);
}

/// strongSwan begins; Penstock only waits for it.
fn strongswan_begins(options: &MixedOptions, told: &Told<'_>) {
    let options = MixedOptions { peer_toml: format!("{}start = \"wait\"\n", options.peer_toml), ..options.clone() };
    let mut mixed = Mixed::new(&options).expect("both are there");
    mixed.site[0].start().expect("it starts");
    wait_for_daemon(&mixed);
    mixed.swan.swanctl(&["--initiate", "--child", "net", "--timeout", "5"]).expect_err("it is refused");
    tells(&mixed, told);
}

fn wait_for_daemon(mixed: &Mixed) {
    let start = Instant::now();
    while mixed.site[0].show_json().is_err() {
        assert!(start.elapsed() < PATIENCE, "{}", mixed.site[0].log());
        sleep(Duration::from_millis(20));
    }
}

fn both(options: &MixedOptions, when_we_begin: &Told<'_>, when_they_begin: &Told<'_>) {
    penstock_begins(options, when_we_begin);
    strongswan_begins(options, when_they_begin);
}

/// What charon says to a proof or a name that does not fit: always the same.
const NOT_US: Told<'_> = Told {
    reason: "london refused us: AUTHENTICATION_FAILED: it does not know us as name frankfurt, is not name london itself, or has another key",
    remedy: NAMES,
};

#[test]
fn a_wrong_key() {
    let options = MixedOptions { other_psk: new_psk().expect("a key"), ..MixedOptions::default() };
    let refused = "we refused 10.0.0.2:4500, which says it is name london: its proof does not fit the key that we share with it";
    both(&options, &NOT_US, &Told { reason: refused, remedy: NAMES });
}

#[test]
fn a_strongswan_with_a_name_that_we_do_not_know() {
    let options = MixedOptions { identity: "paris".into(), ..MixedOptions::default() };
    let refused = "we refused 10.0.0.2:4500, which says it is name paris: no such peer is configured";
    both(&options, &NOT_US, &Told { reason: refused, remedy: NAMES });
}

#[test]
fn a_penstock_with_a_name_that_strongswan_does_not_know() {
    let options = MixedOptions { peer_toml: "local_id = \"rome\"\n".into(), ..MixedOptions::default() };
    let remedy = "\"rome\" must be their remote_id";
    let ours = "AUTHENTICATION_FAILED: it does not know us as name rome, is not name london itself, or has another key";
    // It asks for the name that it knows, and gets nobody.
    let theirs = "which says it is name london: it wants to talk to name frankfurt, and that is not our name for it";
    both(&options, &Told { reason: ours, remedy }, &Told { reason: theirs, remedy });
}

#[test]
fn no_common_cipher_for_ike() {
    let options = MixedOptions { proposals: "aes256-sha256-curve25519".into(), ..MixedOptions::default() };
    let remedy = "compare ike_suites here with the IKE proposals there";
    let ours =
        format!("london refused us: NO_PROPOSAL_CHOSEN: it takes nothing of our offer [{OUR_IKE} + ML_KEM_768 or {OUR_IKE}] for IKE");
    let theirs = format!(
        "we refused 10.0.0.2:4500: no common IKE proposal: ours [{OUR_IKE}], theirs [AES_CBC_256 + PRF_HMAC_SHA2_256 + HMAC_SHA2_256_128 \
         + X25519]; first difference: encryption: ours AES_GCM_16_256/AES_GCM_16_128, theirs AES_CBC_256"
    );
    both(&options, &Told { reason: &ours, remedy }, &Told { reason: &theirs, remedy });
}

/// A group and what is said about it.
fn refused_group(group: &str, name: &str, remark: &str) {
    let options = MixedOptions { proposals: format!("aes256gcm16-prfsha256-{group}"), ..MixedOptions::default() };
    let ours =
        format!("london refused us: NO_PROPOSAL_CHOSEN: it takes nothing of our offer [{OUR_IKE} + ML_KEM_768 or {OUR_IKE}] for IKE");
    let theirs = format!(
        "no common IKE proposal: ours [{OUR_IKE}], theirs [AES_GCM_16_256 + PRF_HMAC_SHA2_256 + {name}]; \
         first difference: key exchange: ours X25519/P256/P384, theirs {name}{remark}"
    );
    let (when_we_begin, when_they_begin) = ("X25519, P-256 or P-384", "let the other site offer X25519, P-256 or P-384");
    both(&options, &Told { reason: &ours, remedy: when_we_begin }, &Told { reason: &theirs, remedy: when_they_begin });
}

#[test]
fn a_weak_group() {
    refused_group("modp1024", "MODP_1024", ", which is too weak");
}

#[test]
fn a_group_that_we_do_not_have() {
    refused_group("modp2048", "MODP_2048", "");
}

#[test]
fn no_common_cipher_for_packets() {
    let options = MixedOptions { esp: "aes256-sha256".into(), ..MixedOptions::default() };
    let remedy = "compare suites here with the ESP proposals there";
    let ours = format!("london refused us: NO_PROPOSAL_CHOSEN for the first child: it takes nothing of our offer [{OUR_ESP}]");
    let theirs = format!(
        "london is incompatible: no common ESP proposal: ours [{OUR_ESP}], theirs [AES_CBC_256 + HMAC_SHA2_256_128 + NO_ESN]; \
         first difference: encryption: ours AES_GCM_16_256/AES_GCM_16_128, theirs AES_CBC_256"
    );
    both(&options, &Told { reason: &ours, remedy }, &Told { reason: &theirs, remedy });
}

#[test]
fn no_common_subnets() {
    let child = "net {\nlocal_ts = 10.99.1.0/24\nremote_ts = 10.99.2.0/24\nesp_proposals = aes256gcm16\n}";
    let options = MixedOptions { children: child.into(), ..MixedOptions::default() };
    let remedy = "local_subnets here must be subnets there, and the other way round";
    let ours = format!("london refused us: TS_UNACCEPTABLE for the first child: it has no common subnets with our [{OUR_NETS}]");
    let theirs = format!("london is incompatible: no common subnets: ours [{OUR_NETS}], theirs [10.99.2.0/24 to 10.99.1.0/24]");
    both(&options, &Told { reason: &ours, remedy }, &Told { reason: &theirs, remedy });
}
