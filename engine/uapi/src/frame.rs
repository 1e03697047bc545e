//! A frame: the header that precedes every message, its kinds and its checks.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
use zeroize::Zeroizing;

use crate::FRAME_BYTES_MAX;

/// The 16 bytes before every body.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    kind: U16,
    status: U16,
    length: U32,
    request: U64,
}

/// Bytes of a [`Header`].
pub const HEADER_BYTES: usize = size_of::<Header>();

macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident { $($(#[$case_doc:meta])* $case:ident = $value:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum $name { $($(#[$case_doc])* $case = $value,)* }

        impl $name {
            /// Every case.
            pub const ALL: &'static [Self] = &[$(Self::$case,)*];

            /// The case with this number.
            #[must_use]
            pub fn from_number(number: u16) -> Option<Self> {
                match number { $($value => Some(Self::$case),)* _ => None }
            }
        }
    };
}

numbered! {
    /// What a frame's body is. Requests stand below 100, answers from 100, events from 200.
    Kind {
        /// [`crate::request::Hello`].
        Hello = 1,
        /// [`crate::request::AttachCore`], with descriptors.
        AttachCore = 2,
        /// [`crate::request::Start`].
        Start = 3,
        /// [`crate::request::PolicyBegin`].
        PolicyBegin = 4,
        /// [`crate::request::Policy`].
        Policy = 5,
        /// [`crate::request::PolicyPairs`] and a tail of [`crate::request::Pair`]s.
        PolicyPairs = 6,
        /// [`crate::request::PolicyCommit`].
        PolicyCommit = 7,
        /// [`crate::request::ExpectSpi`].
        ExpectSpi = 8,
        /// [`crate::request::InstallInbound`].
        InstallInbound = 9,
        /// [`crate::request::InstallOutbound`].
        InstallOutbound = 10,
        /// [`crate::request::Retire`].
        Retire = 11,
        /// [`crate::request::Inject`] and a tail of bytes.
        Inject = 12,
        /// [`crate::request::ReadState`].
        ReadState = 13,
        /// [`crate::request::Shutdown`].
        Shutdown = 14,
        /// [`crate::request::Redirect`].
        Redirect = 15,
        /// [`crate::request::TakeQueues`].
        TakeQueues = 16,
        /// [`crate::reply::Welcome`].
        Welcome = 100,
        /// [`crate::reply::HandBack`], with descriptors.
        HandBack = 101,
        /// An answer without a body.
        Answer = 102,
        /// [`crate::reply::CoreState`]; as a request, what an engine before this one has counted.
        CoreState = 103,
        /// [`crate::reply::PolicyState`]; as a request, what an engine before this one has counted.
        PolicyState = 104,
        /// [`crate::reply::SaState`].
        SaState = 105,
        /// [`crate::event::StrayIke`] and a tail of bytes.
        StrayIke = 200,
        /// [`crate::event::UnknownSpi`].
        UnknownSpi = 201,
        /// [`crate::event::SaLimit`].
        SaLimit = 202,
        /// [`crate::event::PeerMoved`].
        PeerMoved = 203,
        /// [`crate::event::Acquire`].
        Acquire = 204,
        /// [`crate::event::OutboundActive`].
        OutboundActive = 205,
        /// [`crate::event::PathMtu`].
        PathMtu = 206,
    }
}

numbered! {
    /// How an answer ends. Everything but `Done` and `More` is a refusal that changed nothing.
    Status {
        /// The request was carried out; this frame closes the answer.
        Done = 0,
        /// Another frame with the same request id follows.
        More = 1,
        /// The frame or a field of it has no meaning.
        Malformed = 2,
        /// Another version of the protocol.
        Version = 3,
        /// This client may only read, or there is a writer already.
        NotWriter = 4,
        /// The request came before one that it needs, e.g. an outbound SA before its inbound one.
        Order = 5,
        /// The SPI, key or policy is there already.
        Exists = 6,
        /// No such SPI, policy or core.
        Unknown = 7,
        /// A bound was reached (SAs, policies, pairs, clients).
        Full = 8,
        /// The descriptors do not match the roles announced.
        Descriptors = 9,
        /// The engine cannot do this here; its log says why.
        Unsupported = 10,
    }
}

impl Status {
    /// What to tell a person.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::More => "more follows",
            Self::Malformed => "the message or one of its fields has no meaning",
            Self::Version => "engine and control speak different versions; run both from one release",
            Self::NotWriter => "another control process holds this engine",
            Self::Order => "the request came before one that it needs",
            Self::Exists => "it is there already",
            Self::Unknown => "there is no such SPI, policy or core",
            Self::Full => "a bound was reached",
            Self::Descriptors => "the descriptors do not match their announced roles",
            Self::Unsupported => "the engine cannot do this here; its log says why",
        }
    }
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Fewer bytes than a header.
    #[error("frame of {0} bytes is shorter than its header")]
    Short(usize),
    /// The header's length is not that of the datagram.
    #[error("frame says {said} bytes of body and has {is}")]
    Length {
        /// The length in the header.
        said: usize,
        /// The bytes behind the header.
        is: usize,
    },
    /// A kind that this version does not know.
    #[error("frame of unknown kind {0}")]
    Kind(u16),
    /// A status that this version does not know.
    #[error("frame of unknown status {0}")]
    Status(u16),
    /// The body is not as long as its kind's layout.
    #[error("body of {is} bytes where {kind:?} has {needs}")]
    Body {
        /// The frame's kind.
        kind: Kind,
        /// Bytes of the layout.
        needs: usize,
        /// Bytes there are.
        is: usize,
    },
    /// Another kind than the one asked for.
    #[error("frame of kind {is:?} where {needs:?} was expected")]
    Unexpected {
        /// The kind asked for.
        needs: Kind,
        /// The kind there is.
        is: Kind,
    },
}

