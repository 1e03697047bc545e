//! What arrives: the chain of payloads behind a header, or inside the encrypted one, split and sorted
//! (RFC 7296 sections 3.2 to 3.14, RFC 7383).

use super::{Malformed, array, take, word};

/// Payload kinds (RFC 7296 section 3.2).
pub(crate) mod kind {
    pub(crate) const SA: u8 = 33;
    pub(crate) const KE: u8 = 34;
    pub(crate) const ID_I: u8 = 35;
    pub(crate) const ID_R: u8 = 36;
    pub(crate) const AUTH: u8 = 39;
    pub(crate) const NONCE: u8 = 40;
    pub(crate) const NOTIFY: u8 = 41;
    pub(crate) const DELETE: u8 = 42;
    pub(crate) const VENDOR: u8 = 43;
    pub(crate) const TS_I: u8 = 44;
    pub(crate) const TS_R: u8 = 45;
    pub(crate) const ENCRYPTED: u8 = 46;
    /// A piece of an encrypted payload (RFC 7383).
    pub(crate) const FRAGMENT: u8 = 53;
    /// Everything that RFC 7296 defines, and so must not be answered as unknown, is from 33 to here.
    pub(crate) const LAST_DEFINED: u8 = 48;
}

/// More payloads in one message than any exchange needs are refused.
const PAYLOADS_MAX: usize = 96;
/// More SPIs in one DELETE than a peer may have children with us are refused.
const SPIS_MAX: usize = 1_024;

/// A key exchange payload (section 3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ke<'a> {
    pub(crate) group: u16,
    pub(crate) public: &'a [u8],
}

/// An identification payload (section 3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id<'a> {
    /// The whole body, over which the AUTH value is computed.
    pub(crate) body: &'a [u8],
    pub(crate) kind: u8,
    pub(crate) data: &'a [u8],
}

/// An authentication payload (section 3.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Auth<'a> {
    pub(crate) method: u8,
    pub(crate) data: &'a [u8],
}

/// A notification (section 3.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Notify<'a> {
    pub(crate) kind: u16,
    /// Of the SA that it is about; empty for the IKE SA.
    pub(crate) spi: &'a [u8],
    pub(crate) data: &'a [u8],
}

/// A delete payload (section 3.11): `spis` is empty for the IKE SA itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delete {
    pub(crate) protocol: u8,
    pub(crate) spis: Vec<u32>,
}

/// The encrypted payload (section 3.14), still closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Encrypted<'a> {
    /// The kind of the first payload inside.
    pub(crate) first: u8,
    /// IV, ciphertext and ICV.
    pub(crate) body: &'a [u8],
}

/// A piece of an encrypted payload (RFC 7383 section 2.5), still closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment<'a> {
    /// In the first piece, the kind of the first payload inside.
    pub(crate) first: u8,
    pub(crate) number: u16,
    pub(crate) total: u16,
    /// IV, ciphertext and ICV.
    pub(crate) body: &'a [u8],
}

/// All payloads of one chain, sorted by kind.
#[derive(Debug, Default)]
pub(crate) struct Payloads<'a> {
    pub(crate) sa: Option<&'a [u8]>,
    pub(crate) ke: Option<Ke<'a>>,
    pub(crate) id_i: Option<Id<'a>>,
    pub(crate) id_r: Option<Id<'a>>,
    pub(crate) auth: Option<Auth<'a>>,
    pub(crate) nonce: Option<&'a [u8]>,
    pub(crate) ts_i: Option<&'a [u8]>,
    pub(crate) ts_r: Option<&'a [u8]>,
    pub(crate) notifies: Vec<Notify<'a>>,
    pub(crate) deletes: Vec<Delete>,
    pub(crate) vendors: Vec<&'a [u8]>,
    pub(crate) encrypted: Option<Encrypted<'a>>,
    pub(crate) fragment: Option<Fragment<'a>>,
    /// The first payload that its sender calls critical and we do not know (section 2.5).
    pub(crate) unknown_critical: Option<u8>,
}

