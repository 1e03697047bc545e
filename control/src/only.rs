//! One daemon a network namespace. Rules, routes and the device's addresses are the namespace's, and a second daemon would take
//! them for leftovers of its own. An abstract Unix socket belongs to a network namespace too (unix(7)), goes with its process, and
//! a name can be bound once: so it is the lock.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use tokio::net::UnixStream;

use crate::log;

/// The name of the lock.
const NAME: &[u8] = b"penstockd";

/// Held as long as this daemon runs.
#[derive(Debug)]
pub(crate) struct Only(#[expect(dead_code, reason = "the lock is that it is open")] Option<UnixListener>);

/// Takes the lock of the network namespace that this process is in.
///
/// # Errors
/// If another penstockd has it; the text names its process.
pub(crate) async fn claim() -> io::Result<Only> {
    let address = SocketAddr::from_abstract_name(NAME)?;
    match UnixListener::bind_addr(&address) {
        Ok(listener) => return Ok(Only(Some(listener))),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => (),
        Err(error) => return Err(error),
    }
    let holder = async {
        let stream = std::os::unix::net::UnixStream::connect_addr(&address)?;
        stream.set_nonblocking(true)?;
        UnixStream::from_std(stream)?.peer_cred()
    };
    match holder.await {
        // Anybody may bind a name. Who has no rights over the network is no penstockd and must not keep one from running.
        Ok(holder) if holder.uid() != 0 && Some(holder.uid()) != own_user() => {
            log::warning("name-taken", &[("user", &holder.uid()), ("reason", &"it is no penstockd, and is ignored")]);
            Ok(Only(None))
        }
        holder => {
            let pid = holder.ok().and_then(|holder| holder.pid()).map(|pid| format!(" (process {pid})")).unwrap_or_default();
            Err(io::Error::other(format!(
                "another penstockd{pid} runs in this network namespace; end it, or run this one in a namespace of its own"
            )))
        }
    }
}

/// The user that this process runs as.
fn own_user() -> Option<u32> {
    std::fs::metadata("/proc/self").map(|own| own.uid()).ok()
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn a_second_one_is_told_who_the_first_is_and_comes_in_when_that_has_gone() {
        // Given one daemon (or, on a machine where one runs, that one)
        let Ok(first) = super::claim().await else { return };
        // When another starts, then it is told
        let told = super::claim().await.expect_err("one a namespace").to_string();
        assert!(told.contains(&format!("process {}", std::process::id())), "{told}");
        drop(first);
        super::claim().await.expect("the first has gone");
    }
}
