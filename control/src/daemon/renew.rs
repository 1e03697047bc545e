//! After an adoption: the SAs of the earlier control go on until the new ones are in use on both sides.

use std::time::Duration;

use penstock_uapi::install::Engine as _;
use penstock_uapi::reply::{SaState, phase};
use penstock_uapi::request::Retire;
use tokio::time::Instant;
use zerocopy::little_endian::U32;

use crate::engine::Client;
use crate::log;

/// How often the engine is asked.
const PERIOD: Duration = Duration::from_millis(500);

/// How long an old inbound SA goes on after it was retired, for what is still on its way.
const DRAIN_MS: u32 = 5_000;

/// An old inbound SA that heard nothing for so long while the new pair stands is not used by the peer any more.
const SILENCE: Duration = Duration::from_secs(3);

/// The peer has had its chance.
const PATIENCE: Duration = Duration::from_secs(60);

/// Retires `old` once `policy` has another pair that the peer uses: it was heard on it, or is silent on the old ones.
pub(super) fn retire_when_replaced(client: Client, peer: String, policy: u32, old: Vec<u32>) {
    tokio::task::spawn_local(async move {
        let start = Instant::now();
        let (mut heard, mut heard_at) = (None, start);
        loop {
            let Ok(state) = client.state().await else { return };
            let of_policy = || state.sas.iter().filter(|sa| sa.policy.get() == policy);
            let is_old = |sa: &&SaState| old.contains(&sa.inbound_spi.get());
            let count: u64 = of_policy().filter(is_old).map(|sa| sa.inbound_packets.get()).sum();
            if heard != Some(count) {
                (heard, heard_at) = (Some(count), Instant::now());
            }
            let mut new = of_policy().filter(|sa| !is_old(sa) && sa.phase == phase::ACTIVE).peekable();
            let stands = new.peek().is_some();
            let used = new.any(|sa| sa.inbound_packets.get() > 0);
            if used || (stands && heard_at.elapsed() > SILENCE) || start.elapsed() > PATIENCE {
                break;
            }
            tokio::time::sleep(PERIOD).await;
        }
        for spi in &old {
            // One that is gone already is as good as retired.
            let _ = client.ask(&Retire { spi: U32::new(*spi), drain_ms: U32::new(DRAIN_MS) }).await;
        }
        log::info("adopted-retired", &[("peer", &peer), ("sas", &old.len())]);
    });
}
