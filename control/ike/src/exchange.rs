//! The exchanges of IKEv2, each with its request and its response, seen from both sides.

pub(crate) mod auth;
pub(crate) mod child;
pub(crate) mod create;
pub(crate) mod informational;
pub(crate) mod init;
pub(crate) mod intermediate;
pub(crate) mod nat;
pub(crate) mod rekey;
pub(crate) mod renew;

use std::net::SocketAddr;

use crate::error::Fault;
use crate::message::Header;

/// A message's header and the way it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Came {
    pub(crate) header: Header,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
}

/// How an IKE SA ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Forget it: the peer knows, or never knew it.
    Drop(Fault),
    /// Tell the peer first.
    Delete(Fault),
}
