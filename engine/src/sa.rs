//! Security associations as a core holds them.

pub mod lifetime;
