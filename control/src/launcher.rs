//! The first process: starts control and, on control's order, the engine. It keeps what starting a jailed engine
//! needs, so that control can give those rights up, and it holds no key and reads nothing but single bytes.
//!
//! ```text
//!   control ──► launcher   'E': start an engine; what is left of an earlier one is ended first    'U': try the program on disk
//!   launcher ──► control   's': it is started    'f': it cannot be    'x': it has ended    'T': end cleanly
//!                          'R': reload    'u': the program on disk works: leave, it takes over    'n': it does not
//!   control ──► launcher   'N': start an engine beside the one that runs    'S': it takes that one's place, which ends by itself
//!                          'D': the queues are its own
//!   launcher ──► control   'g': it cannot be started, or has ended    'w': it is found where engines are
//! ```
//! Control that leaves for a newer program of itself is replaced at once. Control that dies without having meant to is started again and adopts the engine, which went on. Control that
//! loses the launcher leaves at once without touching anything: whoever starts Penstock next adopts the engine too.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::{log, only, private, sys};

/// Control to launcher: start an engine.
pub(crate) const START_ENGINE: u8 = b'E';
/// Launcher to control: the engine that was ordered is started; an 'x' from here on is about this one.
pub(crate) const ENGINE_STARTED: u8 = b's';
/// Launcher to control: no engine can be started.
pub(crate) const ENGINE_FAILED: u8 = b'f';
/// Launcher to control: the engine has ended.
pub(crate) const ENGINE_ENDED: u8 = b'x';
/// Control to launcher: start an engine beside the one that runs.
pub(crate) const START_NEXT: u8 = b'N';
/// Launcher to control: that one cannot be started, or has ended before it took the other's place.
pub(crate) const NEXT_GONE: u8 = b'g';
/// Control to launcher: it takes the place of the one that runs, which will end by itself.
pub(crate) const RELIEVE_ENGINE: u8 = b'S';
/// Control to launcher: the new one has the queues. A control that dies before it says so leaves two engines of which nobody knows which
/// one reads them: both are ended.
pub(crate) const QUEUES_TAKEN: u8 = b'D';
/// Launcher to control: whoever asks for the engine finds the new one.
pub(crate) const ENGINE_RELIEVED: u8 = b'w';
/// Control to launcher: see whether the program on disk could take over.
pub(crate) const TRY_PROGRAM: u8 = b'U';
/// Launcher to control: it could.
pub(crate) const PROGRAM_WORKS: u8 = b'u';
/// Launcher to control: it could not; its own lines in the log say why.
pub(crate) const PROGRAM_FAILS: u8 = b'n';
/// Launcher to control: bring the configuration files into force.
pub(crate) const RELOAD: u8 = b'R';
/// Launcher to control: end cleanly.
pub(crate) const END: u8 = b'T';

/// The exit code for a configuration or machine that cannot work as it is.
pub const MISUSE: u8 = 2;

/// The exit code of control that leaves its place to a newer program.
pub(crate) const RELIEVED: u8 = 3;

/// How long the program on disk may take to show that it works.
const TRIAL_PATIENCE: Duration = Duration::from_secs(5);

/// The engine's user: nobody.
const ENGINE_USER: &str = "65534";

/// The pause before control is started again, at first and at most.
const RESTART_FIRST: Duration = Duration::from_millis(50);
const RESTART_LAST: Duration = Duration::from_secs(5);

/// A control that lived this long died of something new.
const SETTLED: Duration = Duration::from_secs(10);

/// How long a dying engine may take to be gone.
const REAP_PATIENCE: Duration = Duration::from_millis(500);

/// How long an engine may take to end after control ended cleanly.
const ENGINE_PATIENCE: Duration = Duration::from_secs(3);

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// Where `engine.sock` and `control.sock` stand.
    pub run_dir: PathBuf,
    /// The engine's program; `None`: beside this one, else in PATH.
    pub engine: Option<PathBuf>,
    /// Names of features to leave alone, as `--without` takes them.
    pub without: Vec<String>,
    /// Start the engine without its jail.
    pub no_sandbox: bool,
}

impl Options {
    /// The engine's socket.
    #[must_use]
    pub fn engine_socket(&self) -> PathBuf {
        self.run_dir.join("engine.sock")
    }

    /// The socket of an engine that is to relieve another.
    pub(crate) fn next_engine_socket(&self) -> PathBuf {
        self.run_dir.join("engine-next.sock")
    }

    /// Our own socket.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.run_dir.join("control.sock")
    }

    /// The engine's program, beside which `own` stands.
    fn engine_program(&self, own: &Path) -> PathBuf {
        const NAME: &str = "penstock-engine";
        let sibling = || Some(own.with_file_name(NAME)).filter(|path| path.exists());
        self.engine.clone().or_else(sibling).unwrap_or_else(|| NAME.into())
    }
}

