//! The engine on disk relieves the one that runs, and no packet notices.
//!
//! ```text
//!   launcher: start another ─► its own sockets join the group, steered by the generation in SPIs ─► it runs, and reads no TUN queue
//!      ─► every child gets a successor in it, whose predecessor goes on ─► the old one leaves the TUN queues, the new one takes them
//!      ─► the predecessors are deleted ─► the old one receives what is still on its way, hands over what it has counted, and ends
//! ```
//! Until the queues change hands everything can be taken back: the new engine ends by itself when its connection does, and the old one has
//! never stopped. That is also what happens when control dies. Only if it dies in the moment in which the queues change hands nobody knows
//! which engine reads them: the launcher ends both, and the next control starts one as after a crash.

use std::rc::Rc;
use std::time::Duration;

use penstock_uapi::Spi;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::devices::Devices;
use super::super::install::Installer;
use super::super::policies::Policies;
use super::super::setup::{self, Begin, Engine};
use super::super::site;
use super::{Event, Stop, Work, failed, policy_orders};
use crate::admin::{NO, Relieved, Response};
use crate::engine::{Client, EngineError, State};
use crate::log;

/// Between two looks whether all children have successors.
const LOOK: Duration = Duration::from_millis(10);

/// How long peers may take to agree to new keys, and how much more for each of them.
const CARRY: Duration = Duration::from_secs(10);
const CARRY_EACH: Duration = Duration::from_millis(10);
const CARRY_MAX: Duration = Duration::from_secs(150);

/// How long a relieved engine receives what is still on its way to it. The inbound SA of a rekeyed pair lives as long.
const DRAIN: Duration = Duration::from_secs(5);

/// It ends by itself after this time if nobody tells it to.
const ENDS: Duration = Duration::from_secs(10);

/// Who asked.
type Asked = (u64, oneshot::Sender<Response>);

/// What a task has to say.
#[derive(Debug)]
pub(super) enum Step {
    /// The other engine runs, or not.
    Started(Box<Result<(Engine, Policies, Devices), Stop>>),
    /// It is time to look.
    Look,
    /// The queues changed hands in this time, or not.
    Taken(Result<Duration, EngineError>),
    /// Nothing comes to the old one any more.
    Drained,
}

/// An engine that is to relieve the one in use.
#[derive(Debug)]
struct Next {
    engine: Engine,
    installer: Installer,
    devices: Rc<Devices>,
    generation: u8,
    until: Instant,
}

/// How far it is.
#[derive(Debug, Default)]
enum Phase {
    #[default]
    None,
    /// It is being started.
    Starting { generation: u8 },
    /// Children get their successors.
    Carrying(Box<Next>),
    /// All have one; the queues are about to change hands.
    Taking(Box<Next>),
}

/// An engine that was relieved.
#[derive(Debug)]
struct Leaving {
    engine: Engine,
    generation: u8,
    /// Its counters are the other's now.
    settled: bool,
}

/// One engine on its way to relieve another.
#[derive(Debug, Default)]
pub(super) struct Relief {
    phase: Phase,
    asked: Option<Asked>,
    leaving: Option<Leaving>,
    tasks: JoinSet<Step>,
}

/// What an SPI belongs to.
#[derive(Debug)]
pub(super) enum Home<'a> {
    /// An engine that takes orders about it.
    Engine(&'a Installer),
    /// One that was relieved: it takes no orders any more, and needs none.
    Relieved,
}

impl Next {
    fn of(phase: &mut Phase) -> Option<&mut Self> {
        match phase {
            Phase::Carrying(next) | Phase::Taking(next) => Some(next),
            _ => None,
        }
    }
}

impl Relief {
    /// Whether something is under way that a change of anything else would disturb.
    pub(super) fn is_busy(&self) -> bool {
        !matches!(self.phase, Phase::None) || self.leaving.is_some()
    }

    /// The next thing to do, or what an engine beside the one in use has said.
    pub(super) async fn happening(&mut self) -> Happening {
        let Self { phase, leaving, tasks, .. } = self;
        let next = Next::of(phase).map(|next| &mut next.engine);
        let old = leaving.as_mut().map(|leaving| &mut leaving.engine);
        tokio::select! {
            Some(step) = tasks.join_next() => match step {
                Ok(step) => Happening::Step(step),
                // Its work was given up.
                Err(error) if error.is_cancelled() => Happening::Step(Step::Look),
                Err(error) => Happening::Failed(error.to_string()),
            },
            event = events(next) => Happening::Next(event),
            event = events(old) => Happening::Leaving(event),
        }
    }
}

