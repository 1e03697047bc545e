//! Addresses, routes, rules and the device's name that somebody else took away are put back, within a moment and with one line in the log. An address
//! that was not ours is gone for good: IKE SAs that used it go on with another one. A device that was deleted is made again, and another engine gets its queues.

use std::rc::Rc;
use std::time::Duration;

use ipnet::IpNet;
use penstock_uapi::request::feature;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::devices::Devices;
use super::{Stop, Work, failed};
use crate::config::Config;
use crate::netlink::watch::PutBack;
use crate::netlink::{Netlink, NetlinkError, Plan};
use crate::{log, tun};

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
    Made(Result<Made, Stop>),
}

/// Another device in place of one that was deleted, with addresses, routes and rules.
#[derive(Debug)]
pub(super) struct Made {
    devices: Devices,
    uso: bool,
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
                let (config, devices, uso) = (self.config.clone(), self.devices.clone(), self.features & feature::USO != 0);
                // What the machine has lost is no use to an IKE SA for another moment. An unanswered question is asked again with the next loss.
                self.repair.tasks.spawn_local(async move { Step::Addresses(reader.addresses().await.unwrap_or_default()) });
                self.repair.tasks.spawn_local(async move {
                    tokio::time::sleep(GATHER).await;
                    match devices.device() {
                        Some(name) => Step::Looked(netlink.put_back(&plan, &name).await),
                        None => Step::Made(make_again(&config, &devices, &netlink, &plan, uso).await),
                    }
                });
            }
            Step::Addresses(addresses) => self.leave_lost_addresses(&addresses),
            Step::Looked(Ok(done)) => {
                self.repair.told = None;
                if done != PutBack::default() {
                    let PutBack { renamed, raised, addresses, routes, rules } = done;
                    let fields: [(&str, &dyn std::fmt::Display); 6] = [
                        ("device", &self.plan.device),
                        ("renamed", &renamed),
                        ("raised", &raised),
                        ("addresses", &addresses),
                        ("routes", &routes),
                        ("rules", &rules),
                    ];
                    log::warning("put-back", &fields);
                }
            }
            Step::Made(Ok(made)) => {
                self.repair.told = None;
                self.use_device(made);
            }
            Step::Looked(Err(error)) => self.not_put_back(error.to_string()),
            Step::Made(Err(stop)) => self.not_put_back(stop.to_string()),
        }
    }

    fn not_put_back(&mut self, reason: String) {
        self.repair.again = Some(Instant::now() + AGAIN);
        if self.repair.told.as_ref() != Some(&reason) {
            log::error("not-put-back", &[("reason", &reason), ("again_every_s", &AGAIN.as_secs())]);
            self.repair.told = Some(reason);
        }
    }

    /// An engine cannot change its queues: it ends, and the next one gets those of the new device.
    fn use_device(&mut self, Made { devices, uso }: Made) {
        log::warning("device-made-again", &[("device", &self.plan.device)]);
        self.end_relief("the device was lost meanwhile");
        self.devices = Rc::new(devices);
        if !uso {
            self.features &= !feature::USO;
        }
        if self.engine.is_some() {
            let client = self.installer.client.clone();
            tokio::task::spawn_local(async move {
                // One that is gone already is noticed as lost.
                let _ = client.shutdown(Duration::ZERO).await;
            });
        }
        self.order_engine_anew();
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

/// Makes the device that was deleted once more, with everything that belongs to it.
async fn make_again(config: &Config, devices: &Devices, netlink: &Netlink, plan: &Plan, uso: bool) -> Result<Made, Stop> {
    let device = &plan.device;
    let is_new = netlink.link(device).await.map_err(failed)?.is_none();
    let queues = tun::open(device, devices.count().into(), uso).map_err(failed)?;
    if is_new {
        netlink.claim(device, &config.site.name).await.map_err(failed)?;
    }
    netlink.apply(plan).await.map_err(failed)?;
    Ok(Made { devices: devices.with_queues(queues.queues).map_err(failed)?, uso: queues.uso })
}
