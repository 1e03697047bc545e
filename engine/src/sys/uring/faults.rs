//! Faults between a worker and its ring, for tests: a request fails and the kernel never sees it, a completion says less than was done,
//! comes late, or comes in another order. They are drawn from a seed, so the same seed makes the same choices.
//!
//! ```text
//!   worker ── push ──► refused? ──► kernel ──► shortened? late? ──► held, by operation ──► reap ──► worker
//!                         └──────────────────────────────────────────────▲
//! ```
//! What the kernel would never do stays undone: completions of one operation on one file keep their order.

use std::collections::VecDeque;
use std::io;

use super::{Answer, File, Tag, Wait};

/// What a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Operation {
    TunRead,
    TunWrite,
    Receive,
    Send,
    Cancel,
    Bell,
    Enter,
}

impl Operation {
    pub(crate) const ALL: [Self; 7] = [Self::TunRead, Self::TunWrite, Self::Receive, Self::Send, Self::Cancel, Self::Bell, Self::Enter];

    fn of(tag: u64) -> Self {
        match Tag::unpack(tag).expect("made by this module") {
            Tag::Read(File::Tun) => Self::TunRead,
            Tag::Read(File::Bell) => Self::Bell,
            Tag::Read(_) => Self::Receive,
            Tag::Send(..) => Self::Send,
            Tag::Write(_) => Self::TunWrite,
            Tag::Cancel => Self::Cancel,
        }
    }
}

/// What happens to an operation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// It fails with this error; a read that goes on already ends with it when it is cancelled.
    Error(i32),
    /// Its completion shows no more than so many bytes.
    Short(i32),
    /// It is known only after up to so many calls of the kernel.
    Late(u64),
}

/// What goes wrong from now on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Script {
    pub(crate) operation: Operation,
    pub(crate) fault: Fault,
    /// It happens to one request of so many, by chance.
    pub(crate) one_in: u64,
}

/// The faults of one ring.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    scripts: Vec<Script>,
    reorder: bool,
    chance: u64,
    calls: u64,
    held: VecDeque<(u64, Answer)>,
    asked: [u64; Operation::ALL.len()],
    hit: u64,
}

impl Faults {
    /// Lets things go wrong; with `reorder`, completions of different operations overtake each other.
    pub(crate) fn begin(&mut self, seed: u64, scripts: &[Script], reorder: bool) {
        (self.scripts, self.reorder, self.chance) = (scripts.to_vec(), reorder, seed);
        (self.asked, self.hit) = Default::default();
    }

    /// Nothing goes wrong any more; what is held comes now.
    pub(crate) fn end(&mut self) {
        self.scripts.clear();
        self.reorder = false;
        self.held.iter_mut().for_each(|(due, _)| *due = 0);
    }

    /// Requests made since [`Self::begin`].
    pub(crate) fn asked(&self, operation: Operation) -> u64 {
        self.asked[operation as usize]
    }

    /// Faults that happened since [`Self::begin`].
    pub(crate) fn hit(&self) -> u64 {
        self.hit
    }

    /// Which of the next requests of a kind fail.
    pub(crate) fn outcomes(&mut self, operation: Operation, requests: usize) -> Vec<bool> {
        (0..requests).map(|_| self.error(operation).is_some()).collect()
    }

    /// Whether no completion is held.
    pub(crate) fn holds_nothing(&self) -> bool {
        self.held.is_empty()
    }

    /// SplitMix64.
    fn draw(&mut self, below: u64) -> u64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.chance ^ (self.chance >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below.max(1)
    }

    /// The fault that meets an operation now, if it is one of those that `wanted` names.
    fn meet(&mut self, operation: Operation, wanted: impl Fn(Fault) -> bool) -> Option<Fault> {
        let script = self.scripts.iter().copied().find(|script| script.operation == operation && wanted(script.fault))?;
        let hit = self.draw(script.one_in) == 0;
        self.hit += u64::from(hit);
        hit.then_some(script.fault)
    }

    fn error(&mut self, operation: Operation) -> Option<i32> {
        match self.meet(operation, |fault| matches!(fault, Fault::Error(_)))? {
            Fault::Error(errno) => Some(errno),
            _ => None,
        }
    }

    /// Whether a request fails before the kernel sees it.
    pub(super) fn refuses(&mut self, tag: u64) -> bool {
        let operation = Operation::of(tag);
        self.asked[operation as usize] += 1;
        let Some(errno) = self.error(operation) else { return false };
        self.held.push_back((self.calls + 1, (tag, -errno, 0)));
        true
    }

    /// Whether the kernel can be called, and how: what is held ends a wait at once.
    pub(super) fn enter<'a>(&mut self, how: Option<&'a Wait>) -> io::Result<Option<&'a Wait>> {
        self.asked[Operation::Enter as usize] += 1;
        if let Some(errno) = self.error(Operation::Enter) {
            return Err(io::Error::from_raw_os_error(errno));
        }
        self.calls += 1;
        Ok(how.filter(|_| self.held.is_empty()))
    }

    /// A completion came from the kernel.
    pub(super) fn came(&mut self, (tag, mut result, flags): Answer) {
        let operation = Operation::of(tag);
        if result == -libc::ECANCELED
            && let Some(errno) = self.error(operation)
        {
            result = -errno;
        }
        if result > 0
            && let Some(Fault::Short(bytes)) = self.meet(operation, |fault| matches!(fault, Fault::Short(_)))
        {
            result = result.min(bytes);
        }
        let late = match self.meet(operation, |fault| matches!(fault, Fault::Late(_))) {
            Some(Fault::Late(calls)) => 1 + self.draw(calls),
            _ => 0,
        };
        self.held.push_back((self.calls + late, (tag, result, flags)));
    }

    /// The next completion that is due.
    pub(super) fn next(&mut self) -> Option<Answer> {
        // The file and the kind; a number within is no order of its own.
        let line = |(_, (tag, ..)): &(u64, Answer)| tag >> 16;
        let firsts: Vec<usize> =
            (0..self.held.len()).filter(|at| !self.held.iter().take(*at).any(|other| line(other) == line(&self.held[*at]))).collect();
        let due: Vec<usize> = firsts.into_iter().filter(|at| self.held[*at].0 <= self.calls).collect();
        let chosen = if self.reorder && due.len() > 1 { self.draw(due.len() as u64) as usize } else { 0 };
        let (_, answer) = self.held.remove(*due.get(chosen)?)?;
        Some(answer)
    }
}