/// What happens while one engine relieves another.
#[derive(Debug)]
pub(super) enum Happening {
    Step(Step),
    /// A task of ours panicked.
    Failed(String),
    Next(Event),
    Leaving(Event),
}

async fn events(engine: Option<&mut Engine>) -> Event {
    match engine {
        Some(engine) => engine.events.recv().await.unwrap_or(Event::Lost),
        None => std::future::pending().await,
    }
}

/// What several engines know, as one.
pub(super) async fn states(clients: Vec<Client>) -> Option<State> {
    let mut all: Option<State> = None;
    for client in clients {
        // One that has just ended has nothing more to say.
        let Ok(state) = client.state().await else { continue };
        match &mut all {
            Some(all) => all.add(state),
            None => all = Some(state),
        }
    }
    all
}

fn generation_of(spi: u32) -> Option<u8> {
    Spi::new(spi).map(Spi::generation)
}

impl Work {
    /// Every engine that has SAs and counts, the one in use first.
    pub(super) fn clients(&self) -> Vec<Client> {
        let next = match &self.relief.phase {
            Phase::Carrying(next) | Phase::Taking(next) => Some(&next.engine),
            _ => None,
        };
        let leaving = self.relief.leaving.as_ref().filter(|leaving| !leaving.settled).map(|leaving| &leaving.engine);
        [self.engine.as_ref(), next, leaving].into_iter().flatten().map(|engine| engine.client.clone()).collect()
    }

