//! Security associations as a core holds them: pairs of one inbound and one outbound SA, found by our SPI.

pub mod lifetime;
pub mod pair;
pub mod table;

pub use pair::{Inbound, Outbound, Pair, Shared};
pub use table::Table;
