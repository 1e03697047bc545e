//! What the engine says unasked, with plain types.

use std::net::SocketAddr;

use penstock_uapi::event::{Acquire, OutboundActive, PathMtu, PeerMoved, SaLimit, StrayIke, UnknownSpi, limit};
use penstock_uapi::{Frame, FrameError, Kind};

/// An event of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An IKE message came to a core's socket.
    StrayIke {
        /// Its sender.
        from: SocketAddr,
        /// Our address and port.
        to: SocketAddr,
        /// The message without its marker.
        message: Vec<u8>,
    },
    /// A packet for no SA; nothing about it is authenticated.
    UnknownSpi {
        /// The SPI.
        spi: u32,
        /// Where it says it came from.
        from: SocketAddr,
    },
    /// A key reached a limit.
    SaLimit {
        /// Our inbound SPI of its pair.
        spi: u32,
        /// It is no longer used.
        hard: bool,
        /// The outbound key.
        outbound: bool,
    },
    /// An authenticated packet came from elsewhere.
    PeerMoved {
        /// Our inbound SPI.
        spi: u32,
        /// Where from.
        from: SocketAddr,
    },
    /// A packet wants an SA.
    Acquire {
        /// The policy.
        policy: u32,
        /// The core with the traffic.
        core: u16,
        /// An SA for this core beside the fallback SA.
        per_core: bool,
    },
    /// A waiting outbound SA took over.
    OutboundActive {
        /// Our inbound SPI.
        spi: u32,
    },
    /// A send was refused as too large.
    PathMtu {
        /// Our inbound SPI.
        spi: u32,
        /// Bytes of UDP payload.
        refused: u16,
    },
    /// The connection ended: the engine is gone.
    Lost,
}

impl Event {
    /// Reads an event; `None` for one whose addresses say nothing.
    ///
    /// # Errors
    /// If the frame is not an event of this version.
    pub fn read(frame: &Frame<'_>) -> Result<Option<Self>, FrameError> {
        Ok(match frame.kind {
            Kind::StrayIke => {
                let (body, message) = frame.body_and_tail::<StrayIke>()?;
                let ends = body.from.to_socket().zip(body.to.to_socket());
                ends.map(|(from, to)| Self::StrayIke { from, to, message: message.to_vec() })
            }
            Kind::UnknownSpi => {
                let body = frame.body::<UnknownSpi>()?;
                body.from.to_socket().map(|from| Self::UnknownSpi { spi: body.spi.get(), from })
            }
            Kind::SaLimit => {
                let body = frame.body::<SaLimit>()?;
                Some(Self::SaLimit { spi: body.spi.get(), hard: body.limit == limit::HARD, outbound: body.outbound == 1 })
            }
            Kind::PeerMoved => {
                let body = frame.body::<PeerMoved>()?;
                body.from.to_socket().map(|from| Self::PeerMoved { spi: body.spi.get(), from })
            }
            Kind::Acquire => {
                let body = frame.body::<Acquire>()?;
                Some(Self::Acquire { policy: body.policy.get(), core: body.core.get(), per_core: body.per_core == 1 })
            }
            Kind::OutboundActive => Some(Self::OutboundActive { spi: frame.body::<OutboundActive>()?.spi.get() }),
            Kind::PathMtu => {
                let body = frame.body::<PathMtu>()?;
                Some(Self::PathMtu { spi: body.spi.get(), refused: body.refused.get() })
            }
            kind => return Err(FrameError::Unexpected { needs: Kind::StrayIke, is: kind }),
        })
    }
}
