//! penstock-engine
