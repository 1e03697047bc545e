//! strongSwan's charon as a peer: the implementation of others that every story of `tests/strongswan*.rs` has on the other
//! side. It encrypts in user space (kernel-libipsec), so it runs wherever Penstock does, and it is told what to do by `swanctl`.
//!
//! Each one lives in its namespace and sees a `/run` of its own, since it writes a pid file there: several can run
//! on one machine. What that version lacks is what the stories are about: no extended sequence numbers, a replay window of
//! 128 packets, one child for all cores.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use penstock_perf::lab::{Guest, Namespace};

mod raw;

pub use raw::Section;

/// The daemon, where Debian's package strongswan-charon puts it.
pub const CHARON: &str = "/usr/lib/ipsec/charon";
/// What it loads. Not `aes`: that is AES without the processor's help.
const PLUGINS: &str =
    "random nonce openssl kdf pem pkcs1 pkcs8 x509 pubkey curve25519 gcm socket-default kernel-libipsec kernel-netlink vici";

/// A running charon. Dropping it ends it and takes its files away.
#[derive(Debug)]
pub struct StrongSwan {
    guest: Guest,
    namespace: Namespace,
}

impl StrongSwan {
    /// Starts a charon in a namespace, waits until it answers, and loads a configuration in the words of swanctl.conf(5). `charon`
    /// holds more lines for the `charon` section of strongswan.conf(5).
    ///
    /// # Errors
    /// If it is not installed, does not answer within five seconds, or refuses the configuration; with the end of its log.
    pub fn start(namespace: &Namespace, charon: &str, config: &str) -> Result<Self> {
        let guest = Guest::new("strongswan", namespace)?;
        let mut this = Self { guest, namespace: namespace.clone() };
        let log = "default = 1\nike = 1\nnet = 0\nenc = 0\nesp = 0\ntime_format = %H:%M:%S\ntime_add_ms = yes\nflush_line = yes\n";
        let settings = format!(
            "charon {{\nload = {PLUGINS}\ninstall_virtual_ip = no\n{charon}\nplugins {{\nkernel-libipsec {{\nload = yes\n}}\n\
             vici {{\nsocket = unix:///run/vici\n}}\n}}\nfilelog {{\nmain {{\npath = /run/log\nappend = yes\n{log}}}\n}}\n}}\n"
        );
        fs::write(this.file("strongswan.conf"), settings)?;
        this.write_config(config)?;
        this.run()?;
        Ok(this)
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.guest.folder().join(name)
    }

    fn write_config(&self, config: &str) -> Result<()> {
        let path = self.file("swanctl.conf");
        fs::write(&path, config)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).context("swanctl.conf")
    }

    /// Starts charon, also again after [`Self::kill`], and loads the configuration.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn run(&mut self) -> Result<()> {
        ensure!(fs::metadata(CHARON).is_ok(), "{CHARON} is not there (Debian packages strongswan-charon, libcharon-extra-plugins)");
        // What a killed one leaves behind would keep the next from starting, or answer in its place.
        for left in ["charon.pid", "vici", "charon.vici"] {
            let _ = fs::remove_file(self.file(left));
        }
        // `ip netns exec` has made a mount namespace already, and charon becomes this very process.
        let mut command = self.namespace.command("/bin/sh");
        command.arg("-c").arg(format!("mount --bind \"$1\" /run && STRONGSWAN_CONF=/run/strongswan.conf exec {CHARON}"));
        command.arg("sh").arg(self.guest.folder());
        self.guest.start(command)?;
        let deadline = Instant::now() + Duration::from_secs(5);
        while let Err(error) = self.swanctl(&["--stats"]) {
            if let Some(status) = self.guest.ended() {
                bail!("charon ended with {status}:\n{}", self.guest.log_end(30));
            }
            ensure!(Instant::now() < deadline, "charon does not answer: {error:#}\n{}", self.guest.log_end(30));
            std::thread::sleep(Duration::from_millis(20));
        }
        self.load()
    }

    fn load(&self) -> Result<()> {
        let config = self.file("swanctl.conf");
        let config = config.to_str().context("a path in ASCII")?;
        self.swanctl(&["--load-all", "--noprompt", "--file", config]).map(drop)
    }

    /// Replaces the configuration of a running charon.
    ///
    /// # Errors
    /// If it is refused.
    pub fn reload(&self, config: &str) -> Result<()> {
        self.write_config(config)?;
        self.load()
    }

    /// `swanctl` with these words; what it printed.
    ///
    /// # Errors
    /// If charon does not answer or refuses, with all that was said.
    pub fn swanctl(&self, words: &[&str]) -> Result<String> {
        let uri = format!("unix://{}", self.file("vici").display());
        let output = Command::new("swanctl")
            .args(words)
            .args(["--uri", &uri])
            .output()
            .context("swanctl cannot be run (package strongswan-swanctl)")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "swanctl {words:?}: {said}{}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(said)
    }

    /// Initiates a child, and the IKE SA that it needs.
    ///
    /// # Errors
    /// If it is not up within ten seconds, with what swanctl saw of the exchange.
    pub fn initiate(&self, child: &str) -> Result<()> {
        self.swanctl(&["--initiate", "--child", child, "--timeout", "10"]).map(drop)
    }

    /// Its IKE SAs with their children, as `swanctl --list-sas --raw` gives them.
    ///
    /// # Errors
    /// If charon does not answer.
    pub fn sas(&self) -> Result<Section> {
        Section::parse(&self.swanctl(&["--list-sas", "--raw"])?)
    }

    /// The installed children of all IKE SAs.
    ///
    /// # Errors
    /// If charon does not answer.
    pub fn children(&self) -> Result<Vec<Section>> {
        let sas = self.sas()?;
        let children = sas.all("child-sas").into_iter().flat_map(Section::sections).cloned();
        Ok(children.filter(|child| child.value("state") == "INSTALLED").collect())
    }

    /// `kill -9`. [`Self::run`] starts another.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.guest.kill()
    }

    /// Everything that charon has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.guest.log()
    }

    /// The namespace that it runs in.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }
}
