//! Given any umask, when the daemon starts, then what it makes is its owner's alone; and given something that somebody else put where it makes a file or
//! a folder, then it does not start, names the path, and leaves alone what that leads to.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use penstock_perf::lab::{Namespace, Site, SiteOptions, binary, new_psk};

const CONFIG: &str = r#"[site]
name = "frankfurt"
cores = 1

[interface.pen0]
address = ["192.168.192.1/30"]

[peer.london]
endpoint = "10.0.0.2"
local_subnets = ["10.43.43.0/24"]
subnets = ["10.43.100.0/24"]
psk_file = "london.psk"
"#;

/// How long a daemon may take to answer, or to say why it does not start.
const PATIENCE: Duration = Duration::from_secs(10);

fn site(namespace: &Namespace) -> Site {
    let secrets = vec![("london.psk".to_owned(), new_psk().expect("a key"))];
    Site::new("frankfurt", namespace, SiteOptions { config: CONFIG.into(), secrets, ..SiteOptions::default() }).expect("a site's files")
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode() & 0o7777
}

#[test]
fn what_the_daemon_makes_is_private_under_any_umask() {
    let namespace = Namespace::new("modes").expect("a namespace");
    for umask in ["0000", "0777"] {
        let mut site = site(&namespace);
        fs::remove_dir_all(site.run_dir()).expect("ours");
        let script = site.folder().join("daemon");
        let program = binary("penstockd").expect("it is built");
        fs::write(&script, format!("#!/bin/sh\numask {umask}\nexec {} \"$@\"\n", program.display())).expect("written");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).expect("ours");
        site.use_daemon(&script);
        site.start().expect("it starts");
        let start = Instant::now();
        while site.show_json().is_err() {
            assert!(start.elapsed() < PATIENCE, "umask {umask}: it does not answer\n{}", site.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        // A change that waits to be confirmed is kept in a file.
        site.write_config(&CONFIG.replace("[peer.london]", "[peer.paris]")).expect("our own file");
        assert!(site.penstock(&["apply", "--confirm", "60s"]).expect("the command").status.success(), "{}", site.log());
        // Control, which may not read others' files, finds it again, and the engine's socket.
        let old = site.kill_control().expect("it runs");
        site.wait_new_control(old, PATIENCE).expect("another answers");
        assert!(site.log().contains("config-not-confirmed") && site.log().contains("engine-adopted"), "umask {umask}: {}", site.log());
        let run_dir = site.run_dir();
        let modes = |names: &[&str]| names.iter().map(|name| mode(&run_dir.join(name))).collect::<Vec<_>>();
        assert_eq!(modes(&["", "jail"]), [0o700; 2], "umask {umask}");
        assert_eq!(modes(&["control.sock", "engine.sock", "unconfirmed.json"]), [0o600; 3], "umask {umask}");
        let mut left: Vec<_> = fs::read_dir(&run_dir).expect("ours").map(|entry| entry.expect("ours").file_name()).collect();
        left.sort();
        assert_eq!(left, ["control.sock", "engine.sock", "jail", "unconfirmed.json"], "nothing else is made");
        site.stop().expect("it runs");
        // A key, too.
        let key = site.folder().join("new.psk");
        let command = "umask \"$0\"; exec \"$@\"";
        let made = Command::new("sh")
            .args(["-c", command, umask])
            .arg(binary("penstock").expect("it is built"))
            .args(["key", "psk", "--out"])
            .arg(&key)
            .status();
        assert!(made.expect("sh runs").success());
        assert_eq!(mode(&key), 0o600, "umask {umask}");
    }
}

/// What the daemon says, which has to end by itself.
fn refusal(site: &Site) -> String {
    let (daemon, log) = (site.daemon_command().expect("the daemon is built"), site.folder().join("said"));
    let mut command = Command::new("timeout");
    command.args(["--kill-after=1", "10"]).arg(daemon.get_program()).args(daemon.get_args());
    // Not a pipe: an engine that stays behind would hold it open.
    let status = command.stderr(fs::File::create(&log).expect("a file")).status().expect("it runs");
    let said = fs::read_to_string(&log).expect("our own file");
    assert!(matches!(status.code(), Some(1 | 2)), "it ends by itself: {status:?} {said}");
    said
}

#[test]
fn what_somebody_put_in_the_way_is_refused_by_name_and_left_alone() {
    let namespace = Namespace::new("planted").expect("a namespace");
    let site = site(&namespace);
    let run_dir = site.run_dir();
    let (precious, folder) = (site.folder().join("precious"), site.folder().join("elsewhere"));
    fs::write(&precious, "precious").expect("written");
    fs::create_dir(&folder).expect("a folder");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("ours");
    let refused = |path: &PathBuf, what: &str| {
        let said = refusal(&site);
        assert!(said.contains(&path.display().to_string()), "{what} at {}: {said}", path.display());
        let untouched = (fs::read_to_string(&precious).expect("it is there"), mode(&folder), fs::read_dir(&folder).expect("ours").count());
        assert_eq!(untouched, ("precious".to_owned(), 0o755, 0), "{what} at {}", path.display());
        let links = site.namespace().ip("link show").expect("ip");
        assert!(!links.contains("pen0"), "{what} at {}: a device stays behind: {links}", path.display());
        fs::remove_file(path).expect("it is still there");
    };
    let fifo = |path: &Path| assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo runs").success());
    for name in ["control.sock", "engine.sock", "jail"] {
        let path = run_dir.join(name);
        let clear = || drop(fs::remove_dir(&path).or_else(|_| fs::remove_file(&path)));
        clear();
        symlink(&precious, &path).expect("a link");
        refused(&path, "a symbolic link to a file");
        clear();
        symlink(&folder, &path).expect("a link");
        refused(&path, "a symbolic link to a folder");
        clear();
        fs::hard_link(&precious, &path).expect("a link");
        refused(&path, "a hard link");
        clear();
        fifo(&path);
        refused(&path, "a FIFO");
        clear();
    }
    // The run directory itself.
    fs::remove_dir_all(&run_dir).expect("ours");
    symlink(&folder, &run_dir).expect("a link");
    refused(&run_dir, "a symbolic link");
    fifo(&run_dir);
    refused(&run_dir, "a FIFO");
    fs::create_dir(&run_dir).expect("a folder");
    fs::set_permissions(&run_dir, fs::Permissions::from_mode(0o1777)).expect("ours");
    let said = refusal(&site);
    assert!(said.contains(&format!("{} can be written by others", run_dir.display())), "{said}");
    fs::remove_dir(&run_dir).expect("it is empty");
    // A key that is none.
    let key = site.folder().join("london.psk");
    fs::remove_file(&key).expect("ours");
    fifo(&key);
    refused(&key, "a FIFO");
    fs::hard_link(&precious, &key).expect("a link");
    refused(&key, "a hard link to a file that others may read");
    symlink(&precious, &key).expect("a link");
    refused(&key, "a symbolic link to a file that others may read");
}
