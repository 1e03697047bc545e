//! `penstockd`: the daemon. Reads the configuration, makes device, sockets and routes, runs IKE, and tells the engine
//! what to do. Its first process is the launcher; it starts the daemon proper as a second one.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use penstock::launcher::{self, Options};

/// Keys pass through this process.
#[global_allocator]
static MEMORY: penstock::Wiping = penstock::Wiping;

/// Joins this site with the peers of its configuration: IKEv2 for keys, ESP in UDP for packets.
///
/// Stays in the foreground and logs to stderr; SIGTERM or Ctrl-C ends it cleanly: peers are told, and device,
/// addresses and routes that it made go away. SIGHUP brings a changed configuration into force, as `penstock apply` does. The state is shown by `penstock`.
#[derive(Debug, Parser)]
#[command(
    name = "penstockd",
    version,
    after_help = "Exit codes: 0 ended as told, 1 failed while running, 2 the configuration or the machine must be changed first."
)]
struct Arguments {
    /// The configuration; `peers.d/*.toml` beside it is read too.
    #[arg(long, value_name = "FILE", default_value = penstock::config::PATH)]
    config: PathBuf,
    /// Where engine.sock and control.sock stand.
    #[arg(long, value_name = "DIR", default_value = "/run/penstock")]
    run_dir: PathBuf,
    /// The engine's program [default: penstock-engine beside this program, else in PATH].
    #[arg(long, value_name = "PATH")]
    engine: Option<PathBuf>,
    /// Kernel features to leave alone: uso, read-multishot, gather, gro, gso, ring.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = feature)]
    without: Vec<String>,
    /// Run the engine without its jail; for debugging only.
    #[arg(long)]
    no_sandbox: bool,
    /// Only show that this program can read the configuration.
    #[arg(long, hide = true)]
    trial: bool,
    /// The link to the launcher: makes this the daemon proper.
    #[arg(long, hide = true, value_name = "FD")]
    launcher_fd: Option<i32>,
}

fn feature(name: &str) -> Result<String, String> {
    let names = penstock_uapi::request::feature::NAMES.map(|(_, name)| name);
    if names.contains(&name) { Ok(name.to_owned()) } else { Err(format!("there are {}", names.join(", "))) }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (link, trial) = (arguments.launcher_fd, arguments.trial);
    let options = Options {
        config: arguments.config,
        run_dir: arguments.run_dir,
        engine: arguments.engine,
        without: arguments.without,
        no_sandbox: arguments.no_sandbox,
    };
    match link {
        _ if trial => penstock::daemon::trial(&options),
        Some(fd) => penstock::daemon::run(options, fd),
        None => launcher::run(&options),
    }
}
