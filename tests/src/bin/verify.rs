//! `cargo verify`: installs what the tests need, builds the daemons, runs every test. One command for people and for
//! continuous integration, so that nobody has to know the order.

use std::process::{Command, ExitCode};

/// Programs and plugins that the tests need, by file name, and the Debian package that brings each.
const NEEDED: [(&str, &str); 8] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("swanctl", "strongswan-swanctl"),
    ("charon", "strongswan-charon"),
    ("libstrongswan-kernel-libipsec.so", "libcharon-extra-plugins"),
    ("libstrongswan-gcm.so", "libstrongswan-standard-plugins"),
    ("libstrongswan-curve25519.so", "libstrongswan-extra-plugins"),
];

/// Folders that are looked in beside `PATH`: root's may lack the first two, and nobody's has strongSwan's own.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/lib/ipsec", "/usr/lib/ipsec/plugins"];

/// What is run, in this order. The stories share two cores and measure loss, so they run one at a time.
const STEPS: [(&str, &[&str]); 3] = [
    ("the daemons and the command", &["build", "-p", "penstock", "-p", "penstock-engine", "-p", "penstock-perf", "--bins"]),
    ("the tests of the parts", &["test", "--workspace", "--exclude", "penstock-tests", "--no-fail-fast"]),
    ("the stories: two sites, real packets", &["test", "-p", "penstock-tests", "--no-fail-fast", "--", "--test-threads=1"]),
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("verify: {reason}");
            ExitCode::from(1)
        }
    }
}

fn run() -> Result<(), String> {
    let root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    if !root {
        return Err("the stories make network namespaces and TUN devices: run it as root".into());
    }
    install()?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut failed = Vec::new();
    for (what, arguments) in STEPS {
        eprintln!("verify: {what}: cargo {}", arguments.join(" "));
        let status = Command::new(&cargo).args(arguments).status().map_err(|error| format!("cargo cannot be run: {error}"))?;
        if !status.success() {
            failed.push(what);
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join("; "))) }
}

fn install() -> Result<(), String> {
    let missing: Vec<_> = NEEDED.iter().filter(|(file, _)| !found(file)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        eprintln!("verify: every program that the tests need is here");
        return Ok(());
    }
    eprintln!("verify: installing {} with apt-get", missing.join(", "));
    for arguments in [vec!["update"], [vec!["install", "-y", "--no-install-recommends"], missing].concat()] {
        let status = Command::new("apt-get")
            .args(&arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .status()
            .map_err(|error| format!("apt-get cannot be run: {error}; install these packages by hand"))?;
        if !status.success() {
            return Err(format!("apt-get {} failed", arguments.join(" ")));
        }
    }
    Ok(())
}

fn found(file: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(FOLDERS.map(Into::into)).any(|folder: std::path::PathBuf| folder.join(file).is_file())
}
