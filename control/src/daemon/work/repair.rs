//! Addresses, routes and rules that somebody else took away are put back, within a moment and with one line in the log. An address
//! that was not ours is gone for good: IKE SAs that used it go on with another one.

use std::time::Duration;

use ipnet::IpNet;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Work;
use crate::log;
use crate::netlink::NetlinkError;
use crate::netlink::watch::PutBack;

/// What goes within this time is put back together: an address takes its routes along.
const GATHER: Duration = Duration::from_millis(100);

/// After how long it is tried again where it could not be put back.
const AGAIN: Duration = Duration::from_secs(2);

/// The watch over what is ours in the kernel.
#[derive(Debug)]
pub(super) struct Repair {
    lost: mpsc::Receiver<()>,
    tasks: JoinSet<Step>,
    again: Option<Instant>,
    /// Why it could not be put back, as the log has it.
    told: Option<String>,
}

/// Something to do.
#[derive(Debug)]
pub(super) enum Step {
    Look,
    Looked(Result<PutBack, NetlinkError>),
    Addresses(Vec<IpNet>),
}

impl Repair {
    pub(super) fn new(lost: mpsc::Receiver<()>) -> Self {
        Self { lost, tasks: JoinSet::new(), again: None, told: None }
    }

    /// Waits until something may be missing, or has been put back.
    pub(super) async fn step(&mut self) -> Step {
        if let Some(done) = self.tasks.join_next().await {
            // A task that was aborted has left the rest to another.
            return done.unwrap_or(Step::Look);
        }
        match self.again {
            Some(at) => tokio::time::sleep_until(at).await,
            None => {
                if self.lost.recv().await.is_none() {
                    std::future::pending().await
                }
            }
        }
        Step::Look
    }

    /// Lets a changed configuration come first.
    pub(super) fn pause(&mut self) {
        if !self.tasks.is_empty() {
            self.tasks = JoinSet::new();
            self.again = Some(Instant::now() + AGAIN);
        }
    }
}

impl Work {
    pub(super) fn repair(&mut self, step: Step) {
        match step {
            // It looks at everything itself, and has a plan of its own.
            Step::Look if self.reload.is_changing() => self.repair.again = Some(Instant::now() + AGAIN),
            Step::Look => {
                self.repair.again = None;
                let (netlink, plan) = (self.netlink.clone(), self.plan.clone());
                let reader = self.netlink.clone();
                // What the machine has lost is no use to an IKE SA for another moment. An unanswered question is asked again with the next loss.
                self.repair.tasks.spawn_local(async move { Step::Addresses(reader.addresses().await.unwrap_or_default()) });
                self.repair.tasks.spawn_local(async move {
                    tokio::time::sleep(GATHER).await;
                    Step::Looked(netlink.put_back(&plan).await)
                });
            }
            Step::Addresses(addresses) => self.leave_lost_addresses(&addresses),
            Step::Looked(Ok(done)) => {
                self.repair.told = None;
                if done != PutBack::default() {
                    let PutBack { raised, addresses, routes, rules } = done;
                    let fields: [(&str, &dyn std::fmt::Display); 5] = [
                        ("device", &self.plan.device),
                        ("raised", &raised),
                        ("addresses", &addresses),
                        ("routes", &routes),
                        ("rules", &rules),
                    ];
                    log::warning("put-back", &fields);
                }
            }
            Step::Looked(Err(error)) => {
                self.repair.again = Some(Instant::now() + AGAIN);
                let reason = error.to_string();
                if self.repair.told.as_ref() != Some(&reason) {
                    log::error("not-put-back", &[("reason", &reason), ("again_every_s", &AGAIN.as_secs())]);
                    self.repair.told = Some(reason);
                }
            }
        }
    }

    /// IKE SAs do not wait for an address that this machine no longer has.
    fn leave_lost_addresses(&mut self, addresses: &[IpNet]) {
        let now = self.now();
        // No machine is without any: then the kernel has not answered.
        if addresses.is_empty() {
            return;
        }
        for used in self.ike.local_addresses() {
            if !addresses.iter().any(|net| net.addr() == used) {
                log::warning("address-lost", &[("address", &used)]);
                self.ike.local_gone(now, used);
            }
        }
    }
}
