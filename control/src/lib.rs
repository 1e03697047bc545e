//! penstock

pub mod admin;
pub mod config;
pub mod engine;
pub mod netlink;
pub mod psk;
pub mod socket;
mod steer;
mod sys;
pub mod tun;
