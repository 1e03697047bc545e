//! A capture of one link: every frame that arrives there, kept whole, to be searched and sent again.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::Socket;

use crate::sys;

/// A capture under way. It ends, and gives what it saw, with [`Capture::finish`].
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Vec<Vec<u8>>>>,
}

impl Capture {
    /// Starts to keep the frames that arrive at `link` in the namespace of the calling thread.
    ///
    /// # Errors
    /// If there is no such link or no right to see it.
    pub fn start(link: &str) -> io::Result<Self> {
        let mut socket = sys::packet_socket(link, true)?;
        socket.set_recv_buffer_size(64 << 20)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut frames = Vec::new();
            let mut buffer = vec![0; 1 << 17];
            loop {
                match socket.read(&mut buffer) {
                    Ok(length) => frames.push(buffer[..length].to_vec()),
                    Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                        if stopped.load(Ordering::Relaxed) {
                            return Ok(frames);
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
        });
        Ok(Self { stop, thread })
    }

    /// Waits until nothing more arrives and gives all frames in the order of their arrival.
    ///
    /// # Errors
    /// If the socket failed meanwhile.
    pub fn finish(self) -> io::Result<Vec<Vec<u8>>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| io::Error::other("the capturing thread panicked"))?
    }
}

/// A way to put frames onto a link as they are, past every socket and route.
#[derive(Debug)]
pub struct Injector(Socket);

impl Injector {
    /// Opens `link` in the namespace of the calling thread.
    ///
    /// # Errors
    /// If there is no such link or no right to use it.
    pub fn open(link: &str) -> io::Result<Self> {
        sys::packet_socket(link, true).map(Self)
    }

    /// Sends one Ethernet frame; it arrives at the other end of the link.
    ///
    /// # Errors
    /// If the link refuses it.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.0.send(frame).map(|_| ())
    }
}
