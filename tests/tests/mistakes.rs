//! Given a configuration with one mistake, when the daemon starts, then it says file, line, key and what to do in one
//! line, ends with exit code 2, and has touched nothing.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use penstock_perf::lab::{Namespace, Site, SiteOptions, new_psk};

/// A configuration without a mistake, for one site that never hears from its peers.
const GOOD: &str = r#"[site]
name = "frankfurt"
port = 4500
cores = 1

[interface.pen0]
address = ["192.168.192.1/30"]

[peer.london]
endpoint = "10.0.0.2"
local_subnets = ["10.43.43.0/24"]
subnets = ["10.43.100.0/24"]
psk_file = "london.psk"

[peer.paris]
endpoint = "10.0.0.3"
local_subnets = ["10.43.43.0/24"]
subnets = ["10.43.101.0/24"]
psk_file = "paris.psk"
"#;

/// One mistake: what is replaced by what, the text of the line that has to be named, the key, and a word of the remedy.
struct Mistake {
    what: &'static str,
    from: &'static str,
    to: &'static str,
    line_of: &'static str,
    key: &'static str,
    says: &'static str,
}

const MISTAKES: &[Mistake] = &[
    Mistake {
        what: "an unknown key",
        from: "subnets = [\"10.43.101",
        to: "subnet = [\"10.43.101",
        line_of: "subnet = [\"10.43.101",
        key: "peer.paris.subnet",
        says: "subnets",
    },
    Mistake {
        what: "a bad prefix",
        from: "10.43.101.0/24",
        to: "10.43.101.0/33",
        line_of: "10.43.101.0/33",
        key: "peer.paris.subnets",
        says: "33",
    },
    Mistake {
        what: "host bits set",
        from: "10.43.101.0/24",
        to: "10.43.101.7/24",
        line_of: "10.43.101.7/24",
        key: "peer.paris.subnets",
        says: "10.43.101.0/24",
    },
    Mistake {
        what: "one prefix at two peers",
        from: "10.43.101.0/24",
        to: "10.43.100.0/24",
        line_of: "",
        key: "peer.paris.subnets",
        says: "london",
    },
    Mistake {
        what: "a wrong type",
        from: "port = 4500",
        to: "port = \"4500\"",
        line_of: "port = \"4500\"",
        key: "site.port",
        says: "integer",
    },
    Mistake {
        what: "a missing endpoint",
        from: "endpoint = \"10.0.0.3\"\n",
        to: "",
        line_of: "[peer.paris]",
        key: "peer.paris.endpoint",
        says: "endpoint",
    },
    Mistake {
        what: "an unreadable key file",
        from: "paris.psk",
        to: "nowhere.psk",
        line_of: "nowhere.psk",
        key: "peer.paris.psk_file",
        says: "nowhere.psk",
    },
    Mistake {
        what: "a key file that others can read",
        from: "paris.psk",
        to: "open.psk",
        line_of: "open.psk",
        key: "peer.paris.psk_file",
        says: "chmod",
    },
    Mistake { what: "a weak key", from: "paris.psk", to: "weak.psk", line_of: "weak.psk", key: "peer.paris.psk_file", says: "key psk" },
];

fn site(namespace: &Namespace, config: &str) -> Site {
    let psk = new_psk().expect("a key");
    let secret = |name: &str, content: &str| (name.to_owned(), content.to_owned());
    let secrets = vec![secret("london.psk", &psk), secret("paris.psk", &psk), secret("open.psk", &psk), secret("weak.psk", "secret123\n")];
    let options = SiteOptions { config: config.into(), secrets, ..SiteOptions::default() };
    let site = Site::new("frankfurt", namespace, options).expect("a site's files");
    fs::set_permissions(site.folder().join("open.psk"), fs::Permissions::from_mode(0o644)).expect("the file is ours");
    site
}

fn run(site: &Site) -> Output {
    site.daemon_command().expect("the daemon is built").output().expect("the daemon can be run")
}

/// The one line on stderr, after checking the exit code and that no device was made.
fn refusal(site: &Site, what: &str) -> String {
    let output = run(site);
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2), "{what}: {said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{what}: one line: {said}");
    let links = site.namespace().ip("link show").expect("ip");
    assert!(!links.contains("pen0"), "{what}: a device was made: {links}");
    said
}

