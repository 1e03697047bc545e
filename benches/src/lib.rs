//! What the benchmarks and the instruction counts share: keys, a gateway's core in memory, and its traffic.

pub mod gateway;
pub mod traffic;

use penstock_uapi::request::{Key, suite};

/// Inner packets of these bytes are measured: smallest, the Internet's middle, a full path, a jumbo path.
pub const INNER_BYTES: [usize; 4] = [64, 576, 1400, 8900];

/// The suites with their names.
pub const SUITES: [(u8, &str); 2] = [(suite::AES_128_GCM_16, "aes128"), (suite::AES_256_GCM_16, "aes256")];

/// A key of the suite, with extended sequence numbers.
#[must_use]
pub fn key(suite: u8) -> Key {
    Key { key: [7; 32], salt: [9; 4], suite, esn: 1, reserved: [0; 2] }
}
