//! A changed configuration comes into force while everything runs: what differs, and nothing else.
//!
//! ```text
//!   files ─► read: every mistake ends it here          a task, the loop goes on
//!              │
//!              ▼
//!          changes::between ─► the plan; --dry-run ends here
//!              │
//!              ▼
//!   engine: policies of new peers beside all others    a task; a refusal puts back what was done
//!   kernel: addresses, routes, rules
//!              │
//!              ▼
//!   IKE: removed peers are closed, changed ones told, new ones begin ─► policies of removed peers go
//!              │
//!              └─► --confirm: unless it is confirmed in time, the same way back
//! ```

use std::rc::Rc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::super::changes::{self, View};
use super::super::policies::{Policies, is_first};
use super::super::{kept, setup, site};
use super::{PeerId, Status, Stop, Work, policy_orders, resolve};
use crate::admin::{Change, Cost, Kind, MISUSE, NO, Plan, Response};
use crate::config::{Config, Peer, SourcePort, Texts};
use crate::engine::Client;
use crate::log;
use crate::netlink::{self, Netlink};

/// After how long a way back is tried again that failed.
const BACK_AGAIN: Duration = Duration::from_secs(1);

/// Who asked, and for what.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) id: u64,
    /// Nobody waits where a signal asked, or the time to confirm has passed.
    pub(super) answer: Option<oneshot::Sender<Response>>,
    pub(super) dry_run: bool,
    pub(super) confirm: Option<Duration>,
    /// Nobody asks: the time to confirm is over.
    pub(super) back: bool,
}

/// A configuration with the addresses of this machine that it was read beside.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    config: Rc<Config>,
    texts: Rc<Texts>,
    here: Vec<IpNet>,
}

/// What engine and kernel were brought to.
#[derive(Debug)]
pub(super) struct Target {
    draft: Draft,
    ids: Vec<PeerId>,
    plan: netlink::Plan,
    report: Plan,
    epoch: u64,
}

/// A task has come to its end, or the time has.
#[derive(Debug)]
pub(super) enum Step {
    Read(Asked, Result<Draft, Vec<String>>),
    InForce(Asked, Box<Target>, Result<(), String>),
    Undone(Asked, String, Result<(), String>),
    Expired,
}

/// What stands until it is confirmed, and what comes back else.
#[derive(Debug)]
struct Provisional {
    until: Instant,
    before: Draft,
}

/// The reload that is under way, and the one that is to be confirmed.
#[derive(Debug, Default)]
pub(super) struct Reload {
    task: Option<JoinHandle<Step>>,
    provisional: Option<Provisional>,
    /// The number given to a peer last: a number comes back late, when nothing that knew it is under way any more.
    last: u32,
}

impl Reload {
    /// Whether something is on its way into force.
    pub(super) fn is_changing(&self) -> bool {
        self.task.is_some()
    }

    /// Whether anything is on its way or waits to be confirmed.
    pub(super) fn is_busy(&self) -> bool {
        self.task.is_some() || self.provisional.is_some()
    }

    /// How many milliseconds are left to confirm what stands.
    pub(super) fn left_ms(&self) -> Option<u64> {
        let left = self.provisional.as_ref()?.until.saturating_duration_since(Instant::now());
        Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
    }

    /// Waits for the next step; for ever if nothing is under way.
    pub(super) async fn step(&mut self) -> Step {
        if let Some(task) = &mut self.task {
            let finished = task.await;
            self.task = None;
            if let Ok(step) = finished {
                return step;
            }
        }
        match &self.provisional {
            Some(provisional) => tokio::time::sleep_until(provisional.until).await,
            None => std::future::pending().await,
        }
        Step::Expired
    }
}

/// A number for each peer: its old one, or one that has not been in use for long.
fn number(config: &Config, known: &[(&str, PeerId)], last: &mut u32) -> Vec<PeerId> {
    let mut fresh = || loop {
        *last = if is_first(*last + 1) { *last + 1 } else { 0 };
        if !known.iter().any(|(_, id)| id.0 == *last) {
            return PeerId(*last);
        }
    };
    let old = |name: &str| known.binary_search_by(|(known, _)| (*known).cmp(name)).ok().and_then(|at| known.get(at)).map(|(_, id)| *id);
    config.peers.iter().map(|peer| old(&peer.name).unwrap_or_else(&mut fresh)).collect()
}

