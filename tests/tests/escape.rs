//! Given an engine that a stranger has taken over, when he tries everything that an intruder tries, then all of it is refused; and
//! the same attempts succeed where there is no sandbox, so that this says something. A running engine shows the same from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use penstock_perf::lab::{Pair, PairOptions};

/// What became of each attempt: nothing was refused, or the errno.
type Outcomes = BTreeMap<String, Option<i32>>;

/// Runs the stand-in for a captured engine: see its own page.
fn prisoner(mode: &str) -> Outcomes {
    let directory = std::env::temp_dir().join(format!("pen-escape-{}-{mode}", std::process::id()));
    fs::create_dir_all(&directory).expect("a directory");
    let output = Command::new(env!("CARGO_BIN_EXE_prisoner")).arg(mode).arg(&directory).output().expect("it runs");
    fs::remove_dir_all(&directory).expect("the directory is ours");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{mode}: {said}{}", String::from_utf8_lossy(&output.stderr));
    let outcome = |line: &str| {
        let (name, result) = line.split_once(": ").expect("name: result");
        (name.to_owned(), if result == "done" { None } else { Some(result.parse().expect("an errno")) })
    };
    said.lines().map(outcome).collect()
}

/// What a kernel answers that was built without something.
fn is_unknown(errno: i32) -> bool {
    [libc::ENOSYS, libc::EAFNOSUPPORT, libc::EPROTONOSUPPORT, libc::EOPNOTSUPP, libc::EINVAL].contains(&errno)
}

#[test]
fn a_captured_engine_gets_nothing_done_that_root_could() {
    let (free, jailed) = (prisoner("free"), prisoner("jailed"));
    assert_eq!(free.keys().collect::<Vec<_>>(), jailed.keys().collect::<Vec<_>>(), "the same attempts");
    let prevented: Vec<_> = free.iter().filter(|(_, outcome)| outcome.is_some_and(|errno| !is_unknown(errno))).collect();
    assert!(prevented.is_empty(), "root without a sandbox can do all of it: {prevented:?}");
    let possible = free.values().filter(|outcome| outcome.is_none()).count();
    assert!(possible >= 80, "this kernel knows {possible} of {} attempts: {free:?}", free.len());
    let refused = |outcome: &Option<i32>| matches!(outcome, Some(libc::EPERM | libc::EACCES));
    let escapes: Vec<_> = jailed.iter().filter(|(_, outcome)| !refused(outcome)).collect();
    assert!(escapes.is_empty(), "{} of {} attempts were not refused: {escapes:?}", escapes.len(), jailed.len());
    println!("{} of {} attempts refused; {possible} of them succeed without the sandbox", jailed.len(), jailed.len());
}

/// Namespaces, an empty root, another user without capabilities, Landlock and the restricted ring, each by itself stop what is theirs.
#[test]
fn without_system_call_filters_the_other_walls_stand() {
    const HELD: [&str; 50] = [
        "open a file",
        "open /proc",
        "open the root",
        "create a file",
        "remove a file",
        "make a directory",
        "remove a directory",
        "make a device",
        "change a mode",
        "look at a path",
        "look at a path by statx",
        "change the directory",
        "find a file by its handle",
        "run a program",
        "run a program by its descriptor",
        "trace a process",
        "signal a process",
        "signal a thread",
        "read another's memory",
        "write another's memory",
        "hold a process",
        "take another's descriptor",
        "change another's limits",
        "become more urgent",
        "make a raw socket",
        "make a packet socket",
        "connect to another's socket",
        "mark a socket",
        "take a network device up",
        "mount a file system",
        "mount the new way",
        "change the root",
        "get a network of its own",
        "enter a namespace",
        "rename the machine",
        "become root",
        "join root's group",
        "take capabilities",
        "allow core files",
        "load a BPF map",
        "read the kernel's log",
        "open a file through the ring",
        "make a socket through the ring",
        "connect through the ring",
        "remove a file through the ring",
        "use a file that the ring does not have",
        "exchange a ring's files",
        "exchange files by the ring",
        "set a socket's options through the ring",
        "do nothing through the ring",
    ];
    let confined = prisoner("confined");
    let through: Vec<_> = HELD.iter().filter(|name| confined.get(**name).is_none_or(Option::is_none)).collect();
    assert!(through.is_empty(), "{through:?}");
}

/// A field of `/proc/PID/status`.
fn field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim().replace('\t', " ")
}

