//! When peers were heard last, as the engine knows it: asked for many peers at once, because each answer holds them all.

use std::time::Duration;

use penstock_ike::PeerId;
use tokio::task::JoinHandle;

use super::super::policies::peer_of;
use super::Work;
use super::relief::states;
use crate::engine::State;

/// Peers that fall silent within this time share one question.
const GATHER: Duration = Duration::from_millis(20);

/// What the engine answered, if it did.
pub(super) type Report = Option<State>;

/// A question on its way to the engine.
#[derive(Debug, Default)]
pub(super) struct Listening {
    peers: Vec<PeerId>,
    asked: Option<JoinHandle<Report>>,
}

impl Listening {
    /// The answer; never, if nothing was asked.
    pub(super) async fn report(&mut self) -> Report {
        let Some(asked) = &mut self.asked else { return std::future::pending().await };
        let report = asked.await.unwrap_or_default();
        self.asked = None;
        report
    }
}

impl Work {
    /// Asks the engine when the last packet of this peer came.
    pub(super) fn listen_for(&mut self, peer: PeerId) {
        self.listening.peers.push(peer);
        self.ask_engine();
    }

    fn ask_engine(&mut self) {
        let clients = self.clients();
        self.listening.asked.get_or_insert_with(|| {
            tokio::task::spawn_local(async move {
                tokio::time::sleep(GATHER).await;
                states(clients).await
            })
        });
    }

    /// Tells the state machine. Without an engine no packet comes, and IKE alone says who lives.
    pub(super) fn heard(&mut self, report: &Report) {
        let now = self.now();
        for peer in std::mem::take(&mut self.listening.peers) {
            let policies = report.iter().flat_map(|state| &state.policies);
            let idle = policies.filter(|policy| peer_of(policy.policy.get()) == peer).map(|policy| policy.idle_ms.get()).min();
            self.ike.heard(now, peer, idle.filter(|idle| *idle != u64::MAX));
        }
    }
}
