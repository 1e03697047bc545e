//! One site: a namespace, a folder with its configuration, and the daemons running on them as they would on a machine.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::binaries::binary_in;
use super::cleanup::{self, Thing};
use super::process::{self, thing};
use super::{Namespace, binary};
use crate::sys;

/// How a site's daemon is started.
#[derive(Clone, Debug, Default)]
pub struct SiteOptions {
    /// The configuration, whole.
    pub config: String,
    /// Files to write beside it, readable by their owner only: name and content.
    pub secrets: Vec<(String, String)>,
    /// What `--without` masks: `gro,gso`. Empty: nothing.
    pub without: String,
    /// The folder of its programs; none: where [`binary`] finds them.
    pub programs: Option<PathBuf>,
    /// More environment for the daemon.
    pub environment: Vec<(String, String)>,
}

/// A site. Dropping it stops its daemons and removes its folder; its namespace goes with the namespace's last clone.
pub struct Site {
    name: String,
    namespace: Namespace,
    folder: PathBuf,
    options: SiteOptions,
    daemon: Option<PathBuf>,
    engine: Option<PathBuf>,
    children: Vec<Child>,
}

impl Site {
    /// Writes the site's files. Nothing runs yet: see [`Self::start`].
    ///
    /// # Errors
    /// If files cannot be written.
    pub fn new(name: &str, namespace: &Namespace, options: SiteOptions) -> Result<Self> {
        let alone = namespace.name().ends_with(name);
        let folder = cleanup::new_folder(&if alone { namespace.name().to_owned() } else { format!("{}-{name}", namespace.name()) })?;
        let site =
            Self { name: name.into(), namespace: namespace.clone(), folder, options, daemon: None, engine: None, children: Vec::new() };
        fs::create_dir(site.run_dir())?;
        site.write_secrets()?;
        site.write_config(&site.options.config)?;
        Ok(site)
    }

    fn write_secrets(&self) -> Result<()> {
        for (name, content) in &self.options.secrets {
            let path = self.folder.join(name);
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            file.write_all(content.as_bytes()).with_context(|| format!("{}", path.display()))?;
        }
        Ok(())
    }

