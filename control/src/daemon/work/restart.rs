//! The engine is gone: another gets the very same descriptors, and every peer new keys. Device, addresses and routes
//! are not touched, so nothing leaks in clear meanwhile.

use std::rc::Rc;
use std::time::Duration;

use super::super::install::Policies;
use super::super::setup::{self, Engine};
use super::{Stop, Work, policy_orders};
use crate::log;
use tokio::time::Instant;

/// Packets that waited longer than this in a TUN queue are not worth sending.
const STALE: Duration = Duration::from_secs(1);

/// An engine that lived this long did not die of its start.
const SETTLED: Duration = Duration::from_secs(2);

/// The pause before the next try, at first and at most.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LAST: Duration = Duration::from_secs(5);

impl Work {
    /// Notes which engine is in use.
    pub(super) fn use_engine(&mut self, engine: Engine) {
        self.engine_started = Instant::now();
        let report = &mut self.engine_report;
        report.running = true;
        report.pid = engine.welcome.pid.get();
        report.generation = self.source.generation;
        report.age_ms = engine.welcome.age_ms.get();
        report.set_features(engine.welcome.features.get() & self.features);
        self.engine = Some(engine);
    }

    /// Starts engines until one works. Returns whether the daemon was told to end meanwhile.
    pub(super) async fn restart_engine(&mut self) -> Result<bool, Stop> {
        let lost = Instant::now();
        self.engine = None;
        self.engine_report.running = false;
        self.engine_report.reason = Some("the engine ended unexpectedly; its own last line in the log says why".into());
        log::error("engine-lost", &[("pid", &self.engine_report.pid)]);
        let mut pause = if self.engine_started.elapsed() > SETTLED { Duration::ZERO } else { PAUSE_FIRST };
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).clamp(PAUSE_FIRST, PAUSE_LAST);
            match self.next_engine(lost).await {
                Ok(()) => break,
                Err(Stop::Ended) => return Ok(true),
                Err(stop) => log::error("engine-not-started", &[("reason", &stop), ("again_in_ms", &pause.as_millis())]),
            }
        }
        self.begin_again();
        log::info("engine-replaced", &[("pid", &self.engine_report.pid), ("gap_ms", &lost.elapsed().as_millis())]);
        Ok(false)
    }

    /// One engine: descriptors, cores, policies.
    async fn next_engine(&mut self, lost: Instant) -> Result<(), Stop> {
        let engine = setup::order(&self.options, &self.link).await?;
        // Packets for SAs of the earlier generation that are still on their way cannot meet a new SPI by chance.
        let generation = (self.source.generation + 1) & 3;
        let stale = lost.elapsed() > STALE;
        setup::hand_over(&self.config, &engine, &self.devices, self.plan.mtu, self.features, generation, stale).await?;
        let policies = Policies::new(engine.welcome.policy_generation.get(), policy_orders(&self.config, &self.ids, &self.here));
        policies.commit(&engine.client).await.map_err(super::failed)?;
        self.source.generation = generation;
        self.installer.client = engine.client.clone();
        self.installer.policies = Rc::new(policies);
        self.installer.epoch += 1;
        self.engine_report.starts += 1;
        self.use_engine(engine);
        Ok(())
    }

    /// No SA is left: every peer is told so by INITIAL_CONTACT in a fresh IKE SA.
    fn begin_again(&mut self) {
        self.tokens.clear();
        self.spis.clear();
        self.inherited.clear();
        let now = self.now();
        for id in self.ids.clone() {
            self.ike.initiate(now, id, true, &mut self.source);
        }
    }
}
