//! The TUN device's side: packets with a virtio header in front, cut on the way out and merged on the way in.

pub mod flow;
pub mod merge;
pub mod queue;
pub mod split;
pub mod vnet;

#[cfg(test)]
pub(crate) mod model;
