//! What `/proc` says of processes: which ones a daemon has started, and since when they run.

use std::fs;

use super::cleanup::Thing;

/// The fields of `/proc/PID/stat` behind the name, which may hold spaces and brackets itself. Field 3 is the first.
pub(crate) fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_ascii_whitespace().map(str::to_owned).collect())
}

/// When the process started, in ticks since boot: with the id, the name of one process for ever.
pub(super) fn started(pid: u32) -> Option<u64> {
    stat(pid)?.get(19)?.parse().ok()
}

/// The process as a thing to be ended; `None` if it is gone.
pub(super) fn thing(pid: u32) -> Option<Thing> {
    Some(Thing::Process { pid, started: started(pid)? })
}

/// Whether it still runs; a zombie does not.
pub(super) fn runs(pid: u32) -> bool {
    stat(pid).and_then(|fields| fields.first().cloned()).is_some_and(|state| state != "Z" && state != "X")
}

/// The program's name, at most 15 letters of it.
#[must_use]
pub fn name_of(pid: u32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned())
}

/// `kill -9`.
///
/// # Errors
/// If it is gone already.
pub fn kill(pid: u32) -> std::io::Result<()> {
    crate::sys::signal(pid, libc::SIGKILL)
}

/// `kill -STOP`.
///
/// # Errors
/// If it is gone already.
pub fn stand_still(pid: u32) -> std::io::Result<()> {
    crate::sys::signal(pid, libc::SIGSTOP)
}

/// Children of `pid`, their children and so on, `pid` itself not among them.
#[must_use]
pub fn descendants(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let parents: Vec<(u32, u32)> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|child| Some((child, stat(child)?.get(1)?.parse().ok()?)))
        .collect();
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(child, its)| *its == parent && *child != pid).map(|(child, _)| *child));
        next += 1;
    }
    found.remove(0);
    found
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_child_is_found_and_seen_to_end() {
        let mut child = std::process::Command::new("sleep").arg("30").spawn().expect("sleep runs");
        assert!(super::descendants(std::process::id()).contains(&child.id()));
        assert!(super::runs(child.id()));
        child.kill().expect("it is ours");
        child.wait().expect("it ends");
        assert!(!super::runs(child.id()));
    }
}
