//! The daemon proper: one thread, one event loop around the pure IKE state machine.
//!
//! ```text
//!   configuration ──► setup: find an engine and adopt it, or open device and sockets, order one, hand all over
//!                        │
//!                        ▼
//!   IKE sockets ─┐   ┌───────┐ outputs ──► datagrams, two-phase installs, log
//!   engine events├──►│ work  │
//!   time         ├──►│ (Ike) │ ◄── results of installs
//!   control.sock ┘   └───────┘
//! ```

use std::io::Write;
use std::process::ExitCode;

use tokio::task::LocalSet;

use crate::config::{Config, Finding};
use crate::launcher::{MISUSE, Options, RELIEVED};
use crate::{confine, log, private, sys};

mod admin;
mod changes;
mod devices;
mod host;
mod install;
mod kept;
mod link;
mod policies;
mod resolve;
mod setup;
mod show;
mod site;
mod work;

/// Why the daemon cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    /// The configuration or the machine must be changed first; one line for each finding.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Misuse(Vec<Finding>),
    /// A newer program of its own takes over.
    #[error("relieved")]
    Relieved,
    /// It was told to end before it had begun.
    #[error("ended while starting")]
    Ended,
    /// Something failed while running.
    #[error("{0}")]
    Failed(String),
}

impl Stop {
    fn misuse(finding: Finding) -> Self {
        Self::Misuse(vec![finding])
    }
}

/// Runs control with its end of the link to the launcher.
#[must_use]
pub fn run(options: Options, launcher_fd: i32) -> ExitCode {
    match try_run(options, launcher_fd) {
        Ok(()) | Err(Stop::Ended) => ExitCode::SUCCESS,
        Err(Stop::Relieved) => ExitCode::from(RELIEVED),
        Err(Stop::Misuse(findings)) => misuse(&findings),
        Err(Stop::Failed(reason)) => {
            log::error("failed", &[("reason", &reason)]);
            ExitCode::FAILURE
        }
    }
}

fn misuse(findings: &[Finding]) -> ExitCode {
    let mut stderr = std::io::stderr().lock();
    for finding in findings {
        // Nobody is left to tell that stderr is closed.
        let _ = writeln!(stderr, "penstockd: {finding}");
    }
    ExitCode::from(MISUSE)
}

/// Goes as far as a second daemon can beside the one that runs: a program that cannot read the configuration must not take over.
#[must_use]
pub fn trial(options: &Options) -> ExitCode {
    match Config::load(&options.config) {
        Ok(_) => ExitCode::SUCCESS,
        Err(findings) => misuse(&findings),
    }
}

fn try_run(options: Options, launcher_fd: i32) -> Result<(), Stop> {
    let (config, texts) = kept::start(&options).map_err(Stop::Misuse)?;
    let failed = |what: &'static str| move |error: std::io::Error| Stop::Failed(format!("{what}: {error}"));
    private::directory(&options.run_dir).map_err(failed("no run directory"))?;
    for socket in [options.control_socket(), options.engine_socket()] {
        // Found before anything is made that would have to go again.
        private::is_socket(&socket).map_err(failed("no socket"))?;
    }
    confine::enter(&options.run_dir).map_err(failed("not locked in"))?;
    let link = sys::inherited(launcher_fd)
        .ok_or_else(|| Stop::Failed("penstockd starts its second process by itself: leave out --launcher-fd".into()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed("no runtime"))?;
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let link = link::Link::new(link).map_err(failed("no link to the launcher"))?;
        let ready = setup::prepare(&config, &options, &link).await?;
        work::Work::new((config, texts), options, link, ready).await?.run().await
    })
}