/// Runs until control ends on purpose.
#[must_use]
pub fn run(options: &Options) -> ExitCode {
    sys::make_files_private();
    if let Err(error) = sys::keep_capabilities(sys::LAUNCHER) {
        log::error("launcher-failed", &[("reason", &format!("cannot give up capabilities: {error}"))]);
        return ExitCode::from(MISUSE);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.and_then(|runtime| runtime.block_on(supervise(options)));
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            log::error("launcher-failed", &[("reason", &error)]);
            ExitCode::from(MISUSE)
        }
    }
}

/// Starts control again and again until it ends by itself; returns its exit code.
async fn supervise(options: &Options) -> io::Result<u8> {
    let _only = only::claim().await?;
    // Noted now: the name of a running program that is replaced on disk leads nowhere.
    let program = std::env::current_exe()?;
    let mut launcher = Launcher { options, program, engine: None, next: None, leaving: None, taking: false };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut pause = RESTART_FIRST;
    let mut ending = false;
    loop {
        let started = Instant::now();
        let (mut control, mut link) = launcher.start_control()?;
        let mut orders = [0; 16];
        let status = loop {
            tokio::select! {
                status = control.wait() => break status?,
                read = link.read(&mut orders) => match read {
                    Ok(count) if count > 0 => launcher.obey(orders.get(..count).unwrap_or_default(), &mut link).await,
                    // Control closed its end: it is about to exit.
                    _ => break control.wait().await?,
                },
                status = ended(&mut launcher.engine) => {
                    launcher.engine = None;
                    let level = if status.success() { log::Level::Info } else { log::Level::Error };
                    log::line(level, "engine-ended", &[("status", &status)]);
                    let _ = link.write_all(&[ENGINE_ENDED]).await;
                }
                status = ended(&mut launcher.next) => {
                    launcher.next = None;
                    log::warning("next-engine-ended", &[("status", &status)]);
                    let _ = link.write_all(&[NEXT_GONE]).await;
                }
                status = ended(&mut launcher.leaving) => {
                    launcher.leaving = None;
                    log::info("relieved-engine-ended", &[("status", &status)]);
                }
                _ = terminate.recv() => ending = tell_to_end(&mut link).await,
                _ = interrupt.recv() => ending = tell_to_end(&mut link).await,
                // A control that is gone reads the configuration when it starts again.
                _ = hangup.recv() => drop(link.write_all(&[RELOAD]).await),
            }
        };
        if std::mem::take(&mut launcher.taking) {
            log::error("engines-ended", &[("reason", &"control died while one relieved the other")]);
            for engine in [launcher.engine.take(), launcher.leaving.take()] {
                kill(engine).await;
            }
        }
        if status.code() == Some(RELIEVED.into()) {
            log::info("control-relieved", &[("after_s", &started.elapsed().as_secs())]);
            continue;
        }
        // A signal that reached control too, before it could handle it, ends it just as well.
        if let Some(code) = status.code().or(ending.then_some(0)) {
            launcher.finish(code).await;
            return Ok(u8::try_from(code).unwrap_or(1));
        }
        if started.elapsed() > SETTLED {
            pause = RESTART_FIRST;
        }
        log::error("control-died", &[("status", &status), ("again_in_ms", &pause.as_millis())]);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RESTART_LAST);
    }
}

/// Passes the order to end on; always true.
async fn tell_to_end(link: &mut UnixStream) -> bool {
    // Control that is gone already has ended.
    let _ = link.write_all(&[END]).await;
    true
}

/// Waits for the engine's end; for ever if there is none.
async fn ended(engine: &mut Option<Child>) -> ExitStatus {
    if let Some(child) = engine
        && let Ok(status) = child.wait().await
    {
        return status;
    }
    std::future::pending().await
}

/// Ends an engine that is of no use any more.
async fn kill(engine: Option<Child>) {
    if let Some(mut engine) = engine {
        // It may have ended already.
        let _ = engine.kill().await;
    }
}

struct Launcher<'a> {
    options: &'a Options,
    program: PathBuf,
    engine: Option<Child>,
    /// To relieve it.
    next: Option<Child>,
    /// Relieved, and about to end.
    leaving: Option<Child>,
    /// The queues change hands in this moment.
    taking: bool,
}

