//! A stand-in for an engine that was taken over: it holds what an engine holds (a TUN queue, a UDP socket, a ring), enters the
//! engine's own sandbox by the engine's own functions, and then tries to get out, as root before and an intruder after. It says what
//! came of each attempt, one a line: the name, and `done` or the errno.
//!
//! ```text
//!   prisoner free      DIR   no sandbox: shows which attempts succeed where nothing stops them
//!   prisoner confined  DIR   everything but the system call filters: what holds without them
//!   prisoner jailed    DIR   as an engine that runs
//! ```
//! `DIR` is an empty directory of the test.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use io_uring::IoUring;
use penstock_engine::sandbox::{self, Jail};
use penstock_engine::sys::uring;
use socket2::{Domain, Socket, Type};

use sys::call;

mod attempts;
mod sys;

/// What an intruder finds in the process, and knows of the machine.
pub(crate) struct World {
    /// A process outside.
    victim: usize,
    /// Where something lies in that process's memory.
    treasure: usize,
    /// A program that can be run.
    program: File,
    /// Paths in the test's directory.
    present: CString,
    absent: CString,
    listener: CString,
    /// A queue of a TUN device.
    tun: OwnedFd,
    udp: Socket,
    /// Not connected.
    unix: Socket,
    /// A network namespace.
    namespace: File,
    /// A file without a name.
    memory: OwnedFd,
    ring: IoUring,
    /// A page of its own.
    page: usize,
}

const PAGE: usize = 4096;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("prisoner: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [mode, directory] => outside(mode, directory),
        [mode, directory, victim, treasure] => inside(mode, Path::new(directory), victim.parse()?, treasure.parse()?),
        _ => bail!("prisoner MODE DIRECTORY"),
    }
}

/// Starts the prisoner proper, but for `free` in a process namespace of its own as the launcher does, and stays as its victim.
fn outside(mode: &str, directory: &str) -> Result<()> {
    // Whatever succeeds shall not reach the machine: no device, mount or name outside.
    call(libc::SYS_unshare, [(libc::CLONE_NEWNET | libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC) as usize])?;
    let private = (libc::MS_REC | libc::MS_PRIVATE) as usize;
    call(libc::SYS_mount, [c"none".as_ptr() as usize, c"/".as_ptr() as usize, 0, private, 0])?;
    if mode != "free" {
        call(libc::SYS_unshare, [libc::CLONE_NEWPID as usize])?;
    }
    let treasure = Box::new([7u8; 64]);
    let (victim, place) = (std::process::id().to_string(), (treasure.as_ptr() as usize).to_string());
    let status = Command::new(std::env::current_exe()?).args([mode, directory, &victim, &place]).status()?;
    drop(treasure);
    if status.success() { Ok(()) } else { bail!("{mode}: {status}") }
}

fn inside(mode: &str, directory: &Path, victim: usize, treasure: usize) -> Result<()> {
    let mut world = gather(directory, victim, treasure).context("what an engine has")?;
    let jail_directory = directory.join("jail");
    std::fs::create_dir_all(&jail_directory)?;
    let jail = Jail { user: Some(65534), directory: Some(&jail_directory) };
    match mode {
        "free" => {}
        "confined" => drop(sandbox::confine(&jail)?),
        "jailed" => drop(sandbox::enter(&jail)?),
        _ => bail!("no such mode: {mode}"),
    }
    let ring = uring::builder().build(8)?;
    ring.submitter().register_files(&[world.udp.as_raw_fd(), world.tun.as_raw_fd()])?;
    match mode {
        "free" => ring.submitter().register_enable_rings()?,
        _ => uring::restrict(&ring.submitter(), true)?,
    }
    world.ring = ring;
    if mode == "jailed" {
        sandbox::tighten()?;
    }
    let mut stdout = io::stdout().lock();
    for (name, lasting, attempt) in attempts::ALL {
        let result = if mode == "free" && *lasting { sys::in_a_child(|| attempt(&mut world)) } else { attempt(&mut world) };
        match result {
            Ok(()) => writeln!(stdout, "{name}: done")?,
            Err(error) => writeln!(stdout, "{name}: {}", error.raw_os_error().unwrap_or(libc::EIO))?,
        }
    }
    Ok(())
}

fn gather(directory: &Path, victim: usize, treasure: usize) -> Result<World> {
    let path = |name: &str| CString::new(directory.join(name).as_os_str().as_bytes());
    std::fs::write(directory.join("present"), "a secret")?;
    let listening = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    listening.bind(&socket2::SockAddr::unix(directory.join("listener"))?)?;
    listening.listen(4)?;
    // It listens to the end of the process.
    std::mem::forget(listening);
    let udp = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let memory = call(libc::SYS_memfd_create, [c"prisoner".as_ptr() as usize, 0])?;
    let memory = File::options().read(true).write(true).open(format!("/proc/self/fd/{memory}"))?;
    memory.set_len(PAGE as u64)?;
    let anonymous = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
    Ok(World {
        victim,
        treasure,
        program: File::open("/bin/true")?,
        present: path("present")?,
        absent: path("absent")?,
        listener: path("listener")?,
        tun: tun()?,
        udp,
        unix: Socket::new(Domain::UNIX, Type::STREAM, None)?,
        namespace: File::open("/proc/self/ns/net")?,
        memory: memory.into(),
        // Exchanged for one that was made where an engine makes it.
        ring: IoUring::new(2)?,
        page: call(libc::SYS_mmap, [0, PAGE, (libc::PROT_READ | libc::PROT_WRITE) as usize, anonymous, usize::MAX, 0])?,
    })
}

/// A queue of a device that vanishes with its namespace.
fn tun() -> Result<OwnedFd> {
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let mut request = [0u8; 40];
    request.iter_mut().zip(b"prison0").for_each(|(place, byte)| *place = *byte);
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    request.iter_mut().skip(libc::IFNAMSIZ).zip((flags as u16).to_ne_bytes()).for_each(|(place, byte)| *place = byte);
    call(libc::SYS_ioctl, [tun.as_raw_fd() as usize, libc::TUNSETIFF as usize, request.as_mut_ptr() as usize])?;
    Ok(tun.into())
}
