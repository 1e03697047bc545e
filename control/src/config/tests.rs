//! Every mistake gives its one line. Each case edits a good configuration and names the whole output.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::{Config, DpdAction, Identity, IkeSuite, SourcePort, Start, Suite};

mod mistakes;

/// Lines are counted in the cases; keep their order.
const GOOD: &str = r#"[site]
name = "frankfurt"

[interface.pen0]
address = ["192.168.192.1/30"]

[peer.london]
endpoint = "203.0.113.7"
local_subnets = ["10.43.43.0/24"]
subnets = ["10.43.100.0/24"]
psk_file = "london.psk"
"#;

const STRONG: &str = "0sSyHkpDwwzjRZyw2nTs+fJk4oW0z0H5bYV7bE6q1dQ9c=\n";

/// A directory with a good configuration; removed at the end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("penstock-config-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("peers.d")).expect("a directory");
        let place = Self(path);
        place.write("penstock.toml", GOOD.as_bytes(), 0o644);
        place.write("london.psk", STRONG.as_bytes(), 0o600);
        place
    }

    fn write(&self, name: &str, octets: &[u8], mode: u32) {
        let path = self.0.join(name);
        let _ = fs::remove_file(&path);
        fs::write(&path, octets).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("mode set");
    }

    fn main(&self) -> PathBuf {
        self.0.join("penstock.toml")
    }

    /// The findings, each as its line, without the directory.
    fn complaints(&self) -> Vec<String> {
        let findings = Config::load(&self.main()).expect_err("a bad configuration");
        findings.iter().map(|finding| self.relative(&finding.to_string())).collect()
    }

    fn relative(&self, line: &str) -> String {
        line.replace(&format!("{}/", self.0.display()), "")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn four_lines_suffice_for_a_peer_and_the_rest_has_defaults() {
    let place = Place::new("good");
    let config = Config::load(&place.main()).expect("a good configuration");
    assert_eq!((config.site.name.as_str(), config.site.port, config.site.poll_us), ("frankfurt", 4500, 0));
    assert_eq!((config.site.mark, config.site.table, config.site.persist), (0x7065, 0x7065, false));
    assert_eq!((config.site.cores, &config.site.cpus, config.site.listen.len()), (None, &None, 0));
    assert_eq!((config.interface.name.as_str(), config.interface.mtu), ("pen0", None));
    assert_eq!(config.interface.address, ["192.168.192.1/30".parse().expect("a prefix")]);
    let [peer] = config.peers.as_slice() else { panic!("one peer") };
    assert_eq!((peer.name.as_str(), peer.endpoint.as_ref().map(ToString::to_string)), ("london", Some("203.0.113.7:4500".to_owned())));
    assert_eq!(peer.local_subnets, ["10.43.43.0/24".parse().expect("a prefix")]);
    assert_eq!(peer.subnets, ["10.43.100.0/24".parse().expect("a prefix")]);
    assert_eq!((peer.psk.as_bytes().len(), &peer.psk_weak), (32, &None));
    assert_eq!(peer.local_id, Identity::Fqdn("frankfurt".into()));
    assert_eq!(peer.remote_id, Identity::Fqdn("london".into()));
    assert_eq!(peer.suites, [Suite::Aes256Gcm, Suite::Aes128Gcm]);
    assert_eq!((peer.ike_suites.as_slice(), peer.ml_kem), ([IkeSuite::Aes256Gcm, IkeSuite::Aes128Gcm].as_slice(), true));
    assert_eq!((peer.source_port, peer.per_core, peer.window), (SourcePort::Own, true, 16_384));
    assert_eq!((peer.rekey_child.as_secs(), peer.rekey_ike.as_secs(), peer.pfs), (3600, 14_400, false));
    assert_eq!((peer.dpd.as_secs(), peer.dpd_action), (30, DpdAction::Restart));
    assert_eq!((peer.start, peer.nat_keepalive.as_secs()), (Start::Always, 20));
    assert_eq!(place.relative(&peer.endpoint_place.to_string()), "penstock.toml:8: peer.london.endpoint");
    assert_eq!(place.relative(&config.site.port_place.to_string()), "penstock.toml:1: site");
    assert_eq!((config.warnings, config.notes), (vec![], vec![]));
}

#[test]
fn every_key_is_read() {
    let place = Place::new("every");
    let text = r#"
site = { name = "a.b_c-1", port = 4501, listen = ["198.51.100.7", "2001:db8::7"], cpus = [3, 1], poll_us = 50, persist = true, mark = 0xff, table = 1000 }
interface.pen-1 = { address = ["192.168.192.1/31", "2001:db8:1::1/64"], mtu = 1280 }
[peer.london]
endpoint = "[2001:db8::1]:4502"
local_address = "2001:db8::7"
subnets = ["0.0.0.0/0", "2001:db8:2::/48", "10.9.8.7"]
psk_file = "london.psk"
local_id = "me@example.net"
remote_id = "keyid:0x00ff"
suites = ["aes128-gcm"]
ike_suites = ["aes256-cbc"]
ml_kem = false
source_port = 4500
per_core = false
window = 1_024
rekey_child = "45m"
rekey_ike = "24h"
pfs = true
start = "demand"
nat_keepalive = "30s"
dpd = "5s"
"#;
    place.write("penstock.toml", text.as_bytes(), 0o644);
    let config = Config::load(&place.main()).expect("a good configuration");
    assert_eq!((config.site.name.as_str(), config.site.port, config.site.listen.len()), ("a.b_c-1", 4501, 2));
    assert_eq!((config.site.cpus.as_deref(), config.site.poll_us, config.site.persist), (Some([3, 1].as_slice()), 50, true));
    assert_eq!((config.site.mark, config.site.table), (255, 1000));
    assert_eq!(place.relative(&config.site.port_place.to_string()), "penstock.toml:2: site.port");
    assert_eq!(place.relative(&config.site.cores_place.to_string()), "penstock.toml:2: site.cpus");
    assert_eq!((config.interface.name.as_str(), config.interface.mtu), ("pen-1", Some(1280)));
    let [peer] = config.peers.as_slice() else { panic!("one peer") };
    assert_eq!(peer.endpoint.as_ref().map(|endpoint| (endpoint.host.as_str(), endpoint.port)).expect("an endpoint"), ("2001:db8::1", 4502));
    assert_eq!(peer.local_address, Some("2001:db8::7".parse().expect("an address")));
    let prefixes = |nets: &[ipnet::IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!(prefixes(&peer.subnets), "0.0.0.0/0 2001:db8:2::/48 10.9.8.7/32");
    assert_eq!(prefixes(&peer.local_subnets), "192.168.192.1/32 2001:db8:1::1/128", "the interface's own addresses");
    assert_eq!(peer.local_id, Identity::Email("me@example.net".into()));
    assert_eq!(peer.remote_id, Identity::KeyId(vec![0, 255]));
    assert_eq!((peer.ike_suites.as_slice(), peer.ml_kem), ([IkeSuite::Aes256Cbc].as_slice(), false));
    assert_eq!((peer.suites.as_slice(), peer.source_port), ([Suite::Aes128Gcm].as_slice(), SourcePort::Shared));
    assert_eq!((peer.per_core, peer.window), (false, 1024));
    assert_eq!((peer.rekey_child.as_secs(), peer.rekey_ike.as_secs(), peer.pfs), (2700, 86_400, true));
    assert_eq!((peer.dpd.as_secs(), peer.dpd_action), (5, DpdAction::Hold), "what is tried on demand is held");
    assert_eq!((peer.start, peer.nat_keepalive.as_secs()), (Start::Demand, 30));
}

#[test]
fn endpoints_and_identities_are_shown_as_they_are_written() {
    for (text, host, port) in [
        ("203.0.113.7", "203.0.113.7", 4500),
        ("203.0.113.7:1", "203.0.113.7", 1),
        ("2001:db8::1", "2001:db8::1", 4500),
        ("[2001:db8::1]", "2001:db8::1", 4500),
        ("[2001:db8::1]:65535", "2001:db8::1", 65535),
        ("vpn.example.net", "vpn.example.net", 4500),
        ("gw_1.example.net.:4501", "gw_1.example.net.", 4501),
    ] {
        let endpoint = super::Endpoint::parse(text).expect(text);
        assert_eq!((endpoint.host.as_str(), endpoint.port), (host, port));
        assert_eq!(super::Endpoint::parse(&endpoint.to_string()), Ok(endpoint));
    }
    for text in [
        "",
        "a b",
        "1.2.3",
        "1.2.3.4.5",
        "1.2.3.4:0",
        "1.2.3.4:65536",
        "1.2.3.4:",
        "[::1",
        "[::1]4500",
        "[1.2.3.4]:1",
        "::1:::",
        "-a",
        "a..b",
        "exämple",
    ] {
        assert!(super::Endpoint::parse(text).is_err(), "{text}");
    }
    for text in ["frankfurt", "a@b", "192.0.2.1", "2001:db8::1", "keyid:team", "keyid:0x00ff"] {
        assert_eq!(Identity::parse(text).expect(text).to_string(), text);
    }
    for text in ["", "a b", "keyid:", "keyid:0x", "keyid:0x0", "a\nb"] {
        assert!(Identity::parse(text).is_err(), "{text}");
    }
    for (length, good) in [(255, true), (256, false)] {
        assert_eq!(Identity::parse(&"x".repeat(length)).is_ok(), good, "{length}");
        assert_eq!(Identity::parse(&format!("keyid:{}", "x".repeat(length))).is_ok(), good, "{length}");
    }
    let label = "x".repeat(63);
    for (host, good) in [(format!("{label}.a"), true), (format!("{label}x.a"), false), ([label.as_str(); 4].join("."), false)] {
        assert_eq!(super::Endpoint::parse(&host).is_ok(), good, "{host}");
    }
}

#[test]
fn times_are_whole_numbers_of_a_unit() {
    let longest = std::time::Duration::from_secs(7200);
    for (text, seconds) in [("1s", Some(1)), ("7200s", Some(7200)), ("120m", Some(7200)), ("2h", Some(7200)), ("0s", None), ("7201s", None)]
    {
        assert_eq!(super::value::parse_duration(text, longest).ok().map(|time| time.as_secs()), seconds, "{text}");
    }
    for text in ["", "s", "1", "1.5h", "-1s", "1 h", "1d", "99999999999999999999s", "9999999999999999999h"] {
        assert!(super::value::parse_duration(text, longest).is_err(), "{text}");
    }
}

#[test]
fn names_are_short_and_plain() {
    let long = "x".repeat(63);
    for (name, good) in [
        ("a", true),
        ("_a.b-c", true),
        ("9", true),
        (long.as_str(), true),
        ("", false),
        ("-a", false),
        (".a", false),
        ("a b", false),
        ("ä", false),
    ] {
        assert_eq!(super::local::parse_name(name, "site").is_ok(), good, "{name}");
    }
    assert!(super::local::parse_name(&format!("{long}x"), "site").is_err());
}

#[test]
fn peers_d_is_read_beside_the_file_and_paths_are_relative_to_the_file_that_names_them() {
    let place = Place::new("peersd");
    let peer =
        |name: &str, net: &str| format!("[peer.{name}]\nendpoint = \"vpn.example.net\"\nsubnets = [\"{net}\"]\npsk_file = \"key\"\n");
    place.write("peers.d/oslo.toml", peer("oslo", "10.1.0.0/16").as_bytes(), 0o644);
    place.write("peers.d/bern.toml", peer("bern", "10.1.2.0/24").as_bytes(), 0o644);
    place.write("peers.d/.hidden.toml", b"[nonsense", 0o644);
    place.write("peers.d/notes.txt", b"[nonsense", 0o644);
    place.write("real-key", STRONG.as_bytes(), 0o600);
    symlink(place.0.join("real-key"), place.0.join("peers.d/key")).expect("a link");
    let config = Config::load(&place.main()).expect("a good configuration");
    assert_eq!(config.peers.iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>(), ["bern", "london", "oslo"]);
    assert_eq!(config.notes, ["10.1.2.0/24 goes to peer bern, the rest of 10.1.0.0/16 to peer oslo"]);
}

#[test]
fn what_is_right_but_worth_knowing_is_noted_or_warned_about() {
    let place = Place::new("notes");
    let edited = GOOD
        .replace("[\"10.43.100.0/24\"]", "[\"0.0.0.0/0\", \"10.43.0.0/16\"]")
        .replace("psk_file", "psk_strength = \"accept-weak\"\nremote_id = \"frankfurt\"\npsk_file");
    place.write("penstock.toml", edited.as_bytes(), 0o644);
    place.write("london.psk", b"secret\n", 0o600);
    let config = Config::load(&place.main()).expect("a good configuration");
    let why = "it has 6 characters that are worth 28 bits at most, and 128 are needed";
    assert_eq!(config.peers.first().and_then(|peer| peer.psk_weak.as_deref()), Some(why));
    let warnings: Vec<_> = config.warnings.iter().map(|warning| place.relative(&warning.to_string())).collect();
    assert_eq!(
        warnings,
        [
            "penstock.toml:12: peer.london.remote_id: \"frankfurt\" is our own identity towards this peer, too; give the two sites different names".to_owned(),
            format!("penstock.toml:13: peer.london.psk_file: london.psk is a weak key: {why}; replace it at both sites: penstock key psk --out london.psk.new"),
        ]
    );
    assert_eq!(
        config.notes,
        [
            "10.43.0.0/16 of peer london overlaps 10.43.43.0/24 on our own side (local_subnets)",
            "0.0.0.0/0 of peer london covers its own endpoint: our encrypted packets are kept out of the tunnel by their mark",
        ]
    );
    place.write("london.psk", STRONG.as_bytes(), 0o600);
    let config = Config::load(&place.main()).expect("a good configuration");
    assert!(
        config.warnings.iter().any(|warning| warning.place.key == "peer.london.psk_strength"),
        "an exception that is not needed is named"
    );

    place.write("penstock.toml", GOOD.split("[peer").next().unwrap_or_default().as_bytes(), 0o644);
    let config = Config::load(&place.main()).expect("a good configuration");
    assert_eq!(config.warnings.len(), 1, "no peer: {:?}", config.warnings);
}

#[test]
fn a_name_that_is_no_text_still_gives_one_line() {
    let place = Place::new("control");
    place.write("penstock.toml", GOOD.replace("name = \"frankfurt\"", r#"name = "a\nb\u001b[31m""#).as_bytes(), 0o644);
    let lines = place.complaints();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines.iter().all(|line| !line.contains(char::is_control)), "{lines:?}");
}

#[test]
fn a_missing_file_has_no_line_number() {
    let place = Place::new("missing");
    let findings = Config::load(Path::new("/nonexistent/penstock.toml")).expect_err("missing");
    let lines: Vec<_> = findings.iter().map(ToString::to_string).collect();
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    assert!(line.starts_with("/nonexistent/penstock.toml: cannot be read (No such file or directory); "), "{line}");
    let findings = Config::load(&place.0).expect_err("a directory");
    assert!(findings.iter().any(|finding| finding.problem.contains("is not a regular file")), "{findings:?}");
    let large = fs::File::create(place.0.join("large.toml")).expect("a file");
    large.set_len(16 * 1024 * 1024 + 1).expect("a sparse file");
    let findings = Config::load(&place.0.join("large.toml")).expect_err("too large");
    assert!(findings.iter().any(|finding| finding.problem.contains("at most 16 MiB")), "{findings:?}");
    fs::remove_dir(place.0.join("peers.d")).expect("removed");
    place.write("peers.d", b"", 0o644);
    assert!(place.complaints().iter().any(|line| line.starts_with("peers.d: cannot be listed (Not a directory)")));
    assert!(place.complaints().len() == 1);
}

#[test]
fn the_documentation_names_every_key_and_its_examples_are_good() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let text = fs::read_to_string(path).expect("docs/configuration.md");
    for (key, _) in super::local::SITE_KEYS.iter().chain(super::local::INTERFACE_KEYS).chain(super::peer::KEYS) {
        assert!(text.contains(&format!("\n| `{key}` | ")), "{key} has no row");
    }
    let blocks: Vec<&str> = text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 2);
    for (block, warnings) in blocks.iter().zip([0, 1]) {
        let place = Place::new(&format!("docs-{warnings}"));
        place.write("penstock.toml", block.as_bytes(), 0o644);
        let config = Config::load(&place.main()).expect(block);
        assert_eq!(config.warnings.len(), warnings, "{:?}", config.warnings);
    }
    let everything = blocks.last().expect("two blocks");
    for (key, _) in
        super::local::SITE_KEYS.iter().chain(super::local::INTERFACE_KEYS).chain(super::peer::KEYS).filter(|(key, _)| *key != "cores")
    {
        assert!(everything.contains(&format!("\n{key} = ")), "{key} is not in the full example");
    }
}

proptest::proptest! {
    /// Whatever stands in the file: an answer, in lines that begin with the file and hold no control character.
    #[test]
    fn no_file_is_too_broken_for_an_answer(at in 0..GOOD.len(), length in 0..40_usize, put in "[\\[\\]={}\"'#.,a-z0-9\n\\\\\u{1}ä/:-]{0,24}") {
        let place = Place::new(&format!("broken-{at}-{length}"));
        let (before, rest) = GOOD.split_at(at);
        let text = [before, &put, rest.get(length..).unwrap_or_default()].concat();
        place.write("penstock.toml", text.as_bytes(), 0o644);
        for finding in Config::load(&place.main()).err().unwrap_or_default() {
            let line = place.relative(&finding.to_string());
            proptest::prop_assert!(line.starts_with("penstock.toml") && !line.contains(char::is_control), "{line}");
            proptest::prop_assert!(!finding.problem.is_empty() && !finding.remedy.is_empty(), "{line}");
        }
    }
}

#[test]
fn more_subnets_than_an_sa_takes_are_a_finding() {
    let place = Place::new("many");
    let list = |second: u8, count: usize| (0..count).map(|third| format!("\"10.{second}.{third}.0/24\"")).collect::<Vec<_>>().join(", ");
    let with = |ours: usize, theirs: usize| {
        let text = GOOD.replace("\"10.43.43.0/24\"", &list(41, ours)).replace("\"10.43.100.0/24\"", &list(42, theirs));
        place.write("penstock.toml", text.as_bytes(), 0o644);
    };
    with(126, 128);
    Config::load(&place.main()).expect("as many as fit");
    with(127, 129);
    let remedy = "join neighbours into larger prefixes, or divide them between two peers";
    let expected = [
        format!("penstock.toml:9: peer.london.local_subnets: 127 prefixes, but an SA takes 126 on this side; {remedy}"),
        format!("penstock.toml:10: peer.london.subnets: 129 prefixes, but an SA takes 128 on this side; {remedy}"),
    ];
    assert_eq!(place.complaints(), expected);
}
