//! What leaves: a chain of payloads that links itself (RFC 7296 section 3.2).

use super::kind;

/// The protocol of a child in a notification (section 3.10).
const ESP: u8 = 3;

/// Payloads in the order in which they were pushed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chain {
    first: u8,
    bytes: Vec<u8>,
    /// Where the last payload's "next payload" field stands.
    last: Option<usize>,
}

impl Chain {
    /// The kind of the first payload; 0 when there is none.
    pub(crate) fn first(&self) -> u8 {
        self.first
    }

    /// The payloads as they go on the wire.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Adds a payload. Bodies are ours and far below 64 KiB; one that is not would be cut at the field's limit.
    pub(crate) fn push(&mut self, kind: u8, body: &[u8]) -> &mut Self {
        let body = body.get(..usize::from(u16::MAX) - 4).unwrap_or(body);
        match self.last.and_then(|at| self.bytes.get_mut(at)) {
            Some(next) => *next = kind,
            None => self.first = kind,
        }
        self.last = Some(self.bytes.len());
        let length = u16::try_from(body.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(body);
        self
    }

    /// Adds all payloads of another chain.
    pub(crate) fn append(&mut self, other: &Self) -> &mut Self {
        match self.last.and_then(|at| self.bytes.get_mut(at)) {
            Some(next) => *next = other.first,
            None => self.first = other.first,
        }
        self.last = other.last.map(|at| at + self.bytes.len()).or(self.last);
        self.bytes.extend_from_slice(&other.bytes);
        self
    }

    /// Adds a key exchange payload (section 3.4).
    pub(crate) fn ke(&mut self, group: u16, public: &[u8]) -> &mut Self {
        self.push(kind::KE, &[&group.to_be_bytes(), [0, 0].as_slice(), public].concat())
    }

    /// Adds a nonce (section 3.9).
    pub(crate) fn nonce(&mut self, nonce: &[u8]) -> &mut Self {
        self.push(kind::NONCE, nonce)
    }

    /// Sets the critical flag of the last payload.
    #[cfg(test)]
    pub(crate) fn set_critical(&mut self) {
        let flags = self.last.expect("a payload") + 1;
        self.bytes[flags] = 0x80;
    }

    /// Adds an identity (section 3.5); `payload` is [`kind::ID_I`] or [`kind::ID_R`].
    #[cfg(test)]
    pub(crate) fn id(&mut self, payload: u8, id: u8, data: &[u8]) -> &mut Self {
        self.push(payload, &[&[id, 0, 0, 0], data].concat())
    }

    /// Adds an AUTH payload (section 3.8).
    pub(crate) fn auth(&mut self, method: u8, data: &[u8]) -> &mut Self {
        self.push(kind::AUTH, &[&[method, 0, 0, 0], data].concat())
    }

    /// Adds a notification about the IKE SA (section 3.10): no protocol, no SPI.
    pub(crate) fn notify(&mut self, kind: u16, data: &[u8]) -> &mut Self {
        self.push(kind::NOTIFY, &[&[0, 0], kind.to_be_bytes().as_slice(), data].concat())
    }

    /// Adds a notification about a child, which is named by its sender's inbound SPI.
    pub(crate) fn notify_child(&mut self, kind: u16, spi: u32) -> &mut Self {
        self.push(kind::NOTIFY, &[&[ESP, 4], kind.to_be_bytes().as_slice(), &spi.to_be_bytes()].concat())
    }

    /// Adds a DELETE (section 3.11); no SPIs for the IKE SA itself.
    pub(crate) fn delete(&mut self, protocol: u8, spis: &[u32]) -> &mut Self {
        let count = u16::try_from(spis.len()).unwrap_or(u16::MAX);
        let mut body = vec![protocol, if spis.is_empty() { 0 } else { 4 }];
        body.extend_from_slice(&count.to_be_bytes());
        spis.iter().for_each(|spi| body.extend_from_slice(&spi.to_be_bytes()));
        self.push(kind::DELETE, &body)
    }
}
