//! A newer program takes control's place while the engine goes on: as after a death of control, but without waiting for one.
//!
//! The launcher has the program on disk read the configuration first. One that cannot never gets to run.

use tokio::sync::oneshot;

use super::{Stop, Work, failed};
use crate::admin::{NO, Response};
use crate::log;

/// Who waits for the launcher's word.
#[derive(Debug, Default)]
pub(super) struct Upgrade {
    asked: Option<(u64, oneshot::Sender<Response>)>,
}

impl Upgrade {
    /// Whether one is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.asked.is_some()
    }
}

impl Work {
    /// Somebody wants the program on disk to take over.
    pub(super) fn upgrade(&mut self, id: u64, answer: oneshot::Sender<Response>) {
        let busy = match () {
            () if self.upgrade.is_busy() => Some("another upgrade is under way".to_owned()),
            // The next control would have the files as they are, and know of no way back.
            () if self.reload.is_busy() => Some("an apply is under way or waits to be confirmed; finish that first".to_owned()),
            // The next control would not know of it.
            () if self.relief.is_busy() => Some("an engine is being relieved; try again in some seconds".to_owned()),
            () if self.engine.is_none() => Some("no engine runs just now; try again in a moment".to_owned()),
            () => self.link.try_program().err().map(|error| error.to_string()),
        };
        match busy {
            // A client that does not wait for the answer does not want it.
            Some(reason) => drop(answer.send(Response::refused(id, NO, reason))),
            None => self.upgrade.asked = Some((id, answer)),
        }
    }

    /// The program on disk has failed its trial: everything stays as it is.
    pub(super) fn not_upgraded(&mut self) {
        let reason = "the program on disk failed its trial, the log says why; this one goes on";
        log::warning("not-upgraded", &[("reason", &reason)]);
        if let Some((id, answer)) = self.upgrade.asked.take() {
            let _ = answer.send(Response::refused(id, NO, reason));
        }
    }

    /// The program on disk works: leaves it everything as it is. The engine goes on.
    pub(super) async fn relieved(&mut self) -> Stop {
        let Some((id, answer)) = self.upgrade.asked.take() else { return failed("relieved, and nobody asked for it") };
        log::info("relieved", &[("version", &env!("CARGO_PKG_VERSION"))]);
        let _ = answer.send(Response::done(id, "the program on disk takes over"));
        // The answer gets its way out.
        tokio::time::sleep(super::ANSWER_TIME).await;
        Stop::Relieved
    }
}
