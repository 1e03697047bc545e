//! Penstock's data plane.

pub mod esp;
pub mod route;
pub mod sa;
pub mod packet;
pub mod path;
pub mod policy;
pub mod slots;
pub mod tally;
pub mod tun;
