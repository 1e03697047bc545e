//! One request, one answer over `control.sock`.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::{ERROR, Failure, UNREACHABLE};
use crate::admin::{Command, RESPONSE_BYTES_MAX, Request, Response, SCHEMA, State};

/// A daemon that has not answered by now will not: it answers from memory.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to the daemon.
pub(super) struct Client {
    stream: BufReader<UnixStream>,
    next: u64,
}

impl Client {
    pub(super) fn connect(run_dir: &Path) -> Result<Self, Failure> {
        let path = run_dir.join("control.sock");
        let unreachable = |error: &io::Error| {
            let shown = path.display();
            Failure::Because(
                UNREACHABLE,
                match error.kind() {
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                        format!(
                            "penstockd does not run here (nobody answers at {shown}); start it as root: penstockd, or name its directory with --run-dir"
                        )
                    }
                    ErrorKind::PermissionDenied => format!("{shown} may not be used by this user; run the command as root"),
                    _ => format!("{shown}: {error}"),
                },
            )
        };
        let stream = UnixStream::connect(&path).map_err(|error| unreachable(&error))?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(|error| unreachable(&error))?;
        Ok(Self { stream: BufReader::new(stream), next: 1 })
    }

    /// Asks, and gives the answer if it is yes.
    pub(super) fn ask(&mut self, command: Command) -> Result<Response, Failure> {
        let response = self.exchange(command)?;
        if !response.ok {
            let code = response.code.filter(|code| (1..=2).contains(code)).unwrap_or(ERROR);
            return Err(Failure::Because(code, response.error.unwrap_or_else(|| "penstockd refuses and gives no reason".into())));
        }
        Ok(response)
    }

    /// Asks, and gives the answer, be it yes or no.
    pub(super) fn exchange(&mut self, command: Command) -> Result<Response, Failure> {
        let patience = command.patience();
        let request = Request { id: self.next, command };
        self.next += 1;
        self.stream.get_ref().set_read_timeout(Some(patience)).map_err(|error| Failure::error(error.to_string()))?;
        let line = self.send(&request).map_err(|error| {
            let reason = match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                    format!("penstockd has not answered for {} s; look at its log", patience.as_secs())
                }
                ErrorKind::UnexpectedEof => "penstockd hung up; look at its log".into(),
                _ => format!("penstockd does not answer: {error}"),
            };
            Failure::Because(UNREACHABLE, reason)
        })?;
        let response = Response::parse(&line).map_err(|error| {
            Failure::error(format!("penstockd and this command do not understand each other ({error}); use the same version of both"))
        })?;
        if response.id != request.id && response.id != 0 {
            return Err(Failure::error(format!(
                "penstockd answered request {} instead of {}; use the same version of both",
                response.id, request.id
            )));
        }
        Ok(response)
    }

    fn send(&mut self, request: &Request) -> io::Result<String> {
        self.stream.get_mut().write_all(request.to_line().as_bytes())?;
        let mut line = String::new();
        let limit = u64::try_from(RESPONSE_BYTES_MAX).unwrap_or(u64::MAX);
        (&mut self.stream).take(limit).read_line(&mut line)?;
        match line.ends_with('\n') {
            true => Ok(line),
            false => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    /// The whole state.
    pub(super) fn state(&mut self) -> Result<Box<State>, Failure> {
        let state =
            self.ask(Command::Show)?.state.ok_or_else(|| Failure::error("penstockd sent no state; use the same version of both"))?;
        if state.schema != SCHEMA {
            return Err(Failure::error(format!(
                "penstockd speaks schema {}, this command {SCHEMA}; use the same version of both",
                state.schema
            )));
        }
        Ok(state)
    }
}

/// Refuses a peer that is not configured.
pub(super) fn require_peer(state: &State, name: Option<&str>) -> Result<(), Failure> {
    let Some(name) = name else { return Ok(()) };
    if state.peers.iter().any(|peer| peer.name == name) {
        return Ok(());
    }
    let names: Vec<&str> = state.peers.iter().map(|peer| peer.name.as_str()).collect();
    let there = if names.is_empty() { "no peer is configured".to_owned() } else { format!("there are: {}", names.join(", ")) };
    Err(Failure::error(format!("no peer \"{name}\"; {there}")))
}