impl<'a> Payloads<'a> {
    /// Splits a chain whose first payload is of kind `first`.
    pub(crate) fn parse(first: u8, bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (mut found, mut next, mut rest) = (Self::default(), first, bytes);
        for _ in 0..PAYLOADS_MAX {
            if next == 0 {
                return if rest.is_empty() { Ok(found) } else { Err(Malformed("bytes behind the last payload")) };
            }
            let [after, flags] = array(&mut rest, "a payload's header is cut short")?;
            let length = usize::from(word(&mut rest, "a payload's header is cut short")?);
            let body = length.checked_sub(4).ok_or(Malformed("a payload shorter than its header"))?;
            let body = take(&mut rest, body, "a payload longer than the message")?;
            if next == kind::ENCRYPTED {
                // Section 3.14: it is the last one, and its next field names the first payload inside.
                found.encrypted = Some(Encrypted { first: after, body });
                return if rest.is_empty() { Ok(found) } else { Err(Malformed("bytes behind the encrypted payload")) };
            }
            if next == kind::FRAGMENT {
                let mut body = body;
                let number = word(&mut body, "a piece cut short")?;
                let total = word(&mut body, "a piece cut short")?;
                found.fragment = Some(Fragment { first: after, number, total, body });
                return if rest.is_empty() { Ok(found) } else { Err(Malformed("bytes behind the encrypted payload")) };
            }
            found.sort(next, flags & 0x80 != 0, body)?;
            next = after;
        }
        Err(Malformed("too many payloads"))
    }

    fn sort(&mut self, kind: u8, critical: bool, body: &'a [u8]) -> Result<(), Malformed> {
        match kind {
            kind::SA => once(&mut self.sa, body),
            kind::KE => once(&mut self.ke, parse_ke(body)?),
            kind::ID_I => once(&mut self.id_i, parse_id(body)?),
            kind::ID_R => once(&mut self.id_r, parse_id(body)?),
            kind::AUTH => once(&mut self.auth, parse_auth(body)?),
            kind::NONCE => {
                // Section 3.9: between 16 and 256 octets.
                let sized = (16..=256).contains(&body.len());
                if sized { once(&mut self.nonce, body) } else { Err(Malformed("a nonce not of 16 to 256 octets")) }
            }
            kind::TS_I => once(&mut self.ts_i, body),
            kind::TS_R => once(&mut self.ts_r, body),
            kind::NOTIFY => parse_notify(body).map(|notify| self.notifies.push(notify)),
            kind::DELETE => parse_delete(body).map(|delete| self.deletes.push(delete)),
            kind::VENDOR => {
                self.vendors.push(body);
                Ok(())
            }
            // Section 2.5: the critical flag of a kind that the RFC defines means nothing.
            unknown => {
                let defined = (kind::SA..=kind::LAST_DEFINED).contains(&unknown);
                if critical && !defined && self.unknown_critical.is_none() {
                    self.unknown_critical = Some(unknown);
                }
                Ok(())
            }
        }
    }

    /// The first notification of this kind.
    pub(crate) fn notify(&self, kind: u16) -> Option<&Notify<'a>> {
        self.notifies.iter().find(|notify| notify.kind == kind)
    }

    /// The first notification that is an error.
    pub(crate) fn error(&self) -> Option<&Notify<'a>> {
        self.notifies.iter().find(|notify| notify.kind < super::notify::FIRST_STATUS)
    }
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), Malformed> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Malformed("a payload that may come once comes twice")),
    }
}

fn parse_ke(mut body: &[u8]) -> Result<Ke<'_>, Malformed> {
    let group = word(&mut body, "a key exchange payload cut short")?;
    word(&mut body, "a key exchange payload cut short")?;
    Ok(Ke { group, public: body })
}

fn parse_id(body: &[u8]) -> Result<Id<'_>, Malformed> {
    let mut data = body;
    let [kind, ..]: [u8; 4] = array(&mut data, "an identity cut short")?;
    Ok(Id { body, kind, data })
}

fn parse_auth(mut body: &[u8]) -> Result<Auth<'_>, Malformed> {
    let [method, ..]: [u8; 4] = array(&mut body, "an AUTH payload cut short")?;
    Ok(Auth { method, data: body })
}

fn parse_notify(mut body: &[u8]) -> Result<Notify<'_>, Malformed> {
    let [_protocol, spi_bytes] = array(&mut body, "a notification cut short")?;
    let kind = word(&mut body, "a notification cut short")?;
    let spi = take(&mut body, usize::from(spi_bytes), "a notification's SPI longer than it")?;
    Ok(Notify { kind, spi, data: body })
}

