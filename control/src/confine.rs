//! What control gives up once the configuration is read. It holds the long-term keys and hears strangers, and it has to open files,
//! devices and sockets as long as it lives: so it keeps reading, and loses running programs, writing outside its run directory, and what
//! no daemon of its kind calls.
//!
//! The system calls that are refused are listed, and not those that are allowed: the runtime, the resolver and its modules call what
//! their next version finds useful. The kernel's own limits (no capability but two, no new privilege) hold whatever is called.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use landlock::{ABI, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, Scope};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

use crate::sys;

/// The newest Landlock that is asked for; an older kernel denies what it knows.
const NEWEST: ABI = ABI::V7;

/// Gives up what control does not need, for this thread and those it will make.
///
/// # Errors
/// What was refused, in words.
pub(crate) fn enter(run_dir: &Path) -> io::Result<()> {
    let what = |what: &'static str| move |error: io::Error| io::Error::new(error.kind(), format!("cannot {what}: {error}"));
    sys::forbid_dumps().map_err(what("forbid core files"))?;
    // Where the limit does not allow it `penstock doctor` says so, and `penstock show` for the engine.
    let _ = sys::lock_memory();
    sys::keep_capabilities(sys::CONTROL).map_err(what("give up capabilities"))?;
    wall(run_dir)
}

/// The part that holds for one thread and those that it makes.
fn wall(run_dir: &Path) -> io::Result<()> {
    deny_writing(run_dir).map_err(|error| io::Error::other(format!("cannot deny files by Landlock: {error}")))?;
    refuse_calls().map_err(|error| io::Error::other(format!("cannot restrict system calls: {error}")))
}

/// No program can be run, no file be written but in the run directory, and no process outside be signalled.
fn deny_writing(run_dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let writing = AccessFs::from_write(NEWEST);
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    let created = ruleset.handle_access(writing | AccessFs::Execute)?.scope(Scope::Signal)?.create()?;
    let mut created = created.add_rule(PathBeneath::new(PathFd::new(run_dir)?, writing))?;
    for device in ["/dev/net/tun", "/dev/null"] {
        // A machine without it has nothing to be denied.
        if let Ok(device) = PathFd::new(device) {
            created = created.add_rule(PathBeneath::new(device, AccessFs::WriteFile | AccessFs::IoctlDev))?;
        }
    }
    created.restrict_self()?;
    Ok(())
}

/// What control never calls: programs, other processes, places, the kernel itself.
const REFUSED: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_personality,
    libc::SYS_syslog,
];

fn refuse_calls() -> Result<(), Box<dyn std::error::Error>> {
    let rules: BTreeMap<_, _> = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let refusal = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refusal, TargetArch::try_from(std::env::consts::ARCH)?)?;
    apply_filter(&BpfProgram::try_from(filter)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind::PermissionDenied;
    use std::process::Command;

    /// Landlock and filters hold for a thread, so this one alone is locked in.
    #[test]
    fn control_reads_everywhere_writes_at_home_and_runs_nothing() {
        let folder = std::env::temp_dir().join(format!("pen-confine-{}", std::process::id()));
        let (run, outside) = (folder.join("run"), folder.join("outside"));
        fs::create_dir_all(&run).expect("a folder");
        fs::write(&outside, "config").expect("a file");
        let kind = |result: std::io::Result<()>| result.map_err(|error| error.kind());
        let attempt = {
            let (run, outside) = (run.clone(), outside.clone());
            move || {
                assert_eq!(kind(fs::write(&outside, "config")), Ok(()), "before");
                assert_eq!(kind(Command::new("/bin/true").status().map(drop)), Ok(()), "before");
                super::wall(&run).expect("the kernel has both");
                assert_eq!(kind(fs::read(&outside).map(drop)), Ok(()));
                assert_eq!(kind(fs::write(run.join("state"), "ours")), Ok(()));
                assert_eq!(kind(fs::remove_file(run.join("state"))), Ok(()));
                assert_eq!(kind(std::os::unix::net::UnixListener::bind(run.join("control.sock")).map(drop)), Ok(()));
                assert_eq!(kind(fs::write(&outside, "theirs")), Err(PermissionDenied));
                assert_eq!(kind(fs::remove_file(&outside)), Err(PermissionDenied));
                assert_eq!(kind(Command::new("/bin/true").status().map(drop)), Err(PermissionDenied));
                assert_eq!(kind(crate::sys::probe::leave_network()), Err(PermissionDenied));
                assert_eq!(kind(crate::sys::probe::ring().map(drop)), Err(PermissionDenied));
            }
        };
        std::thread::spawn(attempt).join().expect("all of it holds");
        assert_eq!(fs::read_to_string(&outside).expect("it is still there"), "config");
        fs::remove_dir_all(&folder).expect("removed");
    }
}
