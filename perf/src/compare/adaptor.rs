//! Another VPN as a subject: a TOML file with the shell text that brings up each side. Those that are known ship in
//! `perf/adaptors`; `--adaptor FILE` adds others.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::lab::{Folder, Host, Namespace, Wire, WireOptions};

/// The adaptors that ship with this program.
const SHIPPED: [&str; 3] = [
    include_str!("../../adaptors/openvpn.toml"),
    include_str!("../../adaptors/wireguard-go.toml"),
    include_str!("../../adaptors/strongswan.toml"),
];
/// Where programs are looked for beside PATH, which lacks these where root's shell does not come from a login.
const FOLDERS: [&str; 4] = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"];
/// What the sides are called in `SIDE` and `OTHER`.
const SIDES: [&str; 2] = ["left", "right"];

/// How to run a VPN between two namespaces. The shell texts see `DIR` (a folder for both sides), `SIDE` and `OTHER` (`left` or
/// `right`), `LOCAL` and `REMOTE` (addresses on the wire), `INNER_LOCAL` and `INNER_REMOTE`, and `MTU` (of the wire).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adaptor {
    /// What the subject is called.
    pub name: String,
    /// Programs, or whole paths of files, without which it is missing.
    #[serde(default)]
    pub needs: Vec<String>,
    /// A shell text; the first line that it prints is shown as the version.
    #[serde(default)]
    pub version: String,
    /// The inner addresses, left and right, that load goes between.
    pub addresses: [std::net::IpAddr; 2],
    /// Run once, before either side.
    #[serde(default)]
    pub prepare: String,
    /// Run on each side, inside its namespace, the right one first. May end or stay in the foreground.
    pub up: String,
    /// Run on each side at the end, before what is left is ended by signal.
    #[serde(default)]
    pub down: String,
    /// How long the tunnel may take to carry its first datagram.
    #[serde(default = "wait_seconds")]
    pub wait_seconds: f64,
}

fn wait_seconds() -> f64 {
    20.0
}

impl Adaptor {
    /// The adaptors that ship with this program.
    ///
    /// # Errors
    /// Never: a test reads them all.
    pub fn shipped() -> Result<Vec<Self>> {
        SHIPPED.iter().map(|text| Self::parse(text)).collect()
    }

    /// Reads an adaptor file.
    ///
    /// # Errors
    /// If it cannot be read, has an unknown or missing key, or a value that makes no sense.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{}", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let adaptor: Self = toml::from_str(text)?;
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        ensure!(!adaptor.name.is_empty() && adaptor.name.chars().all(plain), "name: letters, digits, - _ and . only");
        let taken = adaptor.name == "wire" || adaptor.name.split('-').next() == Some("penstock");
        ensure!(!taken, "name: {} is taken", adaptor.name);
        ensure!(adaptor.addresses[0] != adaptor.addresses[1], "addresses: both sides have the same");
        ensure!((0.1..=600.0).contains(&adaptor.wait_seconds), "wait_seconds: give 0.1 to 600");
        Ok(adaptor)
    }

    /// What it needs and this machine does not have.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        self.needs.iter().filter(|need| !is_there(need)).cloned().collect()
    }

    /// The first line that the version text prints.
    #[must_use]
    pub fn version(&self) -> String {
        let output = shell(Command::new("sh"), &self.version).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        text.lines().next().unwrap_or_default().trim().to_owned()
    }

    /// Brings the tunnel up on a wire of its own.
    ///
    /// # Errors
    /// If a script fails or nothing comes through in time: with the end of both logs.
    pub fn start(&self, wire: &WireOptions) -> Result<Running> {
        let namespaces = [Namespace::new(SIDES[0])?, Namespace::new(SIDES[1])?];
        let folder = Folder::new(&format!("{}-{}", namespaces[0].name(), self.name))?;
        let mtu = wire.mtu;
        let wire = Wire::new(&namespaces[0], &namespaces[1], wire)?;
        let mut running = Running { adaptor: self.clone(), children: Vec::new(), namespaces, wire, folder, mtu };
        if !self.prepare.is_empty() {
            let output = running.words(shell(Command::new("sh"), &self.prepare), 0).output().context("sh cannot be run")?;
            ensure!(output.status.success(), "{}: prepare: {}", self.name, String::from_utf8_lossy(&output.stderr).trim());
        }
        for side in [1, 0] {
            running.up(side)?;
        }
        running.wait()?;
        Ok(running)
    }
}

