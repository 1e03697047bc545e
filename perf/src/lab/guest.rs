//! Somebody else's daemon in a namespace: a folder for its files, a log, and the same clean-up as for our own.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::cleanup::{self, Thing};
use super::{Namespace, process};
use crate::sys;

/// A foreign daemon. Dropping it ends the daemon and removes the folder; after a panic its log's end is shown.
#[derive(Debug)]
pub struct Guest {
    name: String,
    folder: PathBuf,
    child: Option<(Child, Thing)>,
}

impl Guest {
    /// An empty folder for the daemon called `name` in this namespace. Nothing runs yet.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn new(name: &str, namespace: &Namespace) -> Result<Self> {
        let folder = cleanup::new_folder(&format!("{}-{name}", namespace.name()))?;
        Ok(Self { name: name.into(), folder, child: None })
    }

    /// Starts the daemon; its output goes to [`Self::log`]. The command must become the daemon by `exec`, so that its process is the one
    /// that is ended.
    ///
    /// # Errors
    /// If one runs already, or it cannot be run.
    pub fn start(&mut self, mut command: Command) -> Result<()> {
        if self.child.is_some() {
            bail!("{} runs already", self.name);
        }
        let log = OpenOptions::new().create(true).append(true).open(self.folder.join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("{} cannot be started: {command:?}", self.name))?;
        let thing = Thing::Process { pid: child.id(), started: process::started(child.id()).unwrap_or_default() };
        cleanup::note(thing.clone())?;
        self.child = Some((child, thing));
        Ok(())
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|(child, _)| child.try_wait().ok().flatten())
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&mut self) -> Result<()> {
        let (mut child, thing) = self.child.take().with_context(|| format!("{} does not run", self.name))?;
        sys::signal(child.id(), libc::SIGKILL)?;
        child.wait()?;
        cleanup::strike(&thing);
        Ok(())
    }

    /// Asks it to end and waits for that; kills it after five seconds.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn stop(&mut self) -> Result<()> {
        let Some((mut child, thing)) = self.child.take() else { return Ok(()) };
        let _ = sys::signal(child.id(), libc::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(5);
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                child.kill()?;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        cleanup::strike(&thing);
        Ok(())
    }

    /// Where its files are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Everything that it has printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join("log")).unwrap_or_default()).into_owned()
    }

    /// The last lines of [`Self::log`].
    #[must_use]
    pub fn log_end(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the end of {}'s log:\n{}", self.name, self.log_end(60));
        }
        if let Err(error) = self.stop() {
            eprintln!("{}: {error:#}", self.name);
        }
        cleanup::remove(&Thing::Folder(self.folder.clone()));
    }
}
