//! penstock-ike