impl Launcher<'_> {
    /// Starts control as the same program with a hidden flag that names its end of the link.
    fn start_control(&self) -> io::Result<(Child, UnixStream)> {
        let (ours, theirs) = StdStream::pair()?;
        let theirs = Socket::from(OwnedFd::from(theirs));
        theirs.set_cloexec(false)?;
        let mut command = Command::new(&self.program);
        command.args(std::env::args_os().skip(1)).arg("--launcher-fd").arg(theirs.as_raw_fd().to_string());
        // A group of its own: Ctrl-C reaches the launcher only, which passes it on once.
        let child = command.process_group(0).stdin(Stdio::null()).spawn()?;
        ours.set_nonblocking(true)?;
        Ok((child, UnixStream::from_std(ours)?))
    }

    async fn obey(&mut self, orders: &[u8], link: &mut UnixStream) {
        if orders.contains(&TRY_PROGRAM) {
            let answer = if self.program_works().await { PROGRAM_WORKS } else { PROGRAM_FAILS };
            // Control that is gone meanwhile is noticed by the next wait.
            let _ = link.write_all(&[answer]).await;
        }
        if orders.contains(&START_NEXT) {
            self.start_next(link).await;
        }
        if orders.contains(&RELIEVE_ENGINE) {
            self.relieve(link).await;
        }
        if orders.contains(&QUEUES_TAKEN) {
            self.taking = false;
        }
        if !orders.contains(&START_ENGINE) {
            return;
        }
        // Whatever had been begun: there is to be one engine.
        self.taking = false;
        for other in [self.next.take(), self.leaving.take()] {
            kill(other).await;
        }
        // Control orders only when no engine answers: what is left of the last one is dying, or hangs.
        if let Some(mut old) = self.engine.take()
            && tokio::time::timeout(REAP_PATIENCE, old.wait()).await.is_err()
        {
            log::warning("engine-killed", &[("reason", &"it did not answer any more")]);
            let _ = old.kill().await;
        }
        self.engine = self.try_start(&self.options.engine_socket());
        let answer = if self.engine.is_some() { ENGINE_STARTED } else { ENGINE_FAILED };
        // Control that is gone meanwhile is noticed by the next wait.
        let _ = link.write_all(&[answer]).await;
    }

    /// Starts an engine; the log says why not.
    fn try_start(&self, path: &Path) -> Option<Child> {
        let started = self.start_engine(path);
        if let Err(error) = &started {
            let program = self.options.engine_program(&self.program);
            log::error("engine-not-started", &[("program", &program.display()), ("reason", error)]);
        }
        started.ok()
    }

    async fn start_next(&mut self, link: &mut UnixStream) {
        kill(self.next.take()).await;
        self.next = self.try_start(&self.options.next_engine_socket());
        if self.next.is_none() {
            let _ = link.write_all(&[NEXT_GONE]).await;
        }
    }

    /// From now on whoever asks for the engine finds the new one; the old one is left to end by itself.
    async fn relieve(&mut self, link: &mut UnixStream) {
        let answer = match std::fs::rename(self.options.next_engine_socket(), self.options.engine_socket()) {
            Ok(()) if self.next.is_some() => {
                kill(self.leaving.take()).await;
                self.leaving = self.engine.take();
                self.engine = self.next.take();
                self.taking = true;
                ENGINE_RELIEVED
            }
            Ok(()) => NEXT_GONE,
            Err(error) => {
                log::error("engine-not-relieved", &[("reason", &error)]);
                NEXT_GONE
            }
        };
        let _ = link.write_all(&[answer]).await;
    }

    /// Has the program on disk read the configuration, as far as a second one can go beside the first.
    async fn program_works(&self) -> bool {
        let mut command = Command::new(&self.program);
        command.args(std::env::args_os().skip(1)).arg("--trial").stdin(Stdio::null()).kill_on_drop(true);
        let trial = async { command.spawn()?.wait().await };
        let reason = match tokio::time::timeout(TRIAL_PATIENCE, trial).await {
            Ok(Ok(status)) if status.success() => return true,
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("not done within {} s", TRIAL_PATIENCE.as_secs()),
        };
        log::error("program-fails", &[("program", &self.program.display()), ("reason", &reason)]);
        false
    }

    /// Starts an engine with a fresh socket to listen on. Nobody else keeps that socket: it answers only as long as
    /// the engine lives.
    fn start_engine(&self, path: &Path) -> io::Result<Child> {
        private::directory(&self.options.run_dir)?;
        let jail = self.options.run_dir.join("jail");
        private::directory(&jail)?;
        private::room_for_socket(path)?;
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        // The engine itself listens: until then whoever connects is refused, and after it SO_PEERCRED names the engine.
        socket.set_cloexec(false)?;
        let mut command = Command::new(self.options.engine_program(&self.program));
        command.arg("--socket-fd").arg(socket.as_raw_fd().to_string());
        if self.options.no_sandbox {
            command.arg("--no-sandbox");
        } else {
            command.args(["--user", ENGINE_USER]).arg("--jail").arg(&jail);
        }
        if !self.options.without.is_empty() {
            command.arg("--without").arg(self.options.without.join(","));
        }
        command.process_group(0).stdin(Stdio::null());
        if self.options.no_sandbox { command.spawn() } else { sys::in_new_process_namespace(|| command.spawn()) }
    }

    /// Control ended on purpose: after a clean stop its engine ends too, else it goes on for the next start.
    async fn finish(&mut self, code: i32) {
        for other in [self.next.take(), self.leaving.take()] {
            kill(other).await;
        }
        let Some(engine) = self.engine.as_mut().filter(|_| code == 0) else { return };
        if tokio::time::timeout(ENGINE_PATIENCE, engine.wait()).await.is_err() {
            log::warning("engine-killed", &[("reason", &"it did not end when told to")]);
            let _ = engine.kill().await;
        }
    }
}
