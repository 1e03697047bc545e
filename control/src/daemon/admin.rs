//! `control.sock`: one JSON object a line, answered by the daemon's loop.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::admin::{MISUSE, NO, REQUEST_BYTES_MAX, Request, Response};

/// The most connections served at once; more wait in the backlog.
const CLIENTS_MAX: usize = 16;

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 128;

/// How long a client may take for its next line, and the daemon for its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request and where its answer goes.
pub(super) type Asked = (Request, oneshot::Sender<Response>);

/// Listens on `path`, for root alone. A socket that an earlier daemon left is replaced.
pub(super) fn serve(path: &Path, asked: mpsc::Sender<Asked>) -> io::Result<()> {
    crate::private::room_for_socket(path)?;
    // Nobody can connect before the mode is right, even if the directory is open to others.
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG)?;
    let listener = UnixListener::from_std(std::os::unix::net::UnixListener::from(std::os::fd::OwnedFd::from(socket)))?;
    tokio::task::spawn_local(async move {
        let places = std::rc::Rc::new(Semaphore::new(CLIENTS_MAX));
        loop {
            let Ok(()) = places.acquire().await.map(|permit| permit.forget()) else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (asked, places) = (asked.clone(), places.clone());
                    tokio::task::spawn_local(async move {
                        // A client that goes away in the middle is its own affair.
                        let _ = converse(stream, asked).await;
                        places.add_permits(1);
                    });
                }
                Err(_) => {
                    places.add_permits(1);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(())
}

async fn converse(stream: UnixStream, asked: mpsc::Sender<Asked>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut stream).take(REQUEST_BYTES_MAX as u64 + 1);
        let read = tokio::time::timeout(PATIENCE, limited.read_until(b'\n', &mut line)).await??;
        if read == 0 {
            return Ok(());
        }
        let complete = line.ends_with(b"\n");
        let response = match std::str::from_utf8(&line) {
            Ok(text) => answer(text.trim_end(), &asked).await,
            Err(_) => Response::refused(0, MISUSE, "a request is UTF-8"),
        };
        tokio::time::timeout(PATIENCE, stream.get_mut().write_all(response.to_line().as_bytes())).await??;
        if !complete {
            return Ok(());
        }
    }
}

async fn answer(line: &str, asked: &mpsc::Sender<Asked>) -> Response {
    let request = match Request::parse(line) {
        Ok(request) => request,
        Err(refusal) => return refusal,
    };
    let (id, patience) = (request.id, request.command.patience());
    let (sender, receiver) = oneshot::channel();
    let exchange = async {
        asked.send((request, sender)).await.ok()?;
        receiver.await.ok()
    };
    let answered = tokio::time::timeout(patience, exchange).await.ok().flatten();
    answered.unwrap_or_else(|| Response::refused(id, NO, "the daemon is ending or does not answer in time"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio::sync::mpsc;

    #[tokio::test(flavor = "current_thread")]
    async fn the_socket_is_its_owners_alone_and_replaces_one_that_was_left() {
        let path = std::env::temp_dir().join(format!("penstock-control-{}.sock", std::process::id()));
        let local = tokio::task::LocalSet::new();
        let talk = async {
            drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket that nobody serves"));
            super::serve(&path, mpsc::channel(1).0).expect("it listens");
            assert_eq!(std::fs::metadata(&path).expect("a socket").mode() & 0o777, 0o600);
            let mut client = UnixStream::connect(&path).await.expect("it serves");
            client.write_all(b"nonsense\n").await.expect("it reads");
            let mut answer = [0; 64];
            let length = client.read(&mut answer).await.expect("it answers");
            assert!(answer[..length].starts_with(b"{\"id\":0,\"ok\":false"));
        };
        local.run_until(talk).await;
        std::fs::remove_file(&path).expect("our own socket");
    }
}