/// Reads the files, and holds them against this machine as at a start.
async fn read(path: std::path::PathBuf, netlink: Netlink) -> Result<Draft, Vec<String>> {
    let told = |stop: Stop| match stop {
        Stop::Misuse(findings) => findings.iter().map(ToString::to_string).collect(),
        other => vec![other.to_string()],
    };
    let loaded = tokio::task::spawn_blocking(move || Config::load_with_texts(&path)).await;
    let (config, texts) = loaded.map_err(|error| vec![error.to_string()])?.map_err(|findings| told(Stop::Misuse(findings)))?;
    let here = setup::addresses_of_others(&config, &netlink).await.map_err(told)?;
    setup::refuse_connected(&config, &netlink).await.map_err(told)?;
    Ok(Draft { config: Rc::new(config), texts: Rc::new(texts), here })
}

/// One side of a change of engine and kernel.
struct Side {
    orders: Vec<crate::engine::PolicyOrder>,
    plan: netlink::Plan,
}

/// Brings engine and kernel to the new side; what is to go stays until IKE has let go of it. A refusal leaves the old side.
async fn put_in_force(client: Client, policies: Rc<Policies>, netlink: Netlink, old: Side, new: Side) -> Result<(), String> {
    let added: Vec<PeerId> = {
        let had = |policy: u32| old.orders.iter().any(|order| order.policy == policy);
        new.orders.iter().map(|order| order.policy).filter(|policy| !had(*policy)).map(PeerId).collect()
    };
    let mut reason = match policies.configure(&client, new.orders).await {
        Err(refusal) => refusal.to_string(),
        Ok(()) => match netlink.change(&old.plan, &new.plan).await {
            Ok(()) => return Ok(()),
            Err(refusal) => refusal.to_string(),
        },
    };
    let mut note = |what: Option<String>| reason.extend(what.map(|what| format!("; and on the way back: {what}")));
    note(netlink.change(&new.plan, &old.plan).await.err().map(|error| error.to_string()));
    note(policies.configure(&client, old.orders).await.err().map(|error| error.to_string()));
    note(policies.forget(&client, &added).await.err().map(|error| error.to_string()));
    Err(reason)
}

impl Work {
    /// Somebody wants the files to come into force.
    pub(super) fn reload(&mut self, asked: Asked) {
        let busy = match &self.reload {
            Reload { task: Some(_), .. } => Some("another apply is under way; try again in a moment".to_owned()),
            Reload { provisional: Some(provisional), .. } if !asked.dry_run => {
                let left = provisional.until.saturating_duration_since(Instant::now()).as_secs();
                Some(format!("the last apply waits to be confirmed for {left} s more: penstock confirm, or let it be rolled back"))
            }
            _ if self.relief.is_busy() && !asked.dry_run => Some("an engine is being relieved; try again in some seconds".to_owned()),
            _ if self.engine.is_none() => Some("no engine runs just now; try again in a moment".to_owned()),
            _ => None,
        };
        if let Some(reason) = busy {
            return refuse(asked, reason);
        }
        let (path, netlink) = (self.options.config.clone(), self.netlink.clone());
        self.reload.task = Some(tokio::task::spawn_local(async move { Step::Read(asked, read(path, netlink).await) }));
    }

    /// The time to confirm is over, or a task has ended.
    pub(super) fn reload_step(&mut self, step: Step) {
        match step {
            Step::Read(asked, Ok(draft)) => self.begin_change(asked, draft),
            Step::Read(asked, Err(findings)) => refuse_files(asked, findings),
            Step::InForce(asked, target, Ok(())) if self.engine.is_some() && target.epoch == self.installer.epoch => {
                self.take_over(asked, *target)
            }
            Step::InForce(asked, target, Ok(())) => {
                // The next engine has the table of before; so has everything else again.
                let (netlink, back, from) = (self.netlink.clone(), self.plan.clone(), target.plan);
                let reason = "the engine ended meanwhile".to_owned();
                self.reload.task = Some(tokio::task::spawn_local(async move {
                    let undone = netlink.change(&from, &back).await.map_err(|error| error.to_string());
                    Step::Undone(asked, reason, undone)
                }));
            }
            Step::InForce(asked, _, Err(reason)) => self.not_changed(asked, &reason),
            Step::Undone(asked, reason, Ok(())) => self.not_changed(asked, &reason),
            Step::Undone(asked, reason, Err(further)) => self.not_changed(asked, &format!("{reason}; and on the way back: {further}")),
            Step::Expired => {
                let Some(provisional) = &self.reload.provisional else { return };
                log::warning("config-not-confirmed", &[("then", &"what ran before comes back")]);
                let before = provisional.before.clone();
                self.begin_change(Asked { back: true, ..Asked::default() }, before);
            }
        }
    }