/// How many descriptors of each kind a process has.
fn descriptors(pid: u32) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs") {
        let Ok(target) = fs::read_link(entry.expect("an entry").path()) else { continue };
        let target = target.to_string_lossy().into_owned();
        let kind = if target.starts_with("socket:") { "socket".to_owned() } else { target };
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

#[test]
fn a_running_engine_has_no_right_no_place_and_no_other_descriptor() {
    const CORES: u16 = 2;
    let pair = Pair::start(&PairOptions { cores: [CORES, 1], ..PairOptions::default() }).expect("both sites come up");
    let site = &pair.sites[0];
    let (engine, control) = (site.engine_pid().expect("it runs"), site.control_pid().expect("it runs"));
    let own = std::process::id();

    let mut threads = 0;
    for thread in fs::read_dir(format!("/proc/{engine}/task")).expect("threads") {
        let status = fs::read_to_string(thread.expect("a thread").path().join("status")).expect("its status");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(u64::from_str_radix(&field(&status, set), 16), Ok(0), "{set}");
        }
        let said = ["NoNewPrivs", "Seccomp", "Seccomp_filters", "Uid", "Gid", "Groups"].map(|name| field(&status, name));
        let nobody = "65534 65534 65534 65534";
        assert_eq!(said, ["1", "2", "3", nobody, nobody, ""]);
        assert_eq!(field(&status, "NStgid").split(' ').next_back(), Some("1"), "first of its own process namespace");
        threads += 1;
    }
    let cores = usize::from(CORES);
    assert_eq!(threads, cores + 1, "a thread a core, and the admin's");

    for namespace in ["net", "mnt", "ipc", "uts", "pid", "cgroup"] {
        let of = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/{namespace}")).expect("a link");
        assert!(of(engine) != of(own) && of(engine) != of(control), "{namespace}");
    }
    let root = Path::new("/proc").join(engine.to_string()).join("root");
    assert_eq!(fs::read_dir(&root).expect("we are root").count(), 0, "an empty root");
    let mounts = fs::read_to_string(format!("/proc/{engine}/mounts")).expect("we are root");
    assert_eq!(mounts.lines().count(), 1, "one mount, its own: {mounts}");
    let links = fs::read_to_string(format!("/proc/{engine}/net/dev")).expect("we are root");
    assert_eq!(links.lines().skip(2).count(), 1, "only a loopback device: {links}");
    let limits = fs::read_to_string(format!("/proc/{engine}/limits")).expect("we are root");
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).expect("the limit");
        line.split_whitespace().take(2).map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(limit("Max core file size"), ["0", "0"]);
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(format!("/proc/{engine}/maps")).expect("it runs"));
    assert_eq!(owner, 0, "a process that can be dumped belongs to its user");

    let log = site.log_path().to_string_lossy().into_owned();
    // A core has its queue and its four sockets twice, the first one control's own two, and there are the listener and control.
    let expected = BTreeMap::from([
        ("/dev/null".to_owned(), 1),
        (log, 2),
        ("/dev/net/tun".to_owned(), 2 * cores),
        ("socket".to_owned(), 8 * cores + 2 + 2),
        ("anon_inode:[eventfd]".to_owned(), cores + 1),
        ("anon_inode:[io_uring]".to_owned(), cores),
    ]);
    assert_eq!(descriptors(engine), expected);

    // NET_ADMIN and NET_BIND_SERVICE for control, what starting an engine takes besides for the launcher above it.
    let status = |pid: u32| fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let (of_control, launcher) = (status(control), field(&status(control), "PPid").parse().expect("a number"));
    let allowed = |status: &str, set: &str| u64::from_str_radix(&field(status, set), 16).expect("a mask");
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(allowed(&of_control, set), 0x1400, "{set} of control");
        assert_eq!(allowed(&status(launcher), set) & !0x1a4_15e6, 0, "{set} of the launcher");
    }
    assert_eq!(
        ["NoNewPrivs", "Seccomp", "CapInh", "CapAmb"].map(|name| field(&of_control, name)),
        ["1", "2", "0000000000000000", "0000000000000000"]
    );

    let shown = site.show_json().expect("the daemon answers");
    let sandbox = &shown["engine"]["sandbox"];
    let missing: BTreeSet<&str> = sandbox["missing"].as_object().expect("a table").keys().map(String::as_str).collect();
    // What only an older kernel, or a container without CAP_SYS_RESOURCE, lacks.
    assert!(missing.is_subset(&BTreeSet::from(["files", "ports", "signals", "memory"])), "{sandbox}");
    assert_eq!(sandbox["level"], if missing.is_empty() { "full" } else { "reduced" });
}
