//! A target with a planted fault: a driver that does not find it would find nothing else either.

use crate::Target;

/// The canary. It is none of [`crate::TARGETS`].
pub const TARGET: Target = Target { name: "canary", about: "panics when a length field is larger than what follows it", run };

/// Takes records of a length and as many octets, and believes every length.
pub fn run(mut bytes: &[u8]) {
    while let [length, rest @ ..] = bytes {
        bytes = &rest[usize::from(*length)..];
    }
}
