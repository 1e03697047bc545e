//! `penstock-engine`: takes its socket, locks itself in, and serves control. Packets start to move when control has handed over
//! descriptors and said so.

use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use penstock_engine::admin::{Admin, Options};
use penstock_engine::log;
use penstock_engine::sandbox::{self, Jail};
use penstock_engine::sys::{self, process, uring};
use penstock_uapi::request::feature;
use socket2::{Domain, SockAddr, Socket, Type};

/// The nice value of the workers. A packet that waits for a core while something else uses up its time slice waits
/// milliseconds; and a core that is shared with as many busy programs leaves the TUN queue to overflow.
const NICE: i32 = -15;
/// How long a turn of a worker is to the scheduler: short turns come soon. Linux before 6.12 knows turns of one length only.
const SLICE: Duration = Duration::from_micros(100);

/// How many clients may wait to be taken in. More than are served at once: who comes while all places are taken waits without
/// being held up in connect(2).
const BACKLOG: i32 = 255;

/// The data plane of Penstock: moves packets between TUN queues and UDP sockets that penstockd hands over.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// A bound SOCK_SEQPACKET socket that was inherited.
    #[arg(long, value_name = "FD", conflicts_with = "socket", required_unless_present = "socket")]
    socket_fd: Option<RawFd>,
    /// Make the listening socket at this path.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Features to leave alone, separated by commas: uso, read-multishot, gather, gro, gso, ring.
    #[arg(long, value_name = "FEATURES", value_delimiter = ',')]
    without: Vec<String>,
    /// Become this user once the namespaces and the root directory are left behind.
    #[arg(long, value_name = "UID")]
    user: Option<u32>,
    /// Leave all namespaces and make this empty directory the root.
    #[arg(long, value_name = "DIRECTORY")]
    jail: Option<PathBuf>,
    /// Keep all rights and system calls, for tests and tracing.
    #[arg(long, conflicts_with_all = ["user", "jail"])]
    no_sandbox: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::line(error);
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let masked = masked(&arguments.without)?;
    process::close_inherited(arguments.socket_fd).map_err(|error| format!("cannot close what was left open: {error}"))?;
    let listener = listen(arguments).map_err(|error| format!("cannot listen: {error}"))?;
    let features = available() & !masked;
    // Without the right to it the packets still flow, only behind others' work.
    if let Err(error) = process::prefer(NICE) {
        log::line(format_args!("no preference on its cores ({error}): other work there makes packets wait"));
    }
    if let Err(error) = process::come_soon(SLICE) {
        log::line(format_args!("no short turns on its cores ({error}): other work there makes packets wait longer"));
    }
    // The workers inherit it. What they time in microseconds would otherwise be up to 50 of them late.
    if let Err(error) = process::be_punctual() {
        log::line(format_args!("late timers ({error}): round trips take longer while there is much to do"));
    }
    let jail = Jail { user: arguments.user, directory: arguments.jail.as_deref() };
    let sandbox = (!arguments.no_sandbox).then(|| sandbox::enter(&jail).map_err(|error| error.to_string())).transpose()?;
    let options = Options { features, sandbox };
    let admin = Admin::new(listener, options).map_err(|error| error.to_string())?;
    admin.run().map_err(|error| error.to_string())
}

/// The bits of `--without`.
fn masked(names: &[String]) -> Result<u16, String> {
    names.iter().try_fold(0, |bits, name| match feature::NAMES.iter().find(|(_, is)| is == name) {
        Some((bit, _)) => Ok(bits | bit),
        None => {
            let known: Vec<_> = feature::NAMES.iter().map(|(_, name)| *name).collect();
            Err(format!("--without {name}: no such feature; there are {}", known.join(", ")))
        }
    })
}

/// What this kernel has. What depends on the device (USO) or socket (GRO) is control's to find out.
fn available() -> u16 {
    match uring::probe() {
        Ok(abilities) => {
            let lacking = [(abilities.read_multishot, feature::READ_MULTISHOT), (abilities.gather, feature::GATHER)];
            lacking.into_iter().filter(|(able, _)| !able).fold(feature::ALL, |bits, (_, bit)| bits & !bit)
        }
        Err(error) => {
            log::line(format_args!("no io_uring here ({error}): plain system calls"));
            feature::ALL & !feature::ON_RING
        }
    }
}

fn listen(arguments: &Arguments) -> std::io::Result<OwnedFd> {
    let socket = match (&arguments.socket, arguments.socket_fd) {
        (Some(path), _) => {
            use std::os::unix::fs::PermissionsExt;
            let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
            socket.bind(&SockAddr::unix(path)?)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
            socket
        }
        (None, Some(fd)) => Socket::from(sys::socket::inherited_socket(fd)?),
        (None, None) => return Err(std::io::ErrorKind::InvalidInput.into()),
    };
    // Whoever connects is told the process that listened last (unix(7), SO_PEERCRED): the one that answers, by the number that it
    // has where the asker is.
    socket.listen(BACKLOG)?;
    socket.set_cloexec(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
