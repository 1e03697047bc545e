//! One program a target; its name picks the function.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use penstock_fuzz::{Target, find};

fuzz_target!(|bytes: &[u8]| {
    static TARGET: OnceLock<Target> = OnceLock::new();
    let target = TARGET.get_or_init(|| find(env!("CARGO_BIN_NAME")).expect("the program is named after a target"));
    (target.run)(bytes);
});
