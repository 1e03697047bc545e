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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::{Engine, Expected, Inbound, Outbound, When};
    use crate::address::Endpoint;
    use crate::frame::{Body, Kind};
    use crate::request::{InstallOutbound, Key, Limits, source, switch};
    use crate::spi::Spi;

    /// Requests as the engine got them.
    type Asked = Vec<(Kind, Vec<u8>)>;

    /// Answers each request at once: with a refusal, once it has had as many as it takes.
    struct Scripted {
        takes: usize,
        asked: RefCell<Asked>,
    }

    impl Engine for Scripted {
        type Error = ();

        async fn ask<B: Body>(&self, body: &B) -> Result<(), ()> {
            self.asked.borrow_mut().push((B::KIND, body.as_bytes().to_vec()));
            if self.asked.borrow().len() > self.takes { Err(()) } else { Ok(()) }
        }
    }

    /// Everything that a pair lives through; `Err` at the first refusal.
    async fn live(engine: &Scripted, when: When, shared_port: bool, dscp: Option<u8>) -> Result<(), ()> {
        let key = || Key { key: [7; 32], salt: [7; 4], suite: 2, esn: 1, reserved: [0; 2] };
        let (spi, limits) = (Spi::new(0x0102_0304).expect("not reserved"), Limits::default());
        let inbound = Expected::announce(engine, spi, 5).await?.install(engine, 6, key(), 1024, limits).await?;
        assert_eq!(inbound.spi(), spi);
        let (local, remote) = (Endpoint::NONE, Endpoint::NONE);
        let outbound = Outbound { spi: 9, when, shared_port, fallback: true, per_core: false, dscp, local, remote, limits, key: key() };
        let pair = Inbound::activate(inbound, engine, outbound).await?;
        assert_eq!(pair.spi(), spi);
        pair.retire(engine, 3000).await
    }

    fn asked(takes: usize, when: When, shared_port: bool, dscp: Option<u8>) -> (Result<(), ()>, Asked) {
        let engine = Scripted { takes, asked: RefCell::default() };
        let outcome = match pin!(live(&engine, when, shared_port, dscp)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => panic!("every answer was there"),
        };
        (outcome, engine.asked.into_inner())
    }

    const STEPS: [Kind; 4] = [Kind::ExpectSpi, Kind::InstallInbound, Kind::InstallOutbound, Kind::Retire];

    #[test]
    fn a_refusal_ends_the_way_of_a_pair_at_its_step() {
        for takes in 0..4 {
            let (outcome, asked) = asked(takes, When::Now, false, None);
            assert_eq!((outcome, asked.len()), (Err(()), takes + 1));
        }
        let (outcome, asked) = asked(4, When::Now, false, None);
        assert_eq!((outcome, asked.iter().map(|(kind, _)| *kind).collect::<Vec<_>>()), (Ok(()), STEPS.to_vec()));
        // The pair ends by its own SPI, and drains as long as it is told to.
        assert_eq!(asked[3].1, [4, 3, 2, 1, 0xb8, 0x0b, 0, 0]);
    }

    #[test]
    fn the_outbound_half_says_what_it_was_told() {
        use zerocopy::FromBytes;
        let outbound = |when, shared_port, dscp| {
            let (_, asked) = asked(4, when, shared_port, dscp);
            let request = InstallOutbound::read_from_bytes(&asked[2].1).expect("its layout");
            assert_eq!((request.spi.get(), request.inbound_spi.get(), request.policy.get()), (9, 0x0102_0304, 6));
            assert_eq!((request.fallback, request.per_core), (1, 0));
            (request.switch, request.switch_ms.get(), request.source, request.dscp)
        };
        assert_eq!(outbound(When::Now, false, None), (switch::NOW, 0, source::OWN, 255));
        assert_eq!(outbound(When::OnInbound { or_after_ms: 40 }, true, Some(46)), (switch::ON_INBOUND, 40, source::SHARED, 46));
    }
}
