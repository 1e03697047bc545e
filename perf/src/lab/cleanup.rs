//! The journal of everything the lab has made, and its removal. `Drop` alone would not do: it does not run on Ctrl-C, nor in
//! a release build that panics, nor after `kill -9`. So each thing is written to a file before it is made and struck out after it is
//! gone; whoever comes later, this process or the next, removes exactly what stands there and nothing by a pattern.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::process;
use crate::sys;

/// Where journals and the folders of sites are. Root's alone in effect: `/run` cannot be written by anyone else.
const HOME: &str = "/run/penstock-lab";
/// How long a daemon may take to say goodbye to its peers.
const GOODBYE: Duration = Duration::from_secs(4);

/// One thing that the lab has made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Thing {
    /// A process: its id, and when it started, since ids are used again.
    Process { pid: u32, started: u64 },
    /// A network namespace, with everything in it.
    Namespace(String),
    /// A folder with everything in it.
    Folder(PathBuf),
}

impl Thing {
    fn line(&self) -> String {
        match self {
            Self::Process { pid, started } => format!("process {pid} {started}\n"),
            Self::Namespace(name) => format!("namespace {name}\n"),
            Self::Folder(path) => format!("folder {}\n", path.display()),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let (kind, rest) = line.split_once(' ')?;
        match kind {
            "process" => {
                let (pid, started) = rest.split_once(' ')?;
                Some(Self::Process { pid: pid.parse().ok()?, started: started.parse().ok()? })
            }
            "namespace" if rest.starts_with("pen-") => Some(Self::Namespace(rest.into())),
            "folder" if rest.starts_with(HOME) => Some(Self::Folder(rest.into())),
            _ => None,
        }
    }
}

static THINGS: Mutex<BTreeSet<Thing>> = Mutex::new(BTreeSet::new());
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn things() -> MutexGuard<'static, BTreeSet<Thing>> {
    THINGS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn journal() -> PathBuf {
    let own = std::process::id();
    Path::new(HOME).join(format!("{own}-{}.journal", process::started(own).unwrap_or_default()))
}

fn write(things: &BTreeSet<Thing>) -> Result<()> {
    let journal = journal();
    if things.is_empty() {
        let _ = fs::remove_file(journal);
        return Ok(());
    }
    fs::create_dir_all(HOME).with_context(|| format!("{HOME} cannot be made"))?;
    fs::write(&journal, things.iter().map(Thing::line).collect::<String>()).with_context(|| format!("{}", journal.display()))
}

/// Notes a thing that is about to be made, or a process just started. The first call arms the removal at the end.
pub(super) fn note(thing: Thing) -> Result<()> {
    arm()?;
    let mut things = things();
    things.insert(thing);
    write(&things)
}

/// Strikes out what is gone.
pub(super) fn strike(thing: &Thing) {
    let mut things = things();
    if things.remove(thing) {
        let _ = write(&things);
    }
}

/// A folder for a site's files, empty, to be removed with everything else. The name must be one that no other run uses.
pub(super) fn new_folder(name: &str) -> Result<PathBuf> {
    let folder = Path::new(HOME).join(name);
    note(Thing::Folder(folder.clone()))?;
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    Ok(folder)
}

/// A folder of its own that is removed with its content when dropped.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// An empty folder. The name must be one that no other run uses: a namespace's is.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        new_folder(name).map(Self)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        remove(&Thing::Folder(self.0.clone()));
    }
}

/// Removes one thing and strikes it out.
pub(super) fn remove(thing: &Thing) {
    take_away(std::slice::from_ref(thing), GOODBYE);
    strike(thing);
}

/// Ends these processes, politely first, and strikes them out.
pub(super) fn end(processes: &[Thing]) {
    take_away(processes, GOODBYE);
    processes.iter().for_each(strike);
}

fn arm() -> Result<()> {
    static ARMED: Once = Once::new();
    let mut outcome = Ok(());
    ARMED.call_once(|| outcome = arm_now());
    outcome
}

fn arm_now() -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]).context("signals cannot be caught")?;
    std::thread::Builder::new().name("cleanup".into()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            INTERRUPTED.store(true, Ordering::Release);
            eprintln!("interrupted: taking everything away");
            remove_all();
            std::process::exit(128 + signal);
        }
    })?;
    if cfg!(panic = "abort") {
        // Where a panic unwinds, `Drop` does this; where it aborts, nothing else would.
        let earlier = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            earlier(panic);
            remove_all();
        }));
    }
    Ok(())
}

/// Does not return if this process was interrupted: the thread that takes everything away ends it. For a program's last
/// lines, so that work that failed *because* things went away is not reported as a failure.
pub fn give_way() {
    while INTERRUPTED.load(Ordering::Acquire) {
        std::thread::park();
    }
}

/// Removes everything that this process has made.
pub fn remove_all() {
    let all: Vec<Thing> = match THINGS.try_lock() {
        Ok(mut things) => std::mem::take(&mut *things).into_iter().collect(),
        Err(_) => read(&journal()), // the thread that panics may hold the lock
    };
    take_away(&all, GOODBYE);
    let _ = fs::remove_file(journal());
}

