//! IKE messages as typed views over bytes, and chains of payloads on their way out (RFC 7296 section 3).
//!
//! Parse, don't validate: [`header::Header::parse`] and [`payload::Payloads::parse`] believe no length before they
//! have checked it, and what they return cannot be read past its end. Nothing here knows a key or a state.

pub(crate) mod header;
pub(crate) mod notify;
pub(crate) mod payload;
pub(crate) mod write;

pub(crate) use header::{Header, exchange};
pub(crate) use payload::{Ke, Payloads, kind};
pub(crate) use write::Chain;

/// The bytes do not form a message; says which rule they break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Takes `count` bytes from the front of `bytes`.
pub(crate) fn take<'a>(bytes: &mut &'a [u8], count: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
    let (head, tail) = bytes.split_at_checked(count).ok_or(Malformed(what))?;
    *bytes = tail;
    Ok(head)
}

/// Takes an array from the front of `bytes`.
pub(crate) fn array<const N: usize>(bytes: &mut &[u8], what: &'static str) -> Result<[u8; N], Malformed> {
    let (head, tail) = bytes.split_first_chunk::<N>().ok_or(Malformed(what))?;
    *bytes = tail;
    Ok(*head)
}

/// Takes a 16-bit number from the front of `bytes`.
pub(crate) fn word(bytes: &mut &[u8], what: &'static str) -> Result<u16, Malformed> {
    array(bytes, what).map(u16::from_be_bytes)
}