/// A tunnel that an adaptor brought up; goes down when dropped.
pub struct Running {
    adaptor: Adaptor,
    children: Vec<Child>,
    namespaces: [Namespace; 2],
    /// The wire under it.
    pub wire: Wire,
    folder: Folder,
    mtu: u32,
}

impl Running {
    /// The inner end of one side.
    #[must_use]
    pub fn inner(&self, side: usize) -> Host {
        Host { namespace: self.namespaces[side].clone(), address: self.adaptor.addresses[side] }
    }

    fn words(&self, mut command: Command, side: usize) -> Command {
        let other = 1 - side;
        let words = BTreeMap::from([
            ("DIR", self.folder.path().display().to_string()),
            ("SIDE", SIDES[side].into()),
            ("OTHER", SIDES[other].into()),
            ("LOCAL", self.wire.host_v4(side).address.to_string()),
            ("REMOTE", self.wire.host_v4(other).address.to_string()),
            ("INNER_LOCAL", self.adaptor.addresses[side].to_string()),
            ("INNER_REMOTE", self.adaptor.addresses[other].to_string()),
            ("MTU", self.mtu.to_string()),
        ]);
        command.envs(words);
        command
    }

    fn inside(&self, side: usize, text: &str) -> Command {
        self.words(shell(self.namespaces[side].command("sh"), text), side)
    }

    fn log(&self, side: usize) -> PathBuf {
        self.folder.path().join(format!("{}.log", SIDES[side]))
    }

    fn up(&mut self, side: usize) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(self.log(side))?;
        let mut command = self.inside(side, &self.adaptor.up);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let child = command.spawn().context("sh cannot be run")?;
        self.children.push(child);
        self.namespaces[side].note_processes()
    }

    fn wait(&mut self) -> Result<()> {
        let come = super::reach::wait(&self.inner(0), &self.inner(1), Duration::from_secs_f64(self.adaptor.wait_seconds));
        self.namespaces.iter().try_for_each(Namespace::note_processes)?;
        if let Err(error) = come {
            bail!("{}: {error:#}\n--- left\n{}\n--- right\n{}", self.adaptor.name, self.log_end(0), self.log_end(1));
        }
        Ok(())
    }

    fn log_end(&self, side: usize) -> String {
        let log = fs::read_to_string(self.log(side)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for side in [0, 1] {
            if !self.adaptor.down.is_empty() {
                let _ = self.inside(side, &self.adaptor.down).output(); // what it leaves is ended below
            }
            self.namespaces[side].end_processes();
        }
        for child in &mut self.children {
            let _ = child.kill(); // it has ended with the others, unless it never got inside
            let _ = child.wait();
        }
    }
}

fn shell(mut command: Command, text: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    command.args(["-ceu", text]).env("PATH", format!("{path}:{}", FOLDERS.join(":")));
    command
}

/// Whether a program, or a file given by its whole path, is on this machine.
pub(super) fn is_there(need: &str) -> bool {
    if need.starts_with('/') {
        return Path::new(need).exists();
    }
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').chain(FOLDERS).any(|folder| Path::new(folder).join(need).is_file())
}

#[cfg(test)]
mod tests {
    use super::Adaptor;

    #[test]
    fn the_adaptors_that_ship_are_whole() {
        let names: Vec<String> = Adaptor::shipped().expect("they can be read").into_iter().map(|adaptor| adaptor.name).collect();
        assert_eq!(names, ["openvpn", "wireguard-go", "strongswan-libipsec"]);
    }

    #[test]
    fn an_adaptor_that_makes_no_sense_is_refused() {
        let good = "name = \"x\"\naddresses = [\"10.9.0.1\", \"10.9.0.2\"]\nup = \"true\"\n";
        assert!(Adaptor::parse(good).is_ok());
        for (from, to) in [
            ("name = \"x\"", "name = \"a b\""),
            ("name = \"x\"", "name = \"wire\""),
            ("name = \"x\"", "name = \"penstock-other\""),
            ("10.9.0.2", "10.9.0.1"),
            ("up =", "upp ="),
            ("up = \"true\"", "up = \"true\"\nwait_seconds = 0.0"),
        ] {
            assert!(Adaptor::parse(&good.replace(from, to)).is_err(), "{to}");
        }
    }

    #[test]
    fn what_is_not_installed_is_named() {
        let text = "name = \"x\"\nneeds = [\"sh\", \"no-such-program\", \"/no/such/file\"]\naddresses = [\"10.9.0.1\", \"10.9.0.2\"]\nup = \"true\"\n";
        assert_eq!(Adaptor::parse(text).expect("it is whole").missing(), ["no-such-program", "/no/such/file"]);
    }
}
