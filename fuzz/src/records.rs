//! Inputs of several parts: a length of two octets before each, so that mutation can move, copy and drop whole parts.

/// The parts of an input. A length beyond the end gives what is there.
pub fn split(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let (part, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
        bytes = rest;
        Some(part)
    })
}

/// Parts as an input.
///
/// # Panics
/// If a part has more than 65,535 octets.
#[must_use]
pub fn join<P: AsRef<[u8]>>(parts: impl IntoIterator<Item = P>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        let part = part.as_ref();
        bytes.extend_from_slice(&u16::try_from(part.len()).expect("a part of at most 65,535 octets").to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}
