//! Machines that do not exist: a [`Namespace`] is a host, a [`Wire`] joins two, a [`Site`] is Penstock running on one, and a
//! [`Pair`] is two sites joined and configured. All of it stands in a journal (see [`cleanup`]) and is taken away again when
//! it goes out of scope, when the process panics and when it is interrupted; what survives `kill -9` is found next time.

mod binaries;
mod build;
pub mod cleanup;
mod guest;
mod host;
mod namespace;
mod pair;
mod process;
mod processors;
mod site;
mod wire;

pub use binaries::binary;
pub(crate) use build::first_line;
pub use build::{PROGRAMS, build_daemons, daemons, features};
pub use cleanup::Folder;
pub use guest::Guest;
pub use host::Host;
pub use namespace::{DeviceCounters, Namespace};
pub use pair::{Counts, Family, Pair, PairOptions, SITES};
pub(crate) use process::stat;
pub use process::{descendants, kill, name_of, stand_still};
pub use processors::allowed_processors;
pub use site::{Site, SiteOptions, new_psk};
pub use wire::{INNER_ENDS, Offload, Wire, WireOptions};
