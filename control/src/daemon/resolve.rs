//! Endpoints by name: looked up one task a peer, again and again until there is an answer, so that one name that
//! does not resolve blocks nobody.

use std::net::SocketAddr;
use std::time::Duration;

use penstock_ike::PeerId;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::config::{Endpoint, Peer};
use crate::log;

/// The pause after a failed look-up, at first and at most.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_LAST: Duration = Duration::from_secs(60);

/// A peer's endpoint, found.
pub(super) type Resolved = (PeerId, SocketAddr);

/// The endpoint if it needs no name server.
pub(super) fn literal(peer: &Peer) -> Option<SocketAddr> {
    let endpoint = peer.endpoint.as_ref()?;
    Some(SocketAddr::new(endpoint.address()?, endpoint.port))
}

/// Looks a name up until it is found, or aborted; sends the answer once.
pub(super) fn spawn(peer: &Peer, endpoint: &Endpoint, id: PeerId, found: mpsc::Sender<Resolved>) -> AbortHandle {
    let (name, host, port, place) = (peer.name.clone(), endpoint.host.clone(), endpoint.port, peer.endpoint_place.clone());
    let wants_v4 = peer.local_address.map(|ip| ip.is_ipv4());
    let task = tokio::task::spawn_local(async move {
        let mut pause = PAUSE_FIRST;
        loop {
            let reason = match tokio::net::lookup_host((host.as_str(), port)).await {
                Ok(mut all) => match all.find(|address| wants_v4.is_none_or(|v4| address.is_ipv4() == v4)) {
                    Some(address) => {
                        let _ = found.send((id, address)).await;
                        return;
                    }
                    None => "it has no address of the family of local_address".to_owned(),
                },
                Err(error) => error.to_string(),
            };
            log::warning(
                "name-unresolved",
                &[("peer", &name), ("at", &place), ("host", &host), ("reason", &reason), ("again_in_s", &pause.as_secs())],
            );
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_LAST);
        }
    });
    task.abort_handle()
}
