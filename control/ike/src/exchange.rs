//! The four exchanges of IKEv2, each with its request and its response, seen from both sides.

pub(crate) mod auth;
pub(crate) mod child;
pub(crate) mod informational;
pub(crate) mod init;

use crate::error::Fault;

/// How an IKE SA ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Forget it: the peer knows, or never knew it.
    Drop(Fault),
    /// Tell the peer first.
    Delete(Fault),
}
