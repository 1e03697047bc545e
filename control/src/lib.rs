//! penstock
