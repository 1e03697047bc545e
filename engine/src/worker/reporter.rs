//! A core's voice: what its path has to say goes to its desk, and the admin thread is woken once a batch.

use std::sync::Arc;

use super::desk::{Desk, Spent};
use crate::path::{Event, Events, Receive, Remains};

/// The events of one core.
#[derive(Debug)]
pub(super) struct Reporter {
    desk: Arc<Desk>,
    said: bool,
}

impl Reporter {
    pub(super) fn new(desk: Arc<Desk>) -> Self {
        Self { desk, said: false }
    }

    /// Gives something back; it is kept by the caller if there is no room.
    pub(super) fn spend(&mut self, spent: Spent) -> Result<(), Spent> {
        self.desk.spent.push(spent)?;
        self.said = true;
        Ok(())
    }

    /// Makes sure that the admin thread looks.
    pub(super) fn say(&mut self) {
        self.said = true;
    }

    /// The end of a batch.
    pub(super) fn flush(&mut self) {
        if std::mem::take(&mut self.said) {
            self.desk.admin.ring();
        }
    }
}

impl Events for Reporter {
    fn event(&mut self, event: Event) -> bool {
        self.said = true;
        self.desk.events.push(event).is_ok()
    }

    fn stray_ike(&mut self, receive: &Receive, message: &[u8]) -> bool {
        let Some(mut letter) = self.desk.blank_letters.pop() else { return false };
        let room = letter.bytes.get_mut(..message.len());
        let fits = room.map(|room| room.copy_from_slice(message)).is_some();
        (letter.receive, letter.length) = (Some(*receive), message.len());
        // The queues hold as many as there are letters, so none is dropped and freed here.
        let queue = if fits { &self.desk.letters } else { &self.desk.blank_letters };
        let pushed = queue.push(letter).is_ok();
        self.said = true;
        fits && pushed
    }

    fn remains(&mut self, remains: Remains) -> Option<Remains> {
        match self.spend(Spent::Remains(remains)) {
            Err(Spent::Remains(remains)) => Some(remains),
            _ => None,
        }
    }
}
