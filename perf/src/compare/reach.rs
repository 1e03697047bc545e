//! Whether a tunnel carries anything yet, asked with datagrams as any user would.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::lab::Host;

/// Waits until a datagram from `from` comes through to `to`.
///
/// # Errors
/// If none does in time.
pub(super) fn wait(from: &Host, to: &Host, timeout: Duration) -> Result<()> {
    let deadline = Instant::now() + timeout;
    loop {
        let outcome = try_once(from, to);
        match outcome {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("nothing comes through within {timeout:?}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn try_once(from: &Host, to: &Host) -> Result<()> {
    let sockets: [UdpSocket; 2] = [from.udp(0)?, to.udp(0)?];
    sockets[1].set_read_timeout(Some(Duration::from_millis(200)))?;
    sockets[0].send_to(b"there?", sockets[1].local_addr()?)?;
    let mut buffer = [0; 16];
    match sockets[1].recv(&mut buffer) {
        Ok(_) => Ok(()),
        Err(error) => bail!("no datagram arrived: {error}"),
    }
}
