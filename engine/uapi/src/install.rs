//! Two-phase install, held by types: an inbound SA stands in the engine before anybody learns that it may be used.
//!
//! An [`Expected`] exists only once the engine has answered [`ExpectSpi`], an [`Inbound`] only once it has answered
//! [`InstallInbound`], and only an [`Inbound`] can make the request for its outbound half. The engine checks the
//! same order again ([`Status::Order`](crate::Status::Order)), because it does not trust its client.

use zerocopy::little_endian::U32;

use crate::address::Endpoint;
use crate::request::{ExpectSpi, InstallInbound, InstallOutbound, Key, Limits, Retire, source, switch};
use crate::spi::Spi;

/// Carries one request to the engine and waits for its answer.
#[allow(async_fn_in_trait, reason = "control runs on one thread; the future need not be Send")]
pub trait Engine {
    /// Why a request was not carried out.
    type Error;

    /// Sends a request; returns when the engine answered [`Status::Done`](crate::Status::Done).
    ///
    /// # Errors
    /// The engine's refusal, or the loss of the connection.
    async fn ask<B: crate::frame::Body>(&self, body: &B) -> Result<(), Self::Error>;
}

/// Proof that the engine parks packets for an SPI: the initiator may now tell it to the peer.
#[derive(Debug)]
pub struct Expected {
    spi: Spi,
}

impl Expected {
    /// Announces `spi`.
    ///
    /// # Errors
    /// As the engine's.
    pub async fn announce<E: Engine>(engine: &E, spi: Spi, policy: u32) -> Result<Self, E::Error> {
        engine.ask(&ExpectSpi { spi: U32::new(spi.value()), policy: U32::new(policy) }).await?;
        Ok(Self { spi })
    }

    /// Installs the key (the initiator, with the response in hand). What was parked is opened first. `policy` is one of the same peer:
    /// which one shows only now that the selectors are agreed on.
    ///
    /// # Errors
    /// As the engine's.
    pub async fn install<E: Engine>(self, engine: &E, policy: u32, key: Key, window: u32, limits: Limits) -> Result<Inbound, E::Error> {
        Inbound::install(engine, self.spi, policy, key, window, limits).await
    }
}

/// Proof that the engine opens packets of this SPI: the responder may now answer, the initiator may now send.
#[derive(Debug)]
pub struct Inbound {
    spi: Spi,
    policy: u32,
}

impl Inbound {
    /// Installs an inbound SA that was not announced (the responder, before the response leaves).
    ///
    /// # Errors
    /// As the engine's.
    pub async fn install<E: Engine>(engine: &E, spi: Spi, policy: u32, key: Key, window: u32, limits: Limits) -> Result<Self, E::Error> {
        let request = InstallInbound {
            spi: U32::new(spi.value()),
            policy: U32::new(policy),
            window: U32::new(window),
            reserved: U32::ZERO,
            limits,
            key,
        };
        engine.ask(&request).await?;
        Ok(Self { spi, policy })
    }

    /// Our SPI.
    #[must_use]
    pub fn spi(&self) -> Spi {
        self.spi
    }

    /// Installs the outbound half; `outbound.when` says when it is used.
    ///
    /// # Errors
    /// As the engine's.
    pub async fn activate<E: Engine>(self, engine: &E, outbound: Outbound) -> Result<Pair, E::Error> {
        let (switch, switch_ms) = match outbound.when {
            When::Now => (switch::NOW, 0),
            When::OnInbound { or_after_ms } => (switch::ON_INBOUND, or_after_ms),
        };
        let request = InstallOutbound {
            spi: U32::new(outbound.spi),
            inbound_spi: U32::new(self.spi.value()),
            policy: U32::new(self.policy),
            switch,
            source: if outbound.shared_port { source::SHARED } else { source::OWN },
            fallback: outbound.fallback.into(),
            per_core: outbound.per_core.into(),
            switch_ms: U32::new(switch_ms),
            dscp: outbound.dscp.unwrap_or(255),
            reserved: [0; 3],
            local: outbound.local,
            remote: outbound.remote,
            limits: outbound.limits,
            key: outbound.key,
        };
        engine.ask(&request).await?;
        Ok(Pair { spi: self.spi })
    }
}

/// The outbound half of a pair, to be installed.
#[derive(Debug)]
pub struct Outbound {
    /// The peer's SPI.
    pub spi: u32,
    /// When it takes over.
    pub when: When,
    /// Send from the shared port rather than the core's own.
    pub shared_port: bool,
    /// The fallback SA of RFC 9611.
    pub fallback: bool,
    /// More children, one a core, are wanted.
    pub per_core: bool,
    /// The outer DSCP; `None` copies the inner one.
    pub dscp: Option<u8>,
    /// Our address, or none.
    pub local: Endpoint,
    /// Where packets go.
    pub remote: Endpoint,
    /// When the key is used up.
    pub limits: Limits,
    /// The key.
    pub key: Key,
}

/// When an outbound SA takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At once: the initiator.
    Now,
    /// When the peer is heard on the new inbound SA or the old pair is retired: the responder.
    OnInbound {
        /// Milliseconds after which it takes over anyway; 0: never.
        or_after_ms: u32,
    },
}

/// A pair that stands in the engine.
#[derive(Debug)]
pub struct Pair {
    spi: Spi,
}

impl Pair {
    /// Our inbound SPI.
    #[must_use]
    pub fn spi(&self) -> Spi {
        self.spi
    }

    /// Ends it; the inbound half goes on for `drain_ms`.
    ///
    /// # Errors
    /// As the engine's.
    pub async fn retire<E: Engine>(self, engine: &E, drain_ms: u32) -> Result<(), E::Error> {
        engine.ask(&Retire { spi: U32::new(self.spi.value()), drain_ms: U32::new(drain_ms) }).await
    }
}