    fn not_changed(&mut self, asked: Asked, reason: &str) {
        if asked.back
            && let Some(provisional) = &mut self.reload.provisional
        {
            provisional.until = Instant::now() + BACK_AGAIN;
        }
        refuse(asked, format!("nothing is changed: {reason}"));
    }

    /// Compares, and brings engine and kernel to the new configuration unless only the plan is wanted.
    fn begin_change(&mut self, asked: Asked, draft: Draft) {
        let running = View { config: &self.config, here: &self.here };
        let changes = changes::between(running, View { config: &draft.config, here: &draft.here });
        let touched = |change: &&Change| change.section.starts_with("peer.") && change.kind != Kind::Added;
        let untouched = self.config.peers.len() - changes.iter().filter(touched).count();
        let findings = draft.config.warnings.iter().map(ToString::to_string).collect();
        let mut report = Plan { changes, untouched, findings, ..Plan::default() };
        let config = Rc::new(changes::effective(&self.config, (*draft.config).clone()));
        let draft = Draft { config, ..draft };
        let live = !changes::between(running, View { config: &draft.config, here: &draft.here }).is_empty();
        if asked.dry_run || !live {
            report.applied = !asked.dry_run;
            if asked.back {
                self.reload.provisional = None;
            } else if !asked.dry_run {
                kept::forget(&self.options.run_dir);
            }
            return answer(asked, report);
        }
        let known: Vec<(&str, PeerId)> = self.config.peers.iter().map(|peer| peer.name.as_str()).zip(self.ids.iter().copied()).collect();
        self.reload.last = self.reload.last.max(self.ids.iter().map(|id| id.0).max().unwrap_or_default());
        let ids = number(&draft.config, &known, &mut self.reload.last);
        let plan = site::netlink(&draft.config, self.plan.mtu, &draft.here);
        let old = Side { orders: policy_orders(&self.config, &self.ids, &self.here), plan: self.plan.clone() };
        let new = Side { orders: policy_orders(&draft.config, &ids, &draft.here), plan: plan.clone() };
        self.repair.pause();
        let run_dir = self.options.run_dir.clone();
        let sides = asked.confirm.map(|_| (self.texts.clone(), draft.texts.clone()));
        let target = Box::new(Target { draft, ids, plan, report, epoch: self.installer.epoch });
        let (client, policies, netlink) = (self.installer.client.clone(), self.installer.policies.clone(), self.netlink.clone());
        self.reload.task = Some(tokio::task::spawn_local(async move {
            // Nobody could roll back what is not kept.
            if let Some((before, applied)) = sides
                && let Err(error) = kept::keep(&run_dir, &before, &applied)
            {
                return Step::InForce(asked, target, Err(format!("what runs cannot be kept in {error}")));
            }
            let done = put_in_force(client, policies, netlink, old, new).await;
            Step::InForce(asked, target, done)
        }));
    }

    /// Engine and kernel have it: now the peers.
    fn take_over(&mut self, asked: Asked, target: Target) {
        let Target { draft, ids, plan, mut report, .. } = target;
        let gone: Vec<PeerId> = self.ids.iter().copied().filter(|id| !ids.contains(id)).collect();
        gone.iter().for_each(|id| self.remove_peer(*id));
        let before = Draft {
            config: std::mem::replace(&mut self.config, draft.config),
            texts: std::mem::replace(&mut self.texts, draft.texts),
            here: std::mem::replace(&mut self.here, draft.here),
        };
        // What was rolled back stays so until somebody applies something.
        if asked.confirm.is_none() && !asked.back {
            kept::forget(&self.options.run_dir);
        }
        (self.ids, self.plan) = (ids, plan);
        let old: std::collections::HashMap<&str, &Peer> = before.config.peers.iter().map(|peer| (peer.name.as_str(), peer)).collect();
        let sections: std::collections::HashMap<&str, Cost> =
            report.changes.iter().filter_map(|change| Some((change.section.strip_prefix("peer.")?, change.cost))).collect();
        let config = self.config.clone();
        for (peer, id) in config.peers.iter().zip(self.ids.clone()) {
            match (sections.get(peer.name.as_str()), old.get(peer.name.as_str())) {
                (Some(cost), Some(old)) => self.change_peer(id, old, peer, *cost),
                (Some(_), None) => self.add_peer(id, peer),
                (None, _) => (),
            }
        }
        self.carry_out();
        let (client, policies) = (self.installer.client.clone(), self.installer.policies.clone());
        if !gone.is_empty() {
            tokio::task::spawn_local(async move {
                if let Err(error) = policies.forget(&client, &gone).await {
                    log::warning("policies-not-removed", &[("reason", &error)]);
                }
            });
        }
        report.applied = true;
        self.reload.provisional = asked.confirm.map(|within| Provisional { until: Instant::now() + within, before });
        report.confirm_within_ms = asked.confirm.map(|within| u64::try_from(within.as_millis()).unwrap_or(u64::MAX));
        log::info(if asked.back { "config-rolled-back" } else { "config-applied" }, &[("peers", &report.summary())]);
        for change in report.changes.iter().filter(|change| change.cost == Cost::Restart) {
            log::warning("config-waits-for-restart", &[("section", &change.section), ("keys", &change.keys.join(" "))]);
        }
        answer(asked, report);
    }

