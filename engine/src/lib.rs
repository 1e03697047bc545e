//! Penstock's data plane.

pub mod admin;
pub mod esp;
pub mod handoff;
pub mod limits;
pub mod packet;
pub mod path;
pub mod plain;
pub mod policy;
pub mod ring;
pub mod route;
pub mod sa;
pub mod sandbox;
pub mod slots;
pub mod sys;
pub mod tally;
pub mod tun;
pub mod udp;
pub mod worker;
