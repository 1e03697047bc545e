//! The 28 bytes in front of every message (RFC 7296 section 3.1).

use super::{Malformed, array};

/// Bytes of the header.
pub(crate) const BYTES: usize = 28;

/// Set by the original initiator of the IKE SA, in all its messages.
const FLAG_INITIATOR: u8 = 0x08;
/// Set in responses.
const FLAG_RESPONSE: u8 = 0x20;
/// Major version 2, minor version 0.
const VERSION: u8 = 0x20;

/// Exchange types (RFC 7296 section 3.1).
pub(crate) mod exchange {
    /// IKE_SA_INIT.
    pub(crate) const INIT: u8 = 34;
    /// IKE_AUTH.
    pub(crate) const AUTH: u8 = 35;
    /// CREATE_CHILD_SA.
    pub(crate) const CREATE_CHILD: u8 = 36;
    /// INFORMATIONAL.
    pub(crate) const INFORMATIONAL: u8 = 37;
    /// IKE_INTERMEDIATE (RFC 9242).
    pub(crate) const INTERMEDIATE: u8 = 43;
}

/// A header; the length is checked on the way in and computed on the way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The initiator's SPI, never zero.
    pub(crate) spi_i: u64,
    /// The responder's SPI; zero in the first message.
    pub(crate) spi_r: u64,
    /// The kind of the first payload.
    pub(crate) next: u8,
    /// The major version.
    pub(crate) major: u8,
    /// An [`exchange`].
    pub(crate) exchange: u8,
    /// Sent by the original initiator.
    pub(crate) initiator: bool,
    /// A response.
    pub(crate) response: bool,
    /// The message id.
    pub(crate) id: u32,
}

impl Header {
    /// Reads the header and returns it with what stands behind.
    pub(crate) fn parse(message: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        const SHORT: &str = "shorter than a header";
        let mut rest = message;
        let spi_i = u64::from_be_bytes(array(&mut rest, SHORT)?);
        let spi_r = u64::from_be_bytes(array(&mut rest, SHORT)?);
        let [next, version, exchange, flags] = array(&mut rest, SHORT)?;
        let id = u32::from_be_bytes(array(&mut rest, SHORT)?);
        let length = u32::from_be_bytes(array(&mut rest, SHORT)?);
        if usize::try_from(length) != Ok(message.len()) {
            return Err(Malformed("length differs from the datagram's"));
        }
        if spi_i == 0 {
            return Err(Malformed("the initiator's SPI is zero"));
        }
        let (initiator, response) = (flags & FLAG_INITIATOR != 0, flags & FLAG_RESPONSE != 0);
        Ok((Self { spi_i, spi_r, next, major: version >> 4, exchange, initiator, response, id }, rest))
    }

    /// Writes the header of a message whose payloads take `body_bytes`.
    pub(crate) fn write(&self, body_bytes: usize, out: &mut Vec<u8>) {
        let flags = if self.initiator { FLAG_INITIATOR } else { 0 } | if self.response { FLAG_RESPONSE } else { 0 };
        out.extend_from_slice(&self.spi_i.to_be_bytes());
        out.extend_from_slice(&self.spi_r.to_be_bytes());
        out.extend_from_slice(&[self.next, VERSION, self.exchange, flags]);
        out.extend_from_slice(&self.id.to_be_bytes());
        // Our messages are a few hundred bytes; a longer one would be refused by its reader, not misread.
        let length = u32::try_from(body_bytes.saturating_add(BYTES)).unwrap_or(u32::MAX);
        out.extend_from_slice(&length.to_be_bytes());
    }

    /// The header of the answer to this request, from the side that is not the sender.
    pub(crate) fn answer(&self, spi_r: u64) -> Self {
        Self { spi_r, response: true, initiator: !self.initiator, major: 2, next: 0, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::{BYTES, Header, exchange};
    use crate::message::Malformed;

    fn sample() -> (Header, Vec<u8>) {
        let header = Header { spi_i: 1, spi_r: 2, next: 46, major: 2, exchange: exchange::AUTH, initiator: true, response: false, id: 7 };
        let mut bytes = Vec::new();
        header.write(3, &mut bytes);
        bytes.extend_from_slice(b"abc");
        (header, bytes)
    }

    #[test]
    fn a_header_survives_the_wire() {
        let (header, bytes) = sample();
        assert_eq!(Header::parse(&bytes), Ok((header, b"abc".as_slice())));
        assert_eq!(bytes.len(), BYTES + 3);
    }

    #[test]
    fn a_length_that_is_not_the_datagrams_is_refused() {
        let (_, mut bytes) = sample();
        bytes.push(0);
        assert_eq!(Header::parse(&bytes), Err(Malformed("length differs from the datagram's")));
        assert!(Header::parse(&bytes[..BYTES - 1]).is_err());
    }

    #[test]
    fn a_zero_initiator_spi_is_refused() {
        let (header, _) = sample();
        let mut bytes = Vec::new();
        Header { spi_i: 0, ..header }.write(0, &mut bytes);
        assert_eq!(Header::parse(&bytes), Err(Malformed("the initiator's SPI is zero")));
    }
}
