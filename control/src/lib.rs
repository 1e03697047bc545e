//! penstock

pub mod admin;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod engine;
pub mod launcher;
mod log;
pub mod netlink;
pub mod psk;
pub mod show;
pub mod socket;
mod steer;
mod sys;
pub mod tun;
