//! Every committed input through its target, some mutations of each, and the proof that a driver finds what there is to be found.

use std::path::{Path, PathBuf};
use std::process::Command;

use penstock_fuzz::mutate::{Chance, mutate};
use penstock_fuzz::{TARGETS, canary, seeds};

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name)
}

fn inputs(name: &str) -> Vec<Vec<u8>> {
    seeds::read(&corpus(name)).unwrap_or_else(|error| panic!("{}: {error}", corpus(name).display()))
}

#[test]
fn every_committed_input_is_withstood() {
    let mut bytes = 0;
    for target in TARGETS {
        let inputs = inputs(target.name);
        assert!(!inputs.is_empty(), "{} has a corpus", target.name);
        (target.run)(&[]);
        for input in inputs {
            bytes += input.len();
            (target.run)(&input);
        }
    }
    assert!(bytes < 1 << 20, "{bytes} bytes of corpora; they stay small");
}

#[test]
fn every_folder_of_the_corpora_belongs_to_a_target() {
    for entry in std::fs::read_dir(corpus("")).expect("the corpora") {
        let name = entry.expect("an entry").file_name();
        assert!(name.to_str().is_some_and(|name| penstock_fuzz::find(name).is_some()), "{name:?}");
    }
}

#[test]
fn some_mutations_of_each_are_withstood() {
    for target in TARGETS {
        let inputs = inputs(target.name);
        let mut chance = Chance::new(2026);
        for _ in 0..400 {
            let mut input = inputs[chance.below(inputs.len())].clone();
            let other = &inputs[chance.below(inputs.len())];
            mutate(&mut input, other, &mut chance);
            (target.run)(&input);
        }
    }
}

#[test]
fn every_truncation_of_a_first_message_is_withstood() {
    for name in ["ike_request", "ike_response"] {
        let target = penstock_fuzz::find(name).expect("a target");
        for input in inputs(name) {
            (0..input.len()).for_each(|length| (target.run)(&input[..length]));
        }
    }
}

/// A driver that finds nothing in the canary would find nothing anywhere.
#[test]
fn the_driver_finds_the_canary_and_leaves_the_input_that_crashes() {
    let folder = std::env::temp_dir().join(format!("penstock-canary-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let program = env!("CARGO_BIN_EXE_penstock-fuzz");
    let run = |arguments: &[&str]| Command::new(program).args(arguments).output().expect("the driver starts");
    let found = run(&["run", "canary", "--runs", "100000", "--findings", folder.to_str().expect("UTF-8")]);
    assert!(!found.status.success(), "it ends at the finding");
    let file = folder.join("finding-canary-1");
    let input = std::fs::read(&file).expect("the finding");
    assert!(std::panic::catch_unwind(|| (canary::TARGET.run)(&input)).is_err(), "the input alone crashes it again");
    assert!(!run(&["replay", "canary", file.to_str().expect("UTF-8")]).status.success());
    std::fs::remove_dir_all(&folder).expect("our own folder");
    // And where nothing is planted, it finds nothing.
    let other = run(&["run", "udp_control", "--runs", "2000"]);
    assert!(other.status.success(), "{}", String::from_utf8_lossy(&other.stderr));
}
