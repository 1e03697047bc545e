//! The command `penstock`: what may be typed, and what its exit codes mean.
//!
//! It is a client of `control.sock` and nothing more; `check` and `key` work without a daemon. What was asked for
//! goes to stdout, the rest to stderr. Everything runs against [`Streams`], so that tests see what people see.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

pub use streams::Streams;

mod apply;
mod check;
mod client;
mod doctor;
mod key;
mod order;
mod show;
mod streams;
mod upgrade;

#[cfg(test)]
mod tests;

/// Exit code: yes, or done.
pub const YES: u8 = 0;
/// Exit code: no.
pub const NO: u8 = 1;
/// Exit code: misuse or error.
pub const ERROR: u8 = 2;
/// Exit code: the daemon cannot be reached.
pub const UNREACHABLE: u8 = 3;

/// The run directory unless told otherwise.
pub const RUN_DIR: &str = "/run/penstock";

const AFTER_HELP: &str = "\
First steps, at both sites:
  1. Make a key, once, and bring the same file to the other site by a safe way:
       penstock key psk --out /etc/penstock/london.psk
  2. Write /etc/penstock/penstock.toml:
       [site]
       name = \"frankfurt\"
       [interface.pen0]
       address = [\"192.168.192.1/30\"]
       [peer.london]
       endpoint = \"203.0.113.7\"
       local_subnets = [\"10.43.43.0/24\"]
       subnets = [\"10.43.100.0/24\"]
       psk_file = \"london.psk\"
  3. Have it checked:         penstock check
  4. Start the daemon (root): penstockd
  5. Look:                    penstock

Verbs may be shortened while they are unambiguous: penstock s london
Exit codes: 0 yes or done, 1 no, 2 misuse or error, 3 the daemon cannot be reached
(check: 0 good, 1 warnings, 2 mistakes, 3 the file cannot be read)";

/// Shows and steers the IPsec gateway of this site. Without a verb it shows the state.
#[derive(Debug, Parser)]
#[command(name = "penstock", version, infer_subcommands = true, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    /// Answer in JSON
    #[arg(long, global = true)]
    json: bool,

    /// Where the daemon keeps its sockets
    #[arg(long, global = true, value_name = "DIR", default_value = RUN_DIR)]
    run_dir: PathBuf,

    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, PartialEq, Eq, Subcommand)]
enum Verb {
    /// Show what is up, what is down and why, and what was dropped
    #[command(after_help = "\
Exit code 1 if PEER is named and not up.

Examples:
  penstock show
  penstock show london
  penstock show peer london
  penstock show --json | jq '.peers[] | {name, state}'")]
    Show {
        /// Only this peer; `peer NAME` shows everything about it: names, addresses, next keys, selectors, last error
        #[arg(value_names = ["PEER", "NAME"], num_args = 0..=2)]
        peer: Vec<String>,
    },
    /// Wait until a peer is up
    #[command(after_help = "\
Nothing is asked of the peer: what the configuration says goes on. Exit code 1 if it is not up in time.

Examples:
  penstock wait london
  penstock wait london --timeout 2m && ping -c 3 10.43.100.1")]
    Wait {
        /// The peer
        peer: String,
        /// How long to wait, up to an hour
        #[arg(long, value_name = "TIME", value_parser = apply::confirm_time, default_value = "30s")]
        timeout: Duration,
    },
    /// Connect to a peer, or to all, at once
    #[command(after_help = "\
Exit code 1 if a peer is not up when the waiting ends; it goes on being tried.

Examples:
  penstock up
  penstock up london --wait 30")]
    Up {
        /// Only this peer
        peer: Option<String>,
        /// How many seconds to wait until it is up; 0 does not wait
        #[arg(long, value_name = "SECONDS", default_value_t = 10)]
        wait: u16,
    },
    /// Close the tunnel to a peer, or to all, and keep it closed; its packets are dropped, never sent in clear
    Down {
        /// Only this peer
        peer: Option<String>,
    },
    /// Orders about one peer
    #[command(infer_subcommands = true)]
    Peer {
        #[command(subcommand)]
        what: PeerOrder,
    },
    /// Bring what the configuration files say into force, by difference: what has not changed is not touched
    #[command(after_help = "\
Prints each change and what it costs. A mistake in the files changes nothing, and is named with file, line and key.
SIGHUP to penstockd does the same, and the log says the rest.

Examples:
  penstock apply --dry-run
  penstock apply --confirm 30s && ping -c 3 10.43.100.1 && penstock confirm")]
    Apply {
        /// Only print the changes
        #[arg(long)]
        dry_run: bool,
        /// Roll it back after this time unless `penstock confirm` comes before
        #[arg(long, value_name = "TIME", value_parser = apply::confirm_time, conflicts_with = "dry_run")]
        confirm: Option<Duration>,
    },
    /// Keep what `apply --confirm` brought into force
    Confirm,
    /// Let the program on disk take over from the one that runs: no packet is lost, keys are renewed
    #[command(after_help = "\
Without a word, and with `control`, it is penstockd; the engine goes on meanwhile. With `engine` it is penstock-engine; penstockd goes on.
A program that cannot do its work here does not take over, and what runs goes on.
Exit code 1 if it does not take over, or if the waiting ends first.

Examples:
  apt-get install --only-upgrade penstock && penstock upgrade && penstock upgrade engine")]
    Upgrade {
        /// Which of the two
        #[arg(value_enum, default_value_t = upgrade::What::Control)]
        what: upgrade::What,
        /// How many seconds to wait until the peers that were up are up with the new one
        #[arg(long, value_name = "SECONDS", default_value_t = 20)]
        wait: u16,
    },
    /// Check a configuration and the files that it names, and change nothing
    #[command(after_help = "\
Each mistake is one line: FILE:LINE: KEY: what is wrong; what to do
Exit codes as monitoring plugins have them: 0 good, 1 warnings, 2 mistakes, 3 the file cannot be read.

Examples:
  penstock check
  penstock check /tmp/new/penstock.toml && cp -a /tmp/new/. /etc/penstock/")]
    Check {
        /// The configuration; peers.d/*.toml beside it is read, too
        #[arg(default_value = crate::config::PATH)]
        file: PathBuf,
    },
    /// Check this machine: what Penstock needs of kernel, rights and limits, and what to do about what is missing
    #[command(after_help = "\
One line for each check: verdict, what, what was found; what to do
  good     as it should be
  care     Penstock runs, slower or less tightly locked in
  bad      Penstock does not run
  unknown  only root can find out
Exit code 1 if anything is bad.

Examples:
  penstock doctor
  penstock doctor --json | jq '.checks[] | select(.verdict != \"good\")'")]
    Doctor,
    /// Make keys
    #[command(infer_subcommands = true)]
    Key {
        #[command(subcommand)]
        what: Key,
    },
}

#[derive(Debug, PartialEq, Eq, Subcommand)]
enum PeerOrder {
    /// Give all SAs with a peer new keys, without losing a packet, and wait until they are in use
    #[command(after_help = "\
Exit code 1 if the peer is not up, or if the waiting ends first; the rekey goes on then.

Examples:
  penstock peer rekey london
  penstock peer rekey london --json")]
    Rekey {
        /// The peer
        peer: String,
        /// How many seconds to wait; 0 does not wait
        #[arg(long, value_name = "SECONDS", default_value_t = 10)]
        wait: u16,
    },
}

#[derive(Debug, PartialEq, Eq, Subcommand)]
enum Key {
    /// Make a pre-shared key: 0s and 32 random bytes in base64, as other IKE daemons read it
    #[command(after_help = "\
Examples:
  penstock key psk --out /etc/penstock/london.psk
  penstock key psk | ssh london 'umask 077; cat > /etc/penstock/frankfurt.psk'")]
    Psk {
        /// Write a new file that only its owner can read, instead of to stdout; an existing file is never replaced
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// Why the command ends without an answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The exit code and the reason.
    Because(u8, String),
    /// The reader of stdout has gone: nobody wants the rest, and that is no error.
    BrokenPipe,
}

impl Failure {
    fn error(reason: impl Into<String>) -> Self {
        Self::Because(ERROR, reason.into())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::error(format!("the answer cannot be written: {error}")),
        }
    }
}

/// Does what was typed.
pub fn run(cli: &Cli, streams: &mut Streams<'_>) -> ExitCode {
    ExitCode::from(code(cli, streams))
}

fn code(cli: &Cli, streams: &mut Streams<'_>) -> u8 {
    let result = match cli.verb.as_ref().unwrap_or(&Verb::Show { peer: Vec::new() }) {
        Verb::Show { peer } => show::run(&cli.run_dir, peer, cli.json, streams),
        Verb::Wait { peer, timeout } => order::wait(&cli.run_dir, peer, *timeout, cli.json, streams),
        Verb::Up { peer, wait } => order::up(&cli.run_dir, peer.as_deref(), *wait, cli.json, streams),
        Verb::Down { peer } => order::down(&cli.run_dir, peer.as_deref(), cli.json, streams),
        Verb::Apply { dry_run, confirm } => apply::apply(&cli.run_dir, *dry_run, *confirm, cli.json, streams),
        Verb::Confirm => apply::confirm(&cli.run_dir, cli.json, streams),
        Verb::Upgrade { what: upgrade::What::Control, wait } => upgrade::control(&cli.run_dir, *wait, cli.json, streams),
        Verb::Upgrade { what: upgrade::What::Engine, .. } => upgrade::engine(&cli.run_dir, cli.json, streams),
        Verb::Doctor => doctor::run(cli.json, streams),
        Verb::Peer { what: PeerOrder::Rekey { peer, wait } } => order::rekey(&cli.run_dir, peer, *wait, cli.json, streams),
        Verb::Check { file } => check::run(file, cli.json, streams),
        Verb::Key { what: Key::Psk { out } } => key::psk(out.as_deref(), cli.json, streams),
    };
    match result.and_then(|code| streams.flush().map(|()| code)) {
        Ok(code) => code,
        Err(Failure::BrokenPipe) => YES,
        Err(Failure::Because(code, reason)) => {
            streams.complain(&reason);
            if cli.json {
                // The reason is told already; if stdout is broken too there is nowhere left to say so.
                let _ = streams.json(&serde_json::json!({ "schema": crate::admin::SCHEMA, "ok": false, "error": reason, "code": code }));
                let _ = streams.flush();
            }
            code
        }
    }
}
