//! What `penstock` asks over `control.sock`.

use penstock_ike::PeerState;
use tokio::sync::oneshot;

use super::super::show::{self, Known};
use super::relief::states;
use super::{PeerId, Work};
use crate::admin::{Command, NO, Request, Response};

impl Work {
    /// Carries out a request, and answers it now or when the engine has answered.
    pub(super) fn order(&mut self, request: Request, answer: oneshot::Sender<Response>) {
        let id = request.id;
        let response = match request.command {
            Command::Show => return self.show(id, answer),
            Command::Up { peer } => self.for_peers(id, peer, Self::up),
            Command::Down { peer } => self.for_peers(id, peer, Self::down),
            Command::Rekey { peer } => self.rekey(id, &peer),
            Command::Apply { dry_run, confirm } => {
                return self.reload(super::reload::Asked { id, answer: Some(answer), dry_run, confirm, ..Default::default() });
            }
            Command::Confirm => self.confirm(id),
            Command::Upgrade => return self.upgrade(id, answer),
            Command::UpgradeEngine => return self.relieve_engine(id, answer),
        };
        // A client that does not wait for the answer has its order carried out all the same.
        let _ = answer.send(response);
    }

    fn for_peers(&mut self, id: u64, name: Option<String>, act: impl Fn(&mut Self, PeerId) -> &'static str) -> Response {
        let all: Vec<(String, PeerId)> = self.config.peers.iter().map(|peer| peer.name.clone()).zip(self.ids.clone()).collect();
        let chosen: Vec<_> = all.iter().filter(|(peer, _)| name.as_ref().is_none_or(|name| name == peer)).collect();
        if let Some(name) = name.filter(|_| chosen.is_empty()) {
            let names: Vec<_> = all.iter().map(|(peer, _)| peer.as_str()).collect();
            return Response::refused(id, NO, format!("no peer {name:?}; there are {}", names.join(", ")));
        }
        let done: Vec<String> = chosen.into_iter().map(|(peer, id)| format!("{peer}: {}", act(self, *id))).collect();
        Response::done(id, done.join(", "))
    }

    fn up(&mut self, id: PeerId) -> &'static str {
        let now = self.now();
        let state = self.ike.snapshot(now).iter().find(|snapshot| snapshot.peer == id).map(|snapshot| snapshot.state);
        match state {
            Some(PeerState::Up) => "up already",
            Some(PeerState::Connecting) => "connecting already",
            _ if self.peer(id).is_some_and(|peer| peer.endpoint.is_none()) => "has no endpoint, so it has to come to us",
            _ if self.endpoints.get(id).is_none() => "waits for its name to resolve",
            _ => {
                self.ike.initiate(now, id, true, &mut self.source);
                "connecting"
            }
        }
    }

    fn down(&mut self, id: PeerId) -> &'static str {
        let now = self.now();
        self.ike.close(now, id);
        for spi in self.inherited.remove(&id).unwrap_or_default() {
            self.installer.retire(None, spi, 0);
        }
        "closed; its routes stay, so that nothing leaks in clear"
    }

    /// New keys for everything that is up with a peer. The children begin; the IKE SA follows when they are done.
    fn rekey(&mut self, id: u64, name: &str) -> Response {
        let known = self.config.peers.iter().zip(&self.ids).find(|(peer, _)| peer.name == name).map(|(_, id)| *id);
        let Some(peer) = known else { return self.for_peers(id, Some(name.to_owned()), Self::up) };
        let now = self.now();
        let begun = self.ike.rekey(now, peer, &mut self.source);
        match begun.and_then(|children| self.ike.renew(now, peer).map(|()| children)) {
            Ok(children) => Response::done(id, format!("{name}: {children} rekeys begun")),
            Err(why) => Response::refused(id, NO, format!("{name}: {why}")),
        }
    }

    fn show(&self, id: u64, answer: oneshot::Sender<Response>) {
        let mut engine = self.engine_report.clone();
        let since = u64::try_from(self.engine_started.elapsed().as_millis()).unwrap_or(u64::MAX);
        engine.age_ms = engine.age_ms.saturating_add(since);
        let known = Known {
            snapshots: self.ike.snapshot(self.now()),
            ids: self.ids.clone(),
            statuses: self.statuses.clone(),
            endpoints: self.endpoints.clone(),
            engine,
            cpus: self.devices.cpus(),
            mtu: self.plan.mtu,
            age: self.started.elapsed(),
            config_path: self.options.config.display().to_string(),
            rolled_back_in_ms: self.reload.left_ms(),
        };
        let (config, clients) = (self.config.clone(), self.clients());
        tokio::task::spawn_local(async move {
            let state = states(clients).await;
            let _ = answer.send(Response::show(id, show::state(&config, known, state.as_ref())));
        });
    }
}
