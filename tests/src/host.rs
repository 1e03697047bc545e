//! Faults of the machine that a site runs on: a full disk, no descriptors left, sockets with hardly any buffer. Each ends when it is dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Socket, Type};

use crate::sys;

/// A file system of a few pages in memory, over a folder.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Lays it over a folder, which is empty then.
    ///
    /// # Errors
    /// If it cannot be mounted.
    pub fn over(folder: &Path) -> Result<Self> {
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k,mode=0700", "none"]).arg(folder))?;
        Ok(Self(folder.to_owned()))
    }

    /// Writes until nothing fits any more. Gives the file to remove.
    ///
    /// # Errors
    /// If it does not get full.
    pub fn fill(&self) -> Result<PathBuf> {
        let path = self.0.join("filler");
        for _ in 0..64 {
            let mut content = fs::read(&path).unwrap_or_default();
            content.resize(content.len() + 4096, 7);
            if fs::write(&path, &content).is_err() {
                return Ok(path);
            }
        }
        anyhow::bail!("{} is not full", self.0.display())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("umount").arg("--lazy").arg(&self.0)) {
            eprintln!("{error:#}");
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// No process of these gets another descriptor.
pub struct NoDescriptors(Vec<u32>);

impl NoDescriptors {
    /// Takes the limit of these processes down to fewer than they have.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn of(processes: &[u32]) -> Result<Self> {
        let limited = Self(processes.to_vec());
        limited.set(3)?;
        Ok(limited)
    }

    fn set(&self, limit: u32) -> Result<()> {
        let limit = format!("--nofile={limit}:");
        self.0.iter().try_for_each(|pid| run(Command::new("prlimit").args(["--pid", &pid.to_string(), &limit])))
    }
}

impl Drop for NoDescriptors {
    fn drop(&mut self) {
        if let Err(error) = self.set(1024) {
            eprintln!("{error:#}");
        }
    }
}

/// The UDP sockets of a process with the smallest buffers that the kernel gives.
pub struct TinyBuffers(Vec<(Socket, [usize; 2])>);

impl TinyBuffers {
    /// Shrinks them.
    ///
    /// # Errors
    /// If the process has none, or may not be looked into.
    pub fn of(process: u32) -> Result<Self> {
        let mut sockets = Vec::new();
        for entry in fs::read_dir(format!("/proc/{process}/fd"))? {
            let Some(fd) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Ok(socket) = sys::descriptor_of(process, fd).map(Socket::from) else { continue };
            let inet = socket.domain().is_ok_and(|domain| domain == Domain::IPV4 || domain == Domain::IPV6);
            if inet && socket.r#type().is_ok_and(|kind| kind == Type::DGRAM) {
                // The kernel shows twice what was asked for.
                let before = [socket.recv_buffer_size()? / 2, socket.send_buffer_size()? / 2];
                socket.set_recv_buffer_size(1)?;
                socket.set_send_buffer_size(1)?;
                sockets.push((socket, before));
            }
        }
        ensure!(!sockets.is_empty(), "process {process} has no UDP sockets");
        Ok(Self(sockets))
    }
}

impl Drop for TinyBuffers {
    fn drop(&mut self) {
        for (socket, [receive, send]) in &self.0 {
            if let Err(error) = sys::force_buffers(socket, *receive, *send) {
                eprintln!("buffers: {error}");
            }
        }
    }
}