/// A fixed layout with its frame kind.
pub trait Body: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned {
    /// The kind that announces this body.
    const KIND: Kind;
}

/// A received frame, its header checked against the datagram, its body not yet interpreted.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// What the body is.
    pub kind: Kind,
    /// How the answer ends; [`Status::Done`] in requests and events.
    pub status: Status,
    /// The request that is made or answered; 0 in events.
    pub request: u64,
    /// The bytes behind the header.
    pub body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Checks a datagram.
    ///
    /// # Errors
    /// Says which part of the header does not hold.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, FrameError> {
        let (header, body) = Header::read_from_prefix(datagram).map_err(|_| FrameError::Short(datagram.len()))?;
        let said = usize::try_from(header.length.get()).unwrap_or(usize::MAX);
        if said != body.len() || datagram.len() > FRAME_BYTES_MAX {
            return Err(FrameError::Length { said, is: body.len() });
        }
        let kind = Kind::from_number(header.kind.get()).ok_or(FrameError::Kind(header.kind.get()))?;
        let status = Status::from_number(header.status.get()).ok_or(FrameError::Status(header.status.get()))?;
        Ok(Self { kind, status, request: header.request.get(), body })
    }

    /// The body as the layout `B`, of exactly its length.
    ///
    /// # Errors
    /// If the frame is of another kind or length.
    pub fn body<B: Body>(&self) -> Result<&'a B, FrameError> {
        self.expect(B::KIND)?;
        B::ref_from_bytes(self.body).map_err(|_| self.wrong_length::<B>())
    }

    /// The body as the layout `B` and the bytes behind it.
    ///
    /// # Errors
    /// If the frame is of another kind or too short.
    pub fn body_and_tail<B: Body>(&self) -> Result<(&'a B, &'a [u8]), FrameError> {
        self.expect(B::KIND)?;
        B::ref_from_prefix(self.body).map_err(|_| self.wrong_length::<B>())
    }

    fn expect(&self, needs: Kind) -> Result<(), FrameError> {
        if self.kind == needs { Ok(()) } else { Err(FrameError::Unexpected { needs, is: self.kind }) }
    }

    fn wrong_length<B: Body>(&self) -> FrameError {
        FrameError::Body { kind: self.kind, needs: size_of::<B>(), is: self.body.len() }
    }
}

/// Writes a frame. The bytes are wiped when dropped, because they may hold a key.
#[must_use]
pub fn encode<B: Body>(status: Status, request: u64, body: &B, tail: &[u8]) -> Zeroizing<Vec<u8>> {
    encode_raw(B::KIND, status, request, body.as_bytes(), tail)
}

/// Writes an answer without a body.
#[must_use]
pub fn answer(status: Status, request: u64) -> Zeroizing<Vec<u8>> {
    encode_raw(Kind::Answer, status, request, &[], &[])
}

fn encode_raw(kind: Kind, status: Status, request: u64, body: &[u8], tail: &[u8]) -> Zeroizing<Vec<u8>> {
    let length = body.len() + tail.len();
    let header = Header {
        kind: U16::new(kind as u16),
        status: U16::new(status as u16),
        length: U32::new(u32::try_from(length).unwrap_or(u32::MAX)),
        request: U64::new(request),
    };
    // Full capacity at once: growing would leave a copy of a key behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(HEADER_BYTES + length));
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(body);
    bytes.extend_from_slice(tail);
    bytes
}

#[cfg(test)]
mod tests;