/// Leaves everything that this process has made standing after its end, for [`clean`] to remove. What owns such things
/// must not be dropped after this: `std::mem::forget` it.
///
/// # Errors
/// If the journal cannot be renamed; then nothing is kept.
pub fn keep() -> Result<()> {
    let mut things = things();
    let journal = journal();
    fs::rename(&journal, journal.with_extension("kept")).context("the journal cannot be renamed")?;
    things.clear();
    Ok(())
}

/// Which leavings of earlier runs [`clean`] removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leavings {
    /// Of runs that were killed.
    Orphaned,
    /// Those, and what was kept on purpose.
    Kept,
}

/// Removes what earlier runs have left. Returns a line for each thing.
///
/// # Errors
/// If the journals cannot be listed.
pub fn clean(which: Leavings) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    let Ok(entries) = fs::read_dir(HOME) else { return Ok(removed) };
    for entry in entries {
        let path = entry?.path();
        let kept = which == Leavings::Kept && path.extension().is_some_and(|end| end == "kept");
        let journal = path.extension().is_some_and(|end| end == "journal");
        if kept || (journal && !owner_lives(&path)) {
            let things = read(&path);
            take_away(&things, GOODBYE);
            removed.extend(things.iter().map(|thing| thing.line().trim_end().to_owned()));
            fs::remove_file(&path)?;
        }
    }
    Ok(removed)
}

fn owner_lives(journal: &Path) -> bool {
    let owner = journal.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.split_once('-'));
    owner.is_some_and(|(pid, started)| pid.parse().is_ok_and(|pid| process::runs(pid) && process::started(pid) == started.parse().ok()))
}

fn read(journal: &Path) -> Vec<Thing> {
    fs::read_to_string(journal).unwrap_or_default().lines().filter_map(Thing::parse).collect()
}

/// Processes first, with what they have started, then namespaces, then folders. Only those processes are asked to end that
/// no other one here has started: a daemon ends its engine itself, after it has said goodbye.
fn take_away(things: &[Thing], patience: Duration) {
    let alive = |thing: &Thing| match *thing {
        Thing::Process { pid, started } if process::started(pid) == Some(started) => Some((pid, started)),
        _ => None,
    };
    let mut running: Vec<(u32, u64)> = things.iter().filter_map(alive).collect();
    let started: Vec<(u32, u64)> = running
        .iter()
        .flat_map(|(pid, _)| process::descendants(*pid))
        .filter_map(|child| Some((child, process::started(child)?)))
        .collect();
    for &(pid, _) in running.iter().filter(|process| !started.contains(process)) {
        let _ = sys::signal(pid, libc::SIGTERM);
    }
    running.extend(started);
    let lives = |&(pid, started): &(u32, u64)| process::runs(pid) && process::started(pid) == Some(started);
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline && running.iter().any(lives) {
        std::thread::sleep(Duration::from_millis(10));
    }
    for &(pid, _) in running.iter().filter(|process| lives(process)) {
        let _ = sys::signal(pid, libc::SIGKILL);
    }
    for thing in things {
        match thing {
            Thing::Namespace(name) => drop(Command::new(super::namespace::ip_program()).args(["netns", "delete", name]).output()),
            Thing::Folder(path) => drop(fs::remove_dir_all(path)),
            Thing::Process { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Thing;

    #[test]
    fn journal_lines_are_read_back() {
        let things =
            [Thing::Process { pid: 7, started: 9 }, Thing::Namespace("pen-1-a".into()), Thing::Folder("/run/penstock-lab/x y".into())];
        for thing in things {
            assert_eq!(Thing::parse(thing.line().trim_end()), Some(thing));
        }
    }

    #[test]
    fn what_a_killed_run_has_left_is_removed() {
        if !crate::is_root() {
            return eprintln!("skipped: needs root");
        }
        let name = format!("pen-perf-orphan-{}", std::process::id());
        super::super::namespace::ip(["netns", "add", &name]).expect("a namespace");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep runs");
        let started = crate::lab::process::started(child.id()).expect("it runs");
        let lines = [Thing::Namespace(name.clone()), Thing::Process { pid: child.id(), started }].map(|thing| thing.line()).concat();
        std::fs::create_dir_all(super::HOME).expect("root may");
        std::fs::write(format!("{}/4194305-{}.journal", super::HOME, child.id()), lines).expect("root may"); // beyond any process id
        super::clean(super::Leavings::Orphaned).expect("it can be listed");
        assert!(!std::path::Path::new("/run/netns").join(name).exists());
        assert!(!child.wait().expect("ours").success());
    }

    #[test]
    fn foreign_lines_are_not_believed() {
        for line in ["namespace other", "folder /etc", "process 1", "nonsense"] {
            assert_eq!(Thing::parse(line), None);
        }
    }
}
