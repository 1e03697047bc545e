//! Parcels between cores: packets that reached a core which does not own their SA. A core fills parcels of its own, sends them
//! through the queue to the owner, and gets them back empty through another queue, so that nothing is ever allocated.
//!
//! ```text
//!   core 0: pool ─► fill ─► [queue 0→1] ─► core 1: open or seal ─► [returns 1→0] ─► pool
//! ```
//! Order within a flow is kept: there is one queue from core to core, and what follows each other travels in one parcel. A core that
//! has no parcel left stops reading until some come back, so that packets wait where they are bounded in time instead of being lost.

use std::sync::Arc;

use super::queue::{Consumer, Producer, queue};
use crate::limits;
use crate::path::{Mail, Receive};
use crate::worker::desk::Desk;

/// What a parcel holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// TUN reads for a policy.
    Outbound {
        /// The policy's number.
        policy: u32,
    },
    /// Frames that were received together.
    Inbound(Receive),
}

/// Packets on their way to another core.
#[derive(Debug)]
pub struct Parcel {
    content: Option<Content>,
    bytes: Box<[u8]>,
    used: usize,
    /// Lengths of the frames, one behind the other.
    frames: Vec<usize>,
    /// Frames, and their bytes, that were unpacked already.
    unpacked: usize,
    unpacked_bytes: usize,
}

impl Parcel {
    /// An empty one.
    #[must_use]
    pub fn new(bytes: usize, frames: usize) -> Box<Self> {
        let frames = Vec::with_capacity(frames);
        Box::new(Self { content: None, bytes: vec![0; bytes].into(), used: 0, frames, unpacked: 0, unpacked_bytes: 0 })
    }

    /// What it holds.
    #[must_use]
    pub fn content(&self) -> Option<Content> {
        self.content
    }

    /// Empties it for something else.
    pub fn begin(&mut self, content: Content) {
        (self.content, self.used, self.unpacked, self.unpacked_bytes) = (Some(content), 0, 0, 0);
        self.frames.clear();
    }

    /// Adds a frame; `false` if there is no room.
    pub fn add(&mut self, frame: &[u8]) -> bool {
        let Some(room) = self.bytes.get_mut(self.used..self.used + frame.len()) else { return false };
        if self.frames.len() == self.frames.capacity() {
            return false;
        }
        room.copy_from_slice(frame);
        self.used += frame.len();
        self.frames.push(frame.len());
        true
    }

    /// The next frame to be unpacked.
    pub fn take(&mut self) -> Option<&mut [u8]> {
        let length = *self.frames.get(self.unpacked)?;
        let start = self.unpacked_bytes;
        self.unpacked += 1;
        self.unpacked_bytes += length;
        self.bytes.get_mut(start..start + length)
    }
}

/// One core's line to another.
#[derive(Debug)]
struct Line {
    core: u16,
    desk: Arc<Desk>,
    to: Producer<Box<Parcel>>,
    back: Consumer<Box<Parcel>>,
    from: Consumer<Box<Parcel>>,
    returns: Producer<Box<Parcel>>,
    /// Something was put down since the other core was last looked after.
    touched: bool,
    /// Parcels went back to it since then.
    returned: bool,
}

/// A core's end of all its lines.
#[derive(Debug, Default)]
pub struct Mailroom {
    lines: Vec<Line>,
    #[allow(clippy::vec_box, reason = "a parcel keeps its box from core to core")]
    pool: Vec<Box<Parcel>>,
    /// What belongs together is collected before it goes.
    open: Option<(u16, Box<Parcel>)>,
    next: usize,
}

