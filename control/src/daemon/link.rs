//! Control's end of the link to the launcher.

use std::io;
use std::os::fd::OwnedFd;

use tokio::net::UnixStream;

use crate::launcher::{
    END, ENGINE_ENDED, ENGINE_FAILED, ENGINE_RELIEVED, ENGINE_STARTED, NEXT_GONE, PROGRAM_FAILS, PROGRAM_WORKS, QUEUES_TAKEN,
    RELIEVE_ENGINE, RELOAD, START_ENGINE, START_NEXT, TRY_PROGRAM,
};

/// What the launcher says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// End cleanly.
    End,
    /// The configuration may have changed.
    Reload,
    /// The program on disk could take over.
    ProgramWorks,
    /// It could not.
    ProgramFails,
    /// The engine that was ordered is started.
    EngineStarted,
    /// No engine can be started.
    EngineFailed,
    /// The engine has ended.
    EngineEnded,
    /// The engine that was to relieve another cannot be started, or has ended.
    NextGone,
    /// The one that is to relieve another is found where engines are.
    EngineRelieved,
    /// The launcher is gone: leave at once, so that the next start can adopt the engine.
    Gone,
}

/// The link.
#[derive(Debug)]
pub(super) struct Link {
    stream: UnixStream,
}

impl Link {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let stream = std::os::unix::net::UnixStream::from(fd);
        stream.set_nonblocking(true)?;
        Ok(Self { stream: UnixStream::from_std(stream)? })
    }

    /// Orders an engine.
    pub(super) fn start_engine(&self) -> io::Result<()> {
        self.stream.try_write(&[START_ENGINE]).map(drop)
    }

    /// Orders an engine beside the one that runs.
    pub(super) fn start_next(&self) -> io::Result<()> {
        self.stream.try_write(&[START_NEXT]).map(drop)
    }

    /// Has that one take the place of the one that runs.
    pub(super) fn relieve_engine(&self) -> io::Result<()> {
        self.stream.try_write(&[RELIEVE_ENGINE]).map(drop)
    }

    /// Says that it has the queues.
    pub(super) fn queues_taken(&self) -> io::Result<()> {
        self.stream.try_write(&[QUEUES_TAKEN]).map(drop)
    }

    /// Asks whether the program on disk could take over.
    pub(super) fn try_program(&self) -> io::Result<()> {
        self.stream.try_write(&[TRY_PROGRAM]).map(drop)
    }

    /// Waits for the next word. May be dropped and called again without losing one.
    pub(super) async fn word(&self) -> Word {
        loop {
            let mut byte = [0];
            if self.stream.readable().await.is_err() {
                return Word::Gone;
            }
            match self.stream.try_read(&mut byte) {
                Ok(1) if byte == [END] => return Word::End,
                Ok(1) if byte == [PROGRAM_WORKS] => return Word::ProgramWorks,
                Ok(1) if byte == [PROGRAM_FAILS] => return Word::ProgramFails,
                Ok(1) if byte == [RELOAD] => return Word::Reload,
                Ok(1) if byte == [ENGINE_STARTED] => return Word::EngineStarted,
                Ok(1) if byte == [ENGINE_FAILED] => return Word::EngineFailed,
                Ok(1) if byte == [ENGINE_ENDED] => return Word::EngineEnded,
                Ok(1) if byte == [NEXT_GONE] => return Word::NextGone,
                Ok(1) if byte == [ENGINE_RELIEVED] => return Word::EngineRelieved,
                Ok(1) => (),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
                _ => return Word::Gone,
            }
        }
    }
}
