//! The engine is gone: another gets the very same descriptors, and every peer new keys. Device, addresses and routes
//! are not touched, so nothing leaks in clear meanwhile. The loop goes on: `penstock` is answered while no engine runs.

use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::super::policies::Policies;
use super::super::setup::{self, Begin, Engine};
use super::{Stop, Word, Work, policy_orders};
use crate::log;

/// Packets that waited longer than this in a TUN queue are not worth sending.
const STALE: Duration = Duration::from_secs(1);

/// An engine that lived this long did not die of its start.
const SETTLED: Duration = Duration::from_secs(2);

/// The pause before the next try, at first and at most.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LAST: Duration = Duration::from_secs(5);

/// An engine with descriptors, running cores and policies.
pub(super) type Started = Result<(Engine, Policies), Stop>;

/// A try to get another engine.
#[derive(Debug)]
pub(super) struct Restart {
    pub(super) task: JoinHandle<Started>,
    lost: Instant,
    pause: Duration,
    /// The launcher has started it: an end from now on is its own.
    started: bool,
    generation: u8,
}

impl Restart {
    /// Waits for the try to succeed or fail.
    pub(super) async fn finished(&mut self) -> Started {
        match (&mut self.task).await {
            Ok(started) => started,
            Err(error) => Err(Stop::Failed(error.to_string())),
        }
    }
}

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
        report.sandbox = crate::admin::Sandbox::new(engine.welcome.protections.get(), engine.welcome.landlock);
        if report.sandbox.level != "full" {
            let missing: Vec<&str> = report.sandbox.missing.keys().map(String::as_str).collect();
            log::warning("sandbox", &[("level", &report.sandbox.level), ("missing", &missing.join(" "))]);
        }
        self.engine = Some(engine);
    }

    /// The connection to the engine ended.
    pub(super) fn engine_lost(&mut self) {
        self.end_relief("the engine in use has ended meanwhile");
        self.engine = None;
        self.engine_report.running = false;
        self.engine_report.reason = Some("the engine ended unexpectedly; its own last line in the log says why".into());
        log::error("engine-lost", &[("pid", &self.engine_report.pid)]);
        let pause = if self.engine_started.elapsed() > SETTLED { Duration::ZERO } else { PAUSE_FIRST };
        self.order_engine(Instant::now(), pause);
    }

    /// A try under way has descriptors that are of no use any more: another takes its place.
    pub(super) fn order_engine_anew(&mut self) {
        let Some(restart) = self.restart.take() else { return };
        restart.task.abort();
        self.order_engine(restart.lost, PAUSE_FIRST);
    }

    /// Begins a try after a pause.
    fn order_engine(&mut self, lost: Instant, pause: Duration) {
        // Packets for SAs of the earlier generation that are still on their way cannot meet a new SPI by chance.
        let generation = (self.source.generation + 1) & 3;
        let (config, devices, link, path) = (self.config.clone(), self.devices.clone(), self.link.clone(), self.options.engine_socket());
        let (mtu, features, orders) = (self.plan.mtu, self.features, policy_orders(&self.config, &self.ids, &self.here));
        let task = tokio::task::spawn_local(async move {
            tokio::time::sleep(pause).await;
            link.start_engine().map_err(super::failed)?;
            let engine = setup::connect(&path).await?;
            let begin = if lost.elapsed() > STALE { Begin::WithoutStale } else { Begin::AtOnce };
            setup::hand_over(&config, &engine, &devices, mtu, features, generation, begin).await?;
            let policies = Policies::new(engine.welcome.policy_generation.get(), orders);
            policies.commit(&engine.client).await.map_err(super::failed)?;
            Ok((engine, policies))
        });
        self.restart = Some(Restart { task, lost, pause, started: false, generation });
    }

    /// What the launcher says about the engine that was ordered. An end without a start is its predecessor's.
    pub(super) fn engine_word(&mut self, word: Word) {
        let Some(restart) = &mut self.restart else { return };
        match word {
            Word::EngineStarted => restart.started = true,
            Word::EngineEnded if restart.started => self.engine_not_started("it ended at its start; its own line above says why"),
            Word::EngineFailed => self.engine_not_started("it cannot be started; the line above says why"),
            _ => (),
        }
    }

    /// The try came to its end.
    pub(super) fn restarted(&mut self, started: Started) {
        let (engine, policies) = match started {
            Ok(started) => started,
            Err(stop) => return self.engine_not_started(&stop.to_string()),
        };
        let Some(restart) = self.restart.take() else { return };
        self.source.generation = restart.generation;
        self.installer.client = engine.client.clone();
        self.installer.policies = Rc::new(policies);
        self.installer.epoch = self.new_epoch();
        self.engine_report.starts += 1;
        self.use_engine(engine);
        log::info("engine-replaced", &[("pid", &self.engine_report.pid), ("gap_ms", &restart.lost.elapsed().as_millis())]);
        self.begin_again();
    }

    fn engine_not_started(&mut self, reason: &str) {
        let Some(restart) = self.restart.take() else { return };
        restart.task.abort();
        let pause = (restart.pause * 2).clamp(PAUSE_FIRST, PAUSE_LAST);
        log::error("engine-not-started", &[("reason", &reason), ("again_in_ms", &pause.as_millis())]);
        self.engine_report.reason = Some(format!("no engine: {reason}"));
        self.order_engine(restart.lost, pause);
    }

    /// No SA is left: every peer is told so by INITIAL_CONTACT in a fresh IKE SA.
    fn begin_again(&mut self) {
        self.tokens.clear();
        self.source.release_all();
        self.inherited.clear();
        let now = self.now();
        // What was closed by order stays closed.
        for id in self.ids.clone() {
            if !self.ike.is_closed(id) {
                self.ike.initiate(now, id, true, &mut self.source);
            }
        }
    }
}