/// One mailroom a core, with lines between all of them.
#[must_use]
pub fn mailrooms(desks: &[Arc<Desk>]) -> Vec<Mailroom> {
    let mut rooms: Vec<Mailroom> = desks.iter().map(|_| Mailroom::default()).collect();
    if desks.len() < 2 {
        return rooms;
    }
    for room in &mut rooms {
        room.pool = (0..limits::PARCELS).map(|_| Parcel::new(limits::BUFFER_BYTES, limits::PARCEL_FRAMES)).collect();
    }
    for one in 0..desks.len() {
        for other in one + 1..desks.len() {
            // A queue holds every parcel of the core that fills it, and so is never full.
            let (to, from) = queue(limits::PARCELS);
            let (returns, back) = queue(limits::PARCELS);
            let (to_one, from_other) = queue(limits::PARCELS);
            let (returns_to_other, back_to_other) = queue(limits::PARCELS);
            let line = |core: usize| (core as u16, Arc::clone(&desks[core]));
            let (core, desk) = line(other);
            rooms[one].lines.push(Line {
                core,
                desk,
                to,
                back,
                from: from_other,
                returns: returns_to_other,
                touched: false,
                returned: false,
            });
            let (core, desk) = line(one);
            rooms[other].lines.push(Line { core, desk, to: to_one, back: back_to_other, from, returns, touched: false, returned: false });
        }
    }
    rooms
}

impl Mailroom {
    /// A parcel from another core, with the number of the line to give it back through.
    pub fn take(&mut self) -> Option<(usize, Box<Parcel>)> {
        for _ in 0..self.lines.len() {
            let at = self.next;
            self.next = (self.next + 1) % self.lines.len();
            if let Some(parcel) = self.lines.get_mut(at).and_then(|line| line.from.pop()) {
                return Some((at, parcel));
            }
        }
        None
    }

    /// Gives a parcel back to the core that filled it.
    pub fn give_back(&mut self, line: usize, parcel: Box<Parcel>) {
        if let Some(line) = self.lines.get_mut(line) {
            // It is as long as the sender's pool, and so is never full.
            let _ = line.returns.push(parcel);
            line.returned = true;
        }
    }

    /// Whether packets that may have to go to another core can be read: parcels are left for them, or there is no other core.
    pub fn has_room(&mut self, parcels: usize) -> bool {
        self.lines.is_empty() || {
            if self.pool.len() < parcels {
                self.collect();
            }
            self.pool.len() >= parcels
        }
    }

    /// Whether everything that was handed to other cores has been taken and has come back.
    pub fn is_idle(&mut self) -> bool {
        self.open.is_none() && self.has_room(limits::PARCELS)
    }

    /// Whether another core has put something down.
    pub fn has_mail(&mut self) -> bool {
        self.lines.iter_mut().any(|line| !line.from.is_empty())
    }

    /// The end of a batch: what is open goes, and cores that sleep are woken.
    pub fn flush(&mut self) {
        self.close();
        for line in &mut self.lines {
            let returned = std::mem::take(&mut line.returned) && line.desk.is_starved();
            if std::mem::take(&mut line.touched) || returned {
                line.desk.wake();
            }
        }
    }

    /// Sends the open parcel. It was opened for a core that is there, and that core's queue holds all parcels of this one.
    fn close(&mut self) {
        let Some((core, parcel)) = self.open.take() else { return };
        if let Some(line) = self.lines.iter_mut().find(|line| line.core == core) {
            line.touched = true;
            let _ = line.to.push(parcel);
        }
    }

    /// Takes in the parcels that came back.
    fn collect(&mut self) {
        let Self { lines, pool, .. } = self;
        for line in lines {
            while let Some(parcel) = line.back.pop() {
                pool.push(parcel);
            }
        }
    }

    /// Adds bytes to the open parcel if they fit in with it, else to a fresh one.
    fn post(&mut self, core: u16, content: Content, bytes: &[u8]) -> bool {
        if let Some((to, parcel)) = &mut self.open
            && *to == core
            && parcel.content == Some(content)
            && parcel.add(bytes)
        {
            return true;
        }
        self.close();
        // A core that is not there has no line: nothing must wait in a parcel for it.
        if !self.lines.iter().any(|line| line.core == core) || !self.has_room(1) {
            return false;
        }
        let Some(mut parcel) = self.pool.pop() else { return false };
        parcel.begin(content);
        if parcel.add(bytes) {
            self.open = Some((core, parcel));
            return true;
        }
        self.pool.push(parcel);
        false
    }
}

impl Mail for Mailroom {
    fn outbound(&mut self, core: u16, policy: u32, read: &[u8]) -> bool {
        self.post(core, Content::Outbound { policy }, read)
    }

    fn inbound(&mut self, core: u16, receive: &Receive, frame: &[u8]) -> bool {
        self.post(core, Content::Inbound(*receive), frame)
    }
}