#[test]
fn each_mistake_gets_one_line_with_file_line_and_key() {
    let namespace = Namespace::new("mistakes").expect("a namespace");
    for mistake in MISTAKES {
        let config = GOOD.replace(mistake.from, mistake.to);
        assert_ne!(config, GOOD, "{}: nothing replaced", mistake.what);
        let site = site(&namespace, &config);
        let said = refusal(&site, mistake.what);
        // The last line with the text: where two lines share a prefix, the later one is the mistake.
        let marker = if mistake.line_of.is_empty() { mistake.to } else { mistake.line_of };
        let line =
            config.lines().enumerate().filter(|(_, text)| text.contains(marker)).map(|(at, _)| at + 1).last().expect("the line is there");
        let place = format!("{}:{line}: {}:", site.config_path().display(), mistake.key);
        assert!(said.contains(&place), "{}: «{said}» does not name «{place}»", mistake.what);
        assert!(said.contains(mistake.says), "{}: «{said}» does not say «{}»", mistake.what, mistake.says);
    }
}

#[test]
fn a_port_in_use_is_named_with_its_line() {
    let namespace = Namespace::new("port").expect("a namespace");
    let taken = namespace.enter(|| UdpSocket::bind("0.0.0.0:4500")).expect("the namespace").expect("the port is free");
    let site = site(&namespace, GOOD);
    let said = refusal(&site, "a port in use");
    assert!(said.contains(&format!("{}:3: site.port:", site.config_path().display())), "{said}");
    drop(taken);
}

#[test]
fn a_second_daemon_in_one_network_namespace_is_told_and_takes_nothing_from_the_first() {
    let namespace = Namespace::new("second").expect("a namespace");
    let mut first = site(&namespace, GOOD);
    first.start().expect("the first starts");
    let rules = || ["-4", "-6"].map(|family| namespace.ip(&format!("{family} rule show")).expect("ip"));
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while first.show_json().is_err() {
        assert!(std::time::Instant::now() < until, "the first is at work: {}", first.log());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let before = rules();
    assert!(before[0].contains("fwmark"), "{before:?}");
    // Another port, device, table and mark, so that nothing else would stop it.
    let other =
        GOOD.replace("port = 4500", "port = 4600\nmark = 77\ntable = 4600").replace("pen0", "pen1").replace("192.168.192", "192.168.193");
    let second = site(&namespace, &other);
    let output = run(&second);
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("another penstockd (process ") && said.contains("network namespace"), "{said}");
    assert_eq!(rules(), before, "the first one's rules are as they were");
    assert!(!namespace.ip("link show").expect("ip").contains("pen1"));
}

#[test]
fn without_the_right_to_open_a_tun_device_the_line_says_so() {
    let namespace = Namespace::new("rights").expect("a namespace");
    let site = site(&namespace, GOOD);
    let daemon = site.daemon_command().expect("the daemon is built");
    // setpriv belongs to util-linux, which every Debian machine has; it takes CAP_NET_ADMIN from root.
    let mut command = namespace.command("setpriv");
    command.args(["--bounding-set=-net_admin", "--inh-caps=-net_admin"]).arg(daemon_program(&daemon)).args(daemon_arguments(&daemon));
    let output = command.output().expect("setpriv can be run");
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "one line: {said}");
    assert!(said.contains("interface.pen0") && said.contains("CAP_NET_ADMIN"), "{said}");
}

fn daemon_program(command: &std::process::Command) -> std::ffi::OsString {
    penstock_perf::lab::binary("penstockd").map(Into::into).unwrap_or_else(|_| command.get_program().to_owned())
}

/// The daemon's own arguments: what stands behind the program's name in the namespace's command line.
fn daemon_arguments(command: &std::process::Command) -> Vec<std::ffi::OsString> {
    let program = daemon_program(command);
    let all: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let behind = all.iter().position(|argument| *argument == program).map_or(0, |at| at + 1);
    all[behind..].to_vec()
}

#[test]
fn nested_subnets_are_allowed_and_shown() {
    let namespace = Namespace::new("nested").expect("a namespace");
    let site = site(&namespace, &GOOD.replace("10.43.101.0/24", "10.43.100.128/25"));
    let path = site.config_path().display().to_string();
    let output = site.penstock(&["check", &path]).expect("the command runs");
    let said = String::from_utf8(output.stdout).expect("text") + &String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("10.43.100.128/25") && said.contains("10.43.100.0/24"), "{said}");
}
