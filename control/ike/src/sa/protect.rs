//! Messages under the keys of an IKE SA: sealed, in pieces where they are long, and opened again (RFC 7296 section 3.14,
//! RFC 7383).

use std::net::SocketAddr;

use crate::context::Context;
use crate::crypto::sha256;
use crate::exchange::Came;
use crate::fragment::{Opened, Piece, whole_octets_max};
use crate::message::payload::Fragment;
use crate::message::{Chain, Header, Payloads, header, kind};
use crate::retransmit::{Outstanding, Purpose};

use super::{Answered, IkeSa};

/// Octets of a payload's own header, and of what a piece has beside it.
const PAYLOAD_OCTETS: usize = 4;
const FRAGMENT_OCTETS: usize = 4;

impl IkeSa {
    /// Sends an encrypted request and starts its clock. The window must be free.
    pub(crate) fn send_request(&mut self, cx: &mut Context, now: u64, exchange: u8, chain: &Chain, purpose: Purpose) {
        self.send_request_to(cx, now, (exchange, chain), purpose, (self.local, self.remote));
    }

    /// The same between other ends, ours and the peer's, than the IKE SA's.
    pub(crate) fn send_request_to(
        &mut self,
        cx: &mut Context,
        now: u64,
        (exchange, chain): (u8, &Chain),
        purpose: Purpose,
        (local, remote): (SocketAddr, SocketAddr),
    ) {
        let id = self.requests.next;
        let Some(datagrams) = self.seal(self.header(exchange, id), chain) else { return };
        datagrams.iter().for_each(|datagram| cx.send(local, remote, datagram.clone()));
        self.requests.next = id.saturating_add(1);
        self.requests.outstanding = Some(Outstanding::new(id, datagrams, purpose, now, &cx.config, &mut cx.jitter));
    }

    /// Answers a request to where it came from, and keeps the answer for its repetitions.
    pub(crate) fn reply(&mut self, cx: &mut Context, came: &Came, chain: &Chain) {
        let Some(datagrams) = self.seal(came.header.answer(came.header.spi_r), chain) else { return };
        if let Some(last) = &mut self.replies.last {
            last.response = Some(datagrams.clone());
        }
        datagrams.into_iter().for_each(|datagram| cx.send(came.to, came.from, datagram));
    }

    /// Notes that this request is being worked on; a repetition is not a new one.
    pub(crate) fn accept_request(&mut self, digest: [u8; 32]) {
        self.replies.last = Some(Answered { digest, response: None });
        self.replies.expected = self.replies.expected.saturating_add(1);
    }

    /// The answer to the last request, if this is that request again: the same octets, or of one in pieces the first piece, which
    /// may be cut otherwise (RFC 7296 section 2.1, RFC 7383 section 2.6.1).
    pub(crate) fn repeated(&self, header: &Header, message: &[u8]) -> Option<&[Vec<u8>]> {
        let Answered { digest, response } = self.replies.last.as_ref()?;
        let again = || self.piece(header, message).is_some_and(|piece| piece.number == 1);
        let response = response.as_deref()?;
        (*digest == sha256(message) || again()).then_some(response)
    }

    /// Everything in front of an IV is authenticated, the payloads are encrypted.
    pub(crate) fn seal(&mut self, header: Header, chain: &Chain) -> Option<Vec<Vec<u8>>> {
        let (most, keys) = (whole_octets_max(self.remote.ip()), self.keys.as_mut()?);
        let body = PAYLOAD_OCTETS + keys.sealed_octets(chain.bytes().len());
        if header::BYTES + body <= most || !self.fragments {
            let mut message = Vec::with_capacity(header::BYTES + body);
            Header { next: kind::ENCRYPTED, ..header }.write(body, &mut message);
            message.extend_from_slice(&[chain.first(), 0]);
            message.extend_from_slice(&u16::try_from(body).ok()?.to_be_bytes());
            keys.seal(&mut message, chain.bytes())?;
            return Some(vec![message]);
        }
        let each = keys.plain_octets(most - header::BYTES - PAYLOAD_OCTETS - FRAGMENT_OCTETS).max(1);
        let total = u16::try_from(chain.bytes().len().div_ceil(each)).ok()?;
        let pieces = (1..=total).zip(chain.bytes().chunks(each)).map(|(number, plain)| {
            let body = PAYLOAD_OCTETS + FRAGMENT_OCTETS + keys.sealed_octets(plain.len());
            let mut message = Vec::with_capacity(header::BYTES + body);
            Header { next: kind::FRAGMENT, ..header }.write(body, &mut message);
            message.extend_from_slice(&[if number == 1 { chain.first() } else { 0 }, 0]);
            for word in [u16::try_from(body).ok()?, number, total] {
                message.extend_from_slice(&word.to_be_bytes());
            }
            keys.seal(&mut message, plain)?;
            Some(message)
        });
        pieces.collect()
    }

    /// What is inside an encrypted message. `None` if it is not from the peer, or a piece and others are missing.
    pub(crate) fn open(&mut self, header: &Header, message: &[u8]) -> Option<Opened> {
        if let Some(piece) = self.piece(header, message) {
            let pieces = if header.response { &mut self.requests.pieces } else { &mut self.replies.pieces };
            return pieces.add(piece);
        }
        self.whole(header, message)
    }

    /// What is inside a message that came in one piece.
    pub(crate) fn whole(&self, header: &Header, message: &[u8]) -> Option<Opened> {
        let encrypted = Payloads::parse(header.next, message.get(header::BYTES..)?).ok()?.encrypted?;
        let head = message.get(..message.len().checked_sub(encrypted.body.len())?)?;
        let inner = self.keys.as_ref()?.open(head, encrypted.body)?;
        Some(Opened { first: encrypted.first, inner, digest: sha256(message), head: *message.first_chunk()? })
    }

    /// A piece of a message, if it is from the peer.
    fn piece<'a>(&self, header: &Header, message: &'a [u8]) -> Option<Piece<'a>> {
        let fragment = Payloads::parse(header.next, message.get(header::BYTES..)?).ok()?.fragment.filter(|_| self.fragments)?;
        let Fragment { first, number, total, body } = fragment;
        let head = message.get(..message.len().checked_sub(body.len())?)?;
        let inner = self.keys.as_ref()?.open(head, body)?;
        Some(Piece { id: header.id, number, total, first, inner, message })
    }
}