fn parse_delete(mut body: &[u8]) -> Result<Delete, Malformed> {
    let [protocol, spi_bytes] = array(&mut body, "a DELETE cut short")?;
    let count = usize::from(word(&mut body, "a DELETE cut short")?);
    let right = match spi_bytes {
        0 => count == 0 && body.is_empty(),
        4 => count <= SPIS_MAX && body.len() == count.saturating_mul(4),
        _ => false,
    };
    if !right {
        return Err(Malformed("a DELETE whose count, SPI size and length disagree"));
    }
    let spis = body.chunks_exact(4).filter_map(|spi| spi.try_into().ok().map(u32::from_be_bytes)).collect();
    Ok(Delete { protocol, spis })
}

#[cfg(test)]
mod tests {
    use super::{Payloads, kind};
    use crate::message::{Chain, Malformed};

    #[test]
    fn a_chain_survives_the_wire() {
        // Given one payload of each kind, written by our own hand
        let mut chain = Chain::default();
        chain.push(kind::SA, b"sa").ke(31, b"public").nonce(&[7; 16]).id(kind::ID_I, 2, b"berlin").auth(2, b"mac");
        chain
            .notify(16_384, b"data")
            .notify_child(16_393, 0x9abc_def0)
            .delete(3, &[0x1234_5678])
            .push(kind::VENDOR, b"vendor")
            .push(kind::TS_I, b"ts");
        // When it is read
        let read = Payloads::parse(chain.first(), chain.bytes()).expect("well formed");
        // Then every field is where it was
        assert_eq!(read.sa, Some(b"sa".as_slice()));
        assert_eq!(read.ke.map(|ke| (ke.group, ke.public)), Some((31, b"public".as_slice())));
        assert_eq!(read.nonce, Some([7; 16].as_slice()));
        assert_eq!(read.id_i.map(|id| (id.kind, id.data)), Some((2, b"berlin".as_slice())));
        assert_eq!(read.auth.map(|auth| (auth.method, auth.data)), Some((2, b"mac".as_slice())));
        assert_eq!(read.notify(16_384).map(|n| n.data), Some(b"data".as_slice()));
        assert_eq!(read.notify(16_393).map(|n| (n.spi, n.data)), Some((0x9abc_def0_u32.to_be_bytes().as_slice(), [].as_slice())));
        assert_eq!(read.deletes[0].spis, [0x1234_5678]);
        assert_eq!((read.vendors.len(), read.ts_i), (1, Some(b"ts".as_slice())));
        assert_eq!(read.error(), None);
    }

    #[test]
    fn an_unknown_critical_payload_is_remembered_and_a_harmless_one_skipped() {
        let read = Payloads::parse(200, &[0, 0x80, 0, 4]).expect("well formed");
        assert_eq!(read.unknown_critical, Some(200));
        assert_eq!(Payloads::parse(200, &[0, 0, 0, 4]).expect("well formed").unknown_critical, None);
        // CERTREQ is defined by the RFC: its critical flag means nothing.
        assert_eq!(Payloads::parse(38, &[0, 0x80, 0, 4]).expect("well formed").unknown_critical, None);
    }

    #[test]
    fn lengths_are_checked_before_they_are_believed() {
        let refused = |first: u8, bytes: &[u8]| Payloads::parse(first, bytes).expect_err("malformed");
        assert_eq!(refused(kind::SA, &[0, 0, 0, 3]), Malformed("a payload shorter than its header"));
        assert_eq!(refused(kind::SA, &[0, 0, 0, 5]), Malformed("a payload longer than the message"));
        assert_eq!(refused(kind::SA, &[0, 0, 0, 4, 9]), Malformed("bytes behind the last payload"));
        assert_eq!(refused(kind::ENCRYPTED, &[0, 0, 0, 4, 9]), Malformed("bytes behind the encrypted payload"));
        assert_eq!(refused(kind::NOTIFY, &[0, 0, 0, 8, 0, 1, 0, 1]), Malformed("a notification's SPI longer than it"));
        assert_eq!(refused(kind::SA, &[kind::SA, 0, 0, 4, 0, 0, 0, 4]), Malformed("a payload that may come once comes twice"));
        assert_eq!(refused(kind::NONCE, &[0, 0, 0, 19, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]).0, "a nonce not of 16 to 256 octets");
        for body in [[3, 4, 0, 1].as_slice(), &[3, 4, 0, 2, 1, 1, 1, 1], &[3, 8, 0, 0], &[1, 0, 0, 1]] {
            let bytes = [&[0, 0, 0, 4 + body.len() as u8], body].concat();
            assert_eq!(refused(kind::DELETE, &bytes).0, "a DELETE whose count, SPI size and length disagree");
        }
    }

