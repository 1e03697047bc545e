//! A look at a namespace that misses nothing: the kernel's own news of devices, addresses and routes that are deleted.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::lab::Namespace;

/// The tunnel device of the lab's sites.
const DEVICE: &str = "pen0";

/// Notes everything of the tunnel device that is deleted, from the start until it is finished.
pub struct Watch {
    namespace: Namespace,
    child: Child,
    reader: Option<JoinHandle<()>>,
    lines: Arc<Mutex<Vec<String>>>,
    before: [String; 4],
}

impl Watch {
    /// Begins.
    ///
    /// # Errors
    /// If `ip monitor` cannot be run.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let mut command = namespace.command("ip");
        command.args(["monitor", "link", "address", "route"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("ip monitor")?;
        let output = child.stdout.take().context("ip monitor says nothing")?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&lines);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                noted.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        let mut watch = Self { namespace: namespace.clone(), child, reader: Some(reader), lines, before: Default::default() };
        watch.wait_listening()?;
        watch.before = watch.state()?;
        Ok(watch)
    }

    /// It listens when it tells of a route that comes and goes.
    fn wait_listening(&self) -> Result<()> {
        let start = Instant::now();
        while self.count("198.51.100.1") == 0 {
            ensure!(start.elapsed() < Duration::from_secs(5), "ip monitor does not listen");
            self.namespace.ip("route add blackhole 198.51.100.1/32")?;
            self.namespace.ip("route del blackhole 198.51.100.1/32")?;
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn count(&self, text: &str) -> usize {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().filter(|line| line.contains(text)).count()
    }

    /// The device with its number, its addresses and its routes, as they are now.
    fn state(&self) -> Result<[String; 4]> {
        let of = |what: &str| self.namespace.ip(&format!("{what} dev {DEVICE}"));
        let link = of("-o link show")?;
        let link = link.split(':').take(2).collect::<Vec<_>>().join(":");
        Ok([link, of("-o addr show")?, of("-4 route show table all")?, of("-6 route show table all")?])
    }

    /// Whether device, addresses and routes are as they were at the start.
    ///
    /// # Errors
    /// If the device is gone.
    pub fn is_as_before(&self) -> Result<bool> {
        Ok(self.state()? == self.before)
    }

    /// Ends, and gives everything that was deleted meanwhile.
    #[must_use]
    pub fn finish(mut self) -> Vec<String> {
        std::thread::sleep(Duration::from_millis(50)); // the last news may be on its way
        self.end();
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter(|line| line.starts_with("Deleted") && line.contains(DEVICE)).cloned().collect()
    }

    fn end(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end();
    }
}