    /// Replaces the configuration file. A running daemon does not notice by itself.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_config(&self, config: &str) -> Result<()> {
        let path = self.config_path();
        fs::write(&path, config).with_context(|| format!("{}", path.display()))
    }

    /// The path of one of the site's programs.
    fn binary(&self, name: &str) -> Result<PathBuf> {
        binary_in(name, self.options.programs.as_deref())
    }

    /// Takes this program for `penstockd` from the next start on.
    pub fn use_daemon(&mut self, program: &Path) {
        self.daemon = Some(program.to_owned());
    }

    /// Takes this program for `penstock-engine` from the next start on.
    pub fn use_engine(&mut self, program: &Path) {
        self.engine = Some(program.to_owned());
    }

    /// Starts `penstockd`, or a second one where an earlier was killed. Its output goes to [`Self::log_path`].
    ///
    /// # Errors
    /// If the program is missing or cannot be run.
    pub fn start(&mut self) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let mut command = self.daemon_command()?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.process_group(0); // Ctrl-C is for us, and we stop the daemon
        let child = command.spawn().context("penstockd cannot be started")?;
        note_process(child.id())?;
        self.children.push(child);
        Ok(())
    }

    /// The command that [`Self::start`] runs, for tests that want to see how it ends.
    ///
    /// # Errors
    /// If a program is missing.
    pub fn daemon_command(&self) -> Result<Command> {
        let daemon = self.daemon.clone().map_or_else(|| self.binary("penstockd"), Ok)?;
        let mut command = self.namespace.command(daemon);
        command.arg("--config").arg(self.config_path()).arg("--run-dir").arg(self.run_dir());
        command.arg("--engine").arg(self.engine.clone().map_or_else(|| self.binary("penstock-engine"), Ok)?);
        if !self.options.without.is_empty() {
            command.args(["--without", &self.options.without]);
        }
        command.envs(self.options.environment.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }

    /// The `penstock` command inside this site's namespace, with its run directory.
    ///
    /// # Errors
    /// If the program is missing.
    pub fn penstock_command(&self) -> Result<Command> {
        let mut command = self.namespace.command(self.binary("penstock")?);
        command.arg("--run-dir").arg(self.run_dir());
        Ok(command)
    }

    /// Runs `penstock` with these words.
    ///
    /// # Errors
    /// If it cannot be run; a bad exit is no error here.
    pub fn penstock(&self, words: &[&str]) -> Result<Output> {
        self.penstock_command()?.args(words).output().context("penstock cannot be run")
    }

    /// The whole state, as `penstock show --json` gives it.
    ///
    /// # Errors
    /// If the daemon does not answer.
    pub fn show_json(&self) -> Result<Value> {
        let output = self.penstock(&["show", "--json"])?;
        // Exit code 1 is an answer too: some peer is down.
        if !matches!(output.status.code(), Some(0 | 1)) {
            bail!("{}: penstock show: {}", self.name, String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).with_context(|| format!("{}: penstock show --json", self.name))
    }

    /// Waits until every peer is up and returns the state then.
    ///
    /// # Errors
    /// If the daemon ends, or time is out: with the peers' reasons and the end of the log.
    pub fn wait_up(&mut self, timeout: Duration) -> Result<Value> {
        self.wait_peers(timeout, |up, all| all > 0 && up == all)
    }

    /// Waits until at least this many peers are up and returns the state then.
    ///
    /// # Errors
    /// As [`Self::wait_up`].
    pub fn wait_peers_up(&mut self, count: usize, timeout: Duration) -> Result<Value> {
        self.wait_peers(timeout, |up, _| up >= count)
    }

    /// `enough` is given the number of peers that are up, and of all.
    fn wait_peers(&mut self, timeout: Duration, enough: impl Fn(usize, usize) -> bool) -> Result<Value> {
        let deadline = Instant::now() + timeout;
        loop {
            let asked = Instant::now();
            let state = self.show_json();
            let took = asked.elapsed();
            if let Ok(state) = &state {
                let peers = state["peers"].as_array().map(Vec::as_slice).unwrap_or_default();
                let up = peers.iter().filter(|peer| peer["state"] == "up").count();
                if enough(up, peers.len()) {
                    self.note_processes();
                    return Ok(state.clone());
                }
            }
            let ended = self.children.last_mut().and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = ended {
                bail!("{}: penstockd ended with {status}\n{}", self.name, self.log_end());
            }
            if Instant::now() > deadline {
                let why = match &state {
                    Ok(state) => peer_reasons(state),
                    Err(error) => format!("{error:#}"),
                };
                bail!("{}: not up after {timeout:?}: {why}\n{}", self.name, self.log_end());
            }
            // With thousands of peers the answer itself is work for control, which has better to do now.
            std::thread::sleep(Duration::from_millis(50).max(took * 5));
        }
    }

    /// Writes the engine and control into the journal, so that they are found even when their parent is gone.
    fn note_processes(&self) {
        let found = self.children.iter().flat_map(|child| process::descendants(child.id()));
        for pid in found.chain(self.engine_pid().ok()) {
            let _ = note_process(pid);
        }
    }

    fn shown_pid(&self, part: &str) -> Result<u32> {
        let pid = self.show_json()?[part]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        pid.filter(|pid| *pid > 0).with_context(|| format!("{}: no {part} process is shown", self.name))
    }

    /// The engine's process id.
    ///
    /// # Errors
    /// If none runs.
    pub fn engine_pid(&self) -> Result<u32> {
        self.shown_pid("engine")
    }

    /// The process id of control, which is not that of the launcher above it.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn control_pid(&self) -> Result<u32> {
        self.shown_pid("site")
    }

    /// The process id of the launcher started last.
    ///
    /// # Errors
    /// If none was started.
    pub fn launcher_pid(&self) -> Result<u32> {
        self.children.last().map(Child::id).with_context(|| format!("{}: no daemon runs", self.name))
    }

    /// `kill -9` for control; returns its process id. The engine is noted first, since it outlives this.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill_control(&mut self) -> Result<u32> {
        self.note_processes();
        let pid = self.control_pid()?;
        sys::signal(pid, libc::SIGKILL)?;
        Ok(pid)
    }

    /// `kill -9` for the launcher and control at once; the engine, which is noted first, goes on alone. [`Self::start`] starts another daemon.
    ///
    /// # Errors
    /// If none runs.
    pub fn kill_daemon(&mut self) -> Result<()> {
        self.note_processes();
        let control = self.control_pid()?;
        for mut child in std::mem::take(&mut self.children) {
            sys::signal(child.id(), libc::SIGKILL)?;
            sys::signal(control, libc::SIGKILL)?;
            child.wait()?;
        }
        Ok(())
    }

    /// `kill -9` for the engine; returns its process id.
    ///
    /// # Errors
    /// If none runs.
    pub fn kill_engine(&mut self) -> Result<u32> {
        let pid = self.engine_pid()?;
        sys::signal(pid, libc::SIGKILL)?;
        Ok(pid)
    }

    /// Waits until another control than `old` answers, and returns its process id.
    ///
    /// # Errors
    /// If none does in time.
    pub fn wait_new_control(&self, old: u32, timeout: Duration) -> Result<u32> {
        self.wait_new("site", old, timeout)
    }

    /// Waits until another engine than `old` is shown, and returns its process id.
    ///
    /// # Errors
    /// If none is in time.
    pub fn wait_new_engine(&self, old: u32, timeout: Duration) -> Result<u32> {
        self.wait_new("engine", old, timeout)
    }

    fn wait_new(&self, part: &str, old: u32, timeout: Duration) -> Result<u32> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.shown_pid(part) {
                Ok(pid) if pid != old => {
                    self.note_processes();
                    return Ok(pid);
                }
                _ if Instant::now() > deadline => {
                    bail!("{}: no new {part} process within {timeout:?}\n{}", self.name, self.log_end());
                }
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Tells the daemon to bring its configuration files into force (SIGHUP).
    ///
    /// # Errors
    /// If none runs.
    pub fn hang_up(&self) -> Result<()> {
        let child = self.children.last().with_context(|| format!("{}: no daemon runs", self.name))?;
        Ok(sys::signal(child.id(), libc::SIGHUP)?)
    }

    /// Stops the daemon politely and waits for it. Returns how the one started last ended, or `None` if none was started.
    ///
    /// # Errors
    /// If it does not end within ten seconds; it is killed then.
    pub fn stop(&mut self) -> Result<Option<ExitStatus>> {
        let mut last = None;
        for mut child in std::mem::take(&mut self.children) {
            let things: Vec<_> = std::iter::once(child.id()).chain(process::descendants(child.id())).filter_map(thing).collect();
            let _ = sys::signal(child.id(), libc::SIGTERM);
            let deadline = Instant::now() + Duration::from_secs(10);
            while child.try_wait()?.is_none() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
            let late = child.try_wait()?.is_none();
            things.iter().for_each(cleanup::remove);
            last = Some(child.wait()?);
            if late {
                bail!("{}: penstockd did not end within ten seconds of SIGTERM\n{}", self.name, self.log_end());
            }
        }
        Ok(last)
    }

    /// The site's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace it runs in.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Where its files are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its configuration file.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.folder.join("penstock.toml")
    }

    /// The daemon's run directory.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// What the daemons print.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Everything that the daemons have printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.note_processes();
        if std::thread::panicking() {
            eprintln!("--- the end of {}'s log:\n{}", self.name, self.log_end());
        }
        if let Err(error) = self.stop() {
            eprintln!("{error:#}");
        }
        cleanup::remove(&Thing::Folder(self.folder.clone()));
    }
}

fn note_process(pid: u32) -> Result<()> {
    thing(pid).map_or(Ok(()), cleanup::note)
}

/// The most peers whose reasons are told.
const REASONS_MAX: usize = 8;

fn peer_reasons(state: &Value) -> String {
    let peers = state["peers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let reasons = peers.iter().filter(|peer| peer["state"] != "up").take(REASONS_MAX).map(|peer| {
        let text = |key: &str| peer[key].as_str().unwrap_or("-").to_owned();
        format!("{} is {}: {}", text("name"), text("state"), text("reason"))
    });
    reasons.collect::<Vec<_>>().join("; ")
}

/// A fresh pre-shared key, as `penstock key psk` makes it.
///
/// # Errors
/// If the program is missing or fails.
pub fn new_psk() -> Result<String> {
    let output = Command::new(binary("penstock")?).args(["key", "psk"]).output().context("penstock cannot be run")?;
    if !output.status.success() {
        bail!("penstock key psk: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).context("penstock key psk")
}
