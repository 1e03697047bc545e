//! Penstock's data plane.

pub mod esp;
pub mod route;
pub mod sa;
