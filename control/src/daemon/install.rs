//! The steps of a two-phase install, each a task of its own, so that a slow engine holds up nothing else. The types
//! of [`penstock_uapi::install`] keep the order: what a step needs is what the step before it returned.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use penstock_ike::{ChildId, ChildKeys, PeerId, Selectors, Suite};
use penstock_uapi::install::{Expected, Inbound, Outbound, Pair};
use penstock_uapi::request::{Key, Limits, Redirect, Retire, suite};
use penstock_uapi::{Spi, install};
use tokio::sync::mpsc;
use zerocopy::little_endian::U32;

use super::policies::Policies;
use crate::engine::{Client, EngineError};
use crate::log;

/// What a finished step gives to the next one.
#[derive(Debug)]
pub(super) enum Token {
    Expected(Expected),
    Inbound(Inbound),
    Pair(Pair),
}

/// A step came to its end.
#[derive(Debug)]
pub(super) struct Finished {
    /// Which engine life it was for; results of an earlier one say nothing.
    pub(super) epoch: u64,
    pub(super) child: ChildId,
    pub(super) result: Result<Token, String>,
}

/// Starts steps towards one engine life.
#[derive(Clone, Debug)]
pub(super) struct Installer {
    pub(super) client: Client,
    pub(super) policies: Rc<Policies>,
    pub(super) epoch: u64,
    pub(super) finished: mpsc::Sender<Finished>,
    /// The inbound SAs on their way into the engine, by SPI, and whether they were retired meanwhile: an install waits for the
    /// policy table, a retirement does not, and would find nothing yet.
    pub(super) installing: Rc<RefCell<HashMap<u32, bool>>>,
}

impl Installer {
    fn spawn(&self, child: ChildId, step: impl Future<Output = Result<Token, EngineError>> + 'static) {
        let (finished, epoch) = (self.finished.clone(), self.epoch);
        tokio::task::spawn_local(async move {
            let result = step.await.map_err(|error| error.to_string());
            // The daemon is ending if nobody listens.
            let _ = finished.send(Finished { epoch, child, result }).await;
        });
    }

    pub(super) fn expect(&self, child: ChildId, peer: PeerId, spi: Spi) {
        let client = self.client.clone();
        // Which of the peer's policies it will belong to depends on what the peer answers.
        self.spawn(child, async move { Expected::announce(&client, spi, peer.0).await.map(Token::Expected) });
    }

    /// Installs the inbound half. One that is retired before it stands is taken away as soon as it does, and nobody is told: its
    /// child is gone.
    pub(super) fn inbound(&self, child: ChildId, earlier: Option<Token>, inbound: NewInbound) {
        let (this, spi) = (self.clone(), inbound.spi.value());
        self.installing.borrow_mut().insert(spi, false);
        tokio::task::spawn_local(async move {
            let result = this.install(earlier, inbound).await.map_err(|error| error.to_string());
            if this.installing.borrow_mut().remove(&spi) == Some(true) {
                return this.retire(None, spi, 0);
            }
            // The daemon is ending if nobody listens.
            let _ = this.finished.send(Finished { epoch: this.epoch, child, result }).await;
        });
    }

    async fn install(&self, earlier: Option<Token>, inbound: NewInbound) -> Result<Token, EngineError> {
        let NewInbound { peer, spi, key, window, selectors } = inbound;
        let policy = self.policies.agree(&self.client, peer, spi.value(), &selectors).await?;
        let limits = Limits::default();
        let installed = match earlier {
            Some(Token::Expected(expected)) => expected.install(&self.client, policy, key, window, limits).await,
            _ => Inbound::install(&self.client, spi, policy, key, window, limits).await,
        };
        installed.map(Token::Inbound)
    }

    /// Activates the outbound half; an order without its inbound half is a fault of the caller's and fails.
    pub(super) fn outbound(&self, child: ChildId, earlier: Option<Token>, outbound: Outbound) {
        let client = self.client.clone();
        self.spawn(child, async move {
            match earlier {
                Some(Token::Inbound(inbound)) => inbound.activate(&client, outbound).await.map(Token::Pair),
                _ => Err(EngineError::Nonsense("an outbound SA without its inbound one".into())),
            }
        });
    }

    /// Sends a pair's packets on between other endpoints; one that is gone has no need of it.
    pub(super) fn redirect(&self, redirect: Redirect) {
        let client = self.client.clone();
        tokio::task::spawn_local(async move {
            match install::Engine::ask(&client, &redirect).await {
                Ok(()) | Err(EngineError::Lost { .. } | EngineError::Refused { status: penstock_uapi::Status::Unknown, .. }) => (),
                Err(error) => log::warning("not-redirected", &[("spi", &format_args!("{:08x}", redirect.spi.get())), ("reason", &error)]),
            }
        });
    }

    /// Retires a pair, or by its SPI what has not become one; what the engine does not know is gone already.
    pub(super) fn retire(&self, earlier: Option<Token>, spi: u32, drain_ms: u32) {
        if let Some(retired) = self.installing.borrow_mut().get_mut(&spi) {
            *retired = true;
        }
        let (client, policies) = (self.client.clone(), self.policies.clone());
        tokio::task::spawn_local(async move {
            let retired = match earlier {
                Some(Token::Pair(pair)) => pair.retire(&client, drain_ms).await,
                _ => install::Engine::ask(&client, &Retire { spi: U32::new(spi), drain_ms: U32::new(drain_ms) }).await,
            };
            // Its selectors go with the last packet that it receives.
            tokio::time::sleep(Duration::from_millis(drain_ms.into())).await;
            match retired.and(policies.release(&client, spi).await) {
                Ok(()) | Err(EngineError::Lost { .. } | EngineError::Refused { status: penstock_uapi::Status::Unknown, .. }) => (),
                Err(error) => log::warning("sa-not-retired", &[("spi", &format_args!("{spi:08x}")), ("reason", &error)]),
            }
        });
    }
}

/// An inbound SA to be installed.
#[derive(Debug)]
pub(super) struct NewInbound {
    pub(super) peer: PeerId,
    pub(super) spi: Spi,
    pub(super) key: Key,
    pub(super) window: u32,
    pub(super) selectors: Selectors,
}

/// The key in the engine's layout; both wipe themselves.
pub(super) fn key(keys: &ChildKeys) -> Key {
    let suite = match keys.suite {
        Suite::Aes128Gcm16 => suite::AES_128_GCM_16,
        Suite::Aes256Gcm16 => suite::AES_256_GCM_16,
    };
    Key { key: *keys.key, salt: keys.salt, suite, esn: keys.esn.into(), reserved: [0; 2] }
}

#[cfg(test)]
mod tests;