    #[test]
    fn bounds_are_taken_and_one_more_is_not() {
        let parse = |first, body: &[u8]| {
            let length = u16::try_from(4 + body.len()).expect("small").to_be_bytes();
            Payloads::parse(first, &[&[0, 0], length.as_slice(), body].concat()).map(drop)
        };
        // Octets of a nonce, and SPIs of a DELETE.
        for (octets, taken) in [(15, false), (16, true), (256, true), (257, false)] {
            assert_eq!(parse(kind::NONCE, &vec![7; octets]).is_ok(), taken, "{octets}");
        }
        for (spis, taken) in [(0, true), (super::SPIS_MAX, true), (super::SPIS_MAX + 1, false)] {
            let count = u16::try_from(spis).expect("small").to_be_bytes();
            let body = [&[3, 4], count.as_slice(), &[1; 4].repeat(spis)].concat();
            assert_eq!(parse(kind::DELETE, &body).is_ok(), taken, "{spis}");
        }
        // The IKE SA itself has no SPI there, and nothing behind.
        assert!(parse(kind::DELETE, &[1, 0, 0, 0]).is_ok());
        assert!(parse(kind::DELETE, &[1, 0, 0, 0, 1, 1, 1, 1]).is_err());
    }

    #[test]
    fn a_piece_says_its_number_and_the_rest_lies_behind() {
        let piece = [35, 0, 0, 10, 0, 2, 1, 3, 8, 9];
        let read = Payloads::parse(kind::FRAGMENT, &piece).expect("well formed").fragment.expect("a piece");
        assert_eq!((read.first, read.number, read.total, read.body), (35, 2, 0x0103, [8, 9].as_slice()));
        let longer = [piece.as_slice(), &[0]].concat();
        assert_eq!(Payloads::parse(kind::FRAGMENT, &longer).expect_err("malformed"), Malformed("bytes behind the encrypted payload"));
        let read = Payloads::parse(kind::ENCRYPTED, &[35, 0, 0, 6, 8, 9]).expect("well formed").encrypted.expect("closed");
        assert_eq!((read.first, read.body), (35, [8, 9].as_slice()));
    }

    #[test]
    fn errors_are_told_from_what_is_only_said() {
        let error = |kind: u16| {
            let [high, low] = kind.to_be_bytes();
            let notify = [0, 0, 0, 8, 0, 0, high, low];
            Payloads::parse(super::kind::NOTIFY, &notify).expect("well formed").error().map(|notify| notify.kind)
        };
        assert_eq!((error(14), error(16_383), error(16_384), error(u16::MAX)), (Some(14), Some(16_383), None, None));
    }

    #[test]
    fn the_first_of_several_unknown_critical_payloads_is_remembered() {
        let two = [201, 0x80, 0, 4, 0, 0x80, 0, 4];
        assert_eq!(Payloads::parse(200, &two).expect("well formed").unknown_critical, Some(200));
        // The kinds beside those that the RFC defines are unknown.
        for (first, unknown) in [(32, Some(32)), (kind::SA, None), (kind::LAST_DEFINED, None), (49, Some(49))] {
            let read = Payloads::parse(first, &[0, 0x80, 0, 4]).expect("well formed");
            assert_eq!(read.unknown_critical, unknown, "{first}");
        }
    }

    #[test]
    fn a_message_of_nothing_but_payloads_ends() {
        let bytes = [kind::VENDOR, 0, 0, 4].repeat(1_000);
        assert_eq!(Payloads::parse(kind::VENDOR, &bytes).expect_err("too many"), Malformed("too many payloads"));
    }
}
