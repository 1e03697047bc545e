//! Inner packets: what their headers say, checked before it is believed.

pub mod checksum;
pub mod ip;