    fn remove_peer(&mut self, id: PeerId) {
        let now = self.now();
        self.ike.remove_peer(now, id);
        self.carry_out();
        for spi in self.inherited.remove(&id).unwrap_or_default() {
            self.installer.retire(None, spi, 0);
        }
        self.source.set_shared(id, false);
        self.statuses.remove(&id);
        self.endpoints.remove(id);
        self.forget_look_up(id);
    }

    pub(super) fn add_peer(&mut self, id: PeerId, peer: &Peer) {
        self.statuses.insert(id, Status { since: Instant::now(), up: false, attempts: 0, reason: None, last_error: None });
        // One with a name may come to us before that is known.
        let last_seen = self.last_seen.remove(&id).filter(|_| peer.endpoint.is_none());
        self.begin_peer(id, resolve::literal(peer).or(last_seen));
        self.look_up(id);
    }

    fn change_peer(&mut self, id: PeerId, old: &Peer, peer: &Peer, cost: Cost) {
        let now = self.now();
        if old.endpoint != peer.endpoint || old.local_address != peer.local_address {
            self.endpoints.remove(id);
            self.forget_look_up(id);
        }
        let endpoint = resolve::literal(peer).or_else(|| self.endpoints.get(id));
        if cost == Cost::Tunnel {
            self.begin_peer(id, endpoint);
            return self.look_up(id);
        }
        self.source.set_shared(id, peer.source_port == SourcePort::Shared);
        self.ike.set_peer(now, site::ike_peer(peer, id, site::offered(&self.config, peer, &self.here), endpoint));
        if cost == Cost::Rekey {
            // What is not up gets the new values when it comes up.
            let _ = self.ike.rekey(now, id, &mut self.source);
        }
    }

    /// What was applied for a time stays.
    pub(super) fn confirm(&mut self, id: u64) -> Response {
        match self.reload.provisional.take() {
            Some(_) => {
                kept::forget(&self.options.run_dir);
                log::info("config-confirmed", &[]);
                Response::done(id, "confirmed: what was applied stays")
            }
            None => Response::refused(id, NO, "nothing waits to be confirmed: it was never applied with --confirm, or is rolled back"),
        }
    }
}

fn answer(asked: Asked, report: Plan) {
    if let Some(waiting) = asked.answer {
        // A client that does not wait for the answer has its order carried out all the same.
        let _ = waiting.send(Response::plan(asked.id, report));
    }
}

fn refuse(asked: Asked, reason: String) {
    log::warning("config-not-applied", &[("reason", &reason)]);
    if let Some(waiting) = asked.answer {
        let _ = waiting.send(Response::refused(asked.id, NO, reason));
    }
}

/// The files have mistakes: nothing is changed.
fn refuse_files(asked: Asked, findings: Vec<String>) {
    for finding in &findings {
        log::warning("config-not-applied", &[("reason", finding)]);
    }
    if let Some(waiting) = asked.answer {
        let reason = format!("nothing is changed: the configuration has {} mistakes", findings.len());
        let plan = Some(Box::new(Plan { findings, ..Plan::default() }));
        let _ = waiting.send(Response { plan, ..Response::refused(asked.id, MISUSE, reason) });
    }
}
