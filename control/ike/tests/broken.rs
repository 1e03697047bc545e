//! Given builds that are broken on purpose, each by a patch in `tests/broken`, then the tests of this crate fail: they see what
//! they are there for. By command, in some minutes: `cargo test -p penstock-ike --test broken -- --ignored --nocapture`

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace")
}

fn patches() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("tests/broken")).expect("the patches");
    let mut patches: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    patches.sort();
    patches
}

/// A copy of every file that git knows, with what is not committed yet.
fn copy(to: &Path) {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().expect("git");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    for name in String::from_utf8(listed.stdout).expect("names").split_terminator('\0') {
        let (from, to) = (root().join(name), to.join(name));
        fs::create_dir_all(to.parent().expect("a directory")).expect("a directory");
        // A file that is deleted and not committed yet is no part of it.
        if from.exists() {
            fs::copy(from, to).expect("a copy");
        }
    }
}

fn run(program: &str, arguments: &[&str], at: &Path) -> (bool, String) {
    // A folder of its own: what is built of the broken copies must never be taken for what is built of this one.
    let target = root().join("target/broken");
    let output = Command::new(program).args(arguments).current_dir(at).env("CARGO_TARGET_DIR", target).output().expect(program);
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

/// A patch that no longer applies tests nothing.
#[test]
fn every_patch_applies() {
    let patches = patches();
    assert!(patches.len() >= 5);
    for patch in patches {
        let patch = patch.to_str().expect("a path");
        let (applies, text) = run("git", &["apply", "--check", patch], &root());
        assert!(applies, "{patch}: {text}");
    }
}

#[test]
#[ignore = "builds the crate once for each patch"]
fn every_broken_build_is_seen() {
    let at = std::env::temp_dir().join(format!("penstock-broken-{}", std::process::id()));
    copy(&at);
    // Everything but this file: the patches apply to what is whole.
    let tests =
        ["test", "-q", "-p", "penstock-ike", "--lib", "--test", "simulator", "--test", "hostile", "--test", "rekey", "--no-fail-fast"];
    let (whole, text) = run("cargo", &tests, &at);
    assert!(whole, "without a patch all pass: {text}");
    for patch in patches() {
        let patch = patch.to_str().expect("a path");
        assert!(run("git", &["apply", patch], &at).0, "{patch}");
        let (passes, text) = run("cargo", &tests, &at);
        let failed: Vec<&str> = text.lines().filter_map(|line| line.strip_suffix(" --- FAILED")).collect();
        println!("{patch}: {} tests fail: {failed:?}", failed.len());
        assert!(!passes && !failed.is_empty(), "{patch} is not seen: {text}");
        assert!(run("git", &["apply", "-R", patch], &at).0, "{patch}");
    }
    fs::remove_dir_all(&at).expect("cleaned up");
}