    /// The engine that an inbound SPI of ours belongs to.
    pub(super) fn home(&self, spi: u32) -> Home<'_> {
        let generation = generation_of(spi);
        match &self.relief.phase {
            Phase::Carrying(next) | Phase::Taking(next) if generation == Some(next.generation) => return Home::Engine(&next.installer),
            _ => (),
        }
        let relieved = self.relief.leaving.as_ref().is_some_and(|leaving| generation == Some(leaving.generation));
        if relieved { Home::Relieved } else { Home::Engine(&self.installer) }
    }

    /// The connection to the engine that can take an ESP packet for this SPI.
    pub(super) fn client_for(&self, spi: u32) -> Client {
        match (self.home(spi), &self.relief.leaving) {
            (Home::Engine(installer), _) => installer.client.clone(),
            (Home::Relieved, Some(leaving)) => leaving.engine.client.clone(),
            (Home::Relieved, None) => self.installer.client.clone(),
        }
    }

    /// Whether results of installs under this number are of an engine that is there.
    pub(super) fn knows_epoch(&self, epoch: u64) -> bool {
        let next = match &self.relief.phase {
            Phase::Carrying(next) | Phase::Taking(next) => Some(next.installer.epoch),
            _ => None,
        };
        epoch == self.installer.epoch || Some(epoch) == next
    }

    /// Somebody wants the engine on disk to relieve the one that runs.
    pub(super) fn relieve_engine(&mut self, id: u64, answer: oneshot::Sender<Response>) {
        let busy = match () {
            () if self.relief.leaving.is_some() => Some("the last relieved engine has not ended yet; try again in some seconds".to_owned()),
            () if self.relief.is_busy() => Some("another upgrade of the engine is under way".to_owned()),
            () if self.upgrade.is_busy() => Some("an upgrade of penstockd is under way".to_owned()),
            () if self.reload.is_busy() => Some("an apply is under way or waits to be confirmed; finish that first".to_owned()),
            () if self.engine.is_none() => Some("no engine runs just now; try again in a moment".to_owned()),
            () if !self.inherited.is_empty() => {
                Some(format!("{} peers have SAs of an earlier penstockd only; try again when they are up", self.inherited.len()))
            }
            () => self.link.start_next().err().map(|error| error.to_string()),
        };
        if let Some(reason) = busy {
            // A client that does not wait for the answer does not want it.
            return drop(answer.send(Response::refused(id, NO, reason)));
        }
        let generation = (self.source.generation + 1) & 3;
        self.relief.asked = Some((id, answer));
        self.relief.phase = Phase::Starting { generation };
        let (config, devices, path) = (self.config.clone(), self.devices.clone(), self.options.next_engine_socket());
        let (mtu, features, orders) = (self.plan.mtu, self.features, policy_orders(&self.config, &self.ids, &self.here));
        let sockets = site::sockets(&config, devices.count().into(), features & penstock_uapi::request::feature::GRO != 0);
        self.relief.tasks.spawn_local(async move {
            let started = async {
                let engine = setup::connect(&path).await?;
                let beside = devices.relief(&sockets)?;
                devices.steer(Some(generation)).map_err(failed)?;
                setup::hand_over(&config, &engine, &beside, mtu, features, generation, Begin::WhenTold).await?;
                let policies = Policies::new(engine.welcome.policy_generation.get(), orders);
                policies.commit(&engine.client).await.map_err(failed)?;
                Ok((engine, policies, beside))
            };
            Step::Started(Box::new(started.await))
        });
    }

    /// Something happened on the way.
    pub(super) fn relief_happening(&mut self, happening: Happening) {
        match happening {
            Happening::Step(Step::Started(started)) => match *started {
                Ok((engine, policies, devices)) => self.carry(engine, policies, devices),
                Err(stop) => self.not_relieved(&stop.to_string()),
            },
            Happening::Step(Step::Look) => self.look_after_children(),
            Happening::Step(Step::Taken(Ok(pause))) => self.relieved_engine(pause),
            Happening::Step(Step::Taken(Err(error))) => self.not_relieved(&error.to_string()),
            Happening::Step(Step::Drained) => self.settle(),
            Happening::Failed(error) => self.not_relieved(&error),
            Happening::Next(Event::Lost) => self.not_relieved("it ended; its own line in the log says why"),
            Happening::Leaving(Event::Lost) => {
                self.relief.leaving = None;
                self.steer_to_one();
            }
            Happening::Next(event) | Happening::Leaving(event) => self.engine_event(event),
        }
    }

    /// The other engine runs: everything new is made in it, and everything there is gets a successor.
    fn carry(&mut self, engine: Engine, policies: Policies, devices: Devices) {
        let Phase::Starting { generation } = self.relief.phase else { return };
        let mut installer = self.installer.clone();
        installer.epoch = self.new_epoch();
        (installer.client, installer.policies) = (engine.client.clone(), Rc::new(policies));
        let peers = u32::try_from(self.ids.len()).unwrap_or(u32::MAX);
        let until = Instant::now() + (CARRY + CARRY_EACH.saturating_mul(peers)).min(CARRY_MAX);
        let devices = Rc::new(devices);
        self.relief.phase = Phase::Carrying(Box::new(Next { engine, installer, devices, generation, until }));
        self.source.generation = generation;
        self.ike.hold();
        self.look_after_children();
    }

    /// Asks for the successors that are still missing.
    fn look_after_children(&mut self) {
        let Phase::Carrying(next) = &self.relief.phase else { return };
        let (generation, until) = (next.generation, next.until);
        let left = self.ike.left_behind(|spi| generation_of(spi) == Some(generation));
        if left.is_empty() {
            return self.begin_to_take();
        }
        if Instant::now() >= until {
            let mut names: Vec<String> = left.iter().filter_map(|spi| self.source.spis.get(spi)).map(|id| self.name(*id)).collect();
            names.sort_unstable();
            names.dedup();
            return self.not_relieved(&format!("no new keys were agreed on in time with {}", names.join(", ")));
        }
        let now = self.now();
        for spi in left {
            // What is refused is under way already, or is tried again with the next look.
            let _ = self.ike.rekey_child(now, spi, &mut self.source);
        }
        self.relief.tasks.spawn_local(async {
            tokio::time::sleep(LOOK).await;
            Step::Look
        });
    }

    /// Whoever looks for the engine is to find the new one; then the queues change hands.
    fn begin_to_take(&mut self) {
        if let Err(error) = self.link.relieve_engine() {
            return self.not_relieved(&error.to_string());
        }
        if let Phase::Carrying(next) = std::mem::take(&mut self.relief.phase) {
            self.relief.phase = Phase::Taking(next);
        }
    }

    /// The launcher has put the new engine in the old one's place.
    pub(super) fn engine_renamed(&mut self) {
        let (Phase::Taking(next), Some(old)) = (&self.relief.phase, &self.engine) else { return };
        let (old, new) = (old.client.clone(), next.engine.client.clone());
        self.relief.tasks.spawn_local(async move {
            let begun = Instant::now();
            let left = old.shutdown(ENDS).await;
            Step::Taken(match left {
                Ok(()) => new.take_queues().await.map(|()| begun.elapsed()),
                Err(error) => Err(error),
            })
        });
    }

    /// The queues are the new engine's.
    fn relieved_engine(&mut self, pause: Duration) {
        let Phase::Taking(next) = std::mem::take(&mut self.relief.phase) else { return };
        // A launcher that is gone is noticed by the next wait.
        let _ = self.link.queues_taken();
        let Next { engine, installer, devices, generation, .. } = *next;
        let before = (self.engine_report.pid, self.engine_report.generation);
        let Some(old) = self.engine.take() else { return };
        self.relief.leaving = Some(Leaving { engine: old, generation: before.1, settled: false });
        (self.installer, self.devices) = (installer, devices);
        self.source.generation = generation;
        self.engine_report.starts += 1;
        self.use_engine(engine);
        let now = self.now();
        let sas = self.ike.left_behind(|_| false).len();
        self.ike.let_go(now);
        let pause_us = u64::try_from(pause.as_micros()).unwrap_or(u64::MAX);
        log::info("engine-relieved", &[("pid", &before.0), ("by", &self.engine_report.pid), ("sas", &sas), ("pause_us", &pause_us)]);
        if let Some((id, answer)) = self.relief.asked.take() {
            let report = Relieved { from: before.0, to: self.engine_report.pid, pause_us, sas };
            let _ = answer.send(Response::relieved(id, report));
        }
        self.relief.tasks.spawn_local(async {
            tokio::time::sleep(DRAIN).await;
            Step::Drained
        });
    }

    /// What the old engine has counted is the new one's, and it may end.
    fn settle(&mut self) {
        let (Some(leaving), Some(engine)) = (&mut self.relief.leaving, &self.engine) else { return };
        leaving.settled = true;
        let (old, new) = (leaving.engine.client.clone(), engine.client.clone());
        tokio::task::spawn_local(async move {
            let credited = match old.state().await {
                Ok(counted) => new.credit(&counted).await,
                Err(error) => Err(error),
            };
            if let Err(error) = credited {
                log::warning("counters-lost", &[("reason", &error)]);
            }
            // It ends soon in any case.
            let _ = old.shutdown(Duration::ZERO).await;
        });
    }

    /// Nothing has come of it. Until the queues change hands the engine that runs has never stopped, and everything is as it was; from
    /// then on it is as if the engine had died.
    pub(super) fn not_relieved(&mut self, reason: &str) {
        match self.relief.phase {
            Phase::None => (),
            Phase::Taking(_) => {
                self.give_up("the engines are replaced by a fresh one", reason);
                self.engine_lost();
            }
            Phase::Starting { .. } | Phase::Carrying(_) => {
                self.give_up("the engine that runs goes on", reason);
                self.source.generation = self.engine_report.generation;
            }
        }
    }

    /// The engine in use is gone, or its device: what was under way has lost its ground.
    pub(super) fn end_relief(&mut self, reason: &str) {
        if self.relief.is_busy() {
            self.relief.leaving = None;
            self.give_up("it is given up", reason);
        }
    }

    /// Takes back what was begun, if anything was, and tells who asked.
    fn give_up(&mut self, outcome: &str, reason: &str) {
        let begun = !matches!(std::mem::take(&mut self.relief.phase), Phase::None);
        self.relief.tasks.abort_all();
        let now = self.now();
        self.ike.take_back(now);
        self.steer_to_one();
        if begun {
            log::warning("engine-not-relieved", &[("reason", &reason)]);
        }
        if let Some((id, answer)) = self.relief.asked.take() {
            let _ = answer.send(Response::refused(id, NO, format!("{outcome}: {reason}")));
        }
    }

    fn steer_to_one(&self) {
        if let Err(error) = self.devices.steer(None) {
            log::error("not-steered", &[("reason", &error)]);
        }
    }
}
