//! A [`Host`] that keeps a log of everything the product does to the operating system, in the product's own order.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use san_core::{Deadline, DeviceNumber, Result};
use san_host::{Attr, Counters, Host, Output, Probe, SocketAddress, Stream, Tool, Uevents};
use secrecy::SecretString;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// A program was started: its name and arguments.
    Program(String),
    /// An attribute was written: its path and the value.
    Write(String),
    /// A daemon was sent a command.
    Command(String),
}

type Log = Arc<Mutex<Vec<Deed>>>;

fn note(log: &Log, deed: Deed) {
    log.lock().unwrap_or_else(PoisonError::into_inner).push(deed);
}

/// A host and the log of what was done to it. Clones share the log.
#[derive(Debug, Clone)]
pub struct Watched {
    host: Arc<dyn Host>,
    log: Log,
}

impl Watched {
    /// Watches `host`.
    pub fn new(host: Arc<dyn Host>) -> Self {
        Self { host, log: Log::default() }
    }

    /// Everything done since the log was emptied.
    pub fn deeds(&self) -> Vec<Deed> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every write to the kernel and every change asked of the multipath daemon: `PATH VALUE` and the command.
    pub fn changes(&self) -> Vec<String> {
        let changing = self.deeds().into_iter().filter_map(|it| match it {
            Deed::Write(text) => Some(text),
            Deed::Command(text) if !text.starts_with("show") => Some(text),
            Deed::Command(_) | Deed::Program(_) => None,
        });
        changing.collect()
    }

    /// Every program, with its arguments.
    pub fn programs(&self) -> Vec<String> {
        let only = |it| if let Deed::Program(text) = it { Some(text) } else { None };
        self.deeds().into_iter().filter_map(only).collect()
    }

    /// Every write to the kernel: `PATH VALUE`.
    pub fn writes(&self) -> Vec<String> {
        let only = |it| if let Deed::Write(text) = it { Some(text) } else { None };
        self.deeds().into_iter().filter_map(only).collect()
    }

    /// Empties the log.
    pub fn forget(&self) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[async_trait]
impl Host for Watched {
    async fn attr(&self, device: &Path, attribute: &str, deadline: Deadline) -> Result<Attr> {
        self.host.attr(device, attribute, deadline).await
    }

    async fn list(&self, directory: &Path, deadline: Deadline) -> Result<Option<Vec<String>>> {
        self.host.list(directory, deadline).await
    }

    async fn read_link(&self, path: &Path, deadline: Deadline) -> Result<Option<PathBuf>> {
        self.host.read_link(path, deadline).await
    }

    async fn read(&self, path: &Path, max: usize, deadline: Deadline) -> Result<Option<Vec<u8>>> {
        self.host.read(path, max, deadline).await
    }

    async fn write_attr(&self, path: &Path, value: &str, deadline: Deadline) -> Result<()> {
        note(&self.log, Deed::Write(format!("{} {}", path.display(), value.trim_end())));
        self.host.write_attr(path, value, deadline).await
    }

    async fn make_link(&self, link: &Path, target: &Path, deadline: Deadline) -> Result<()> {
        self.host.make_link(link, target, deadline).await
    }

    async fn remove_link(&self, link: &Path, deadline: Deadline) -> Result<bool> {
        self.host.remove_link(link, deadline).await
    }

    async fn put_file(&self, path: &Path, text: &str, deadline: Deadline) -> Result<()> {
        self.host.put_file(path, text, deadline).await
    }

    async fn put_secret(
        &self,
        path: &Path,
        staged: &Path,
        secret: &SecretString,
        deadline: Deadline,
    ) -> Result<()> {
        self.host.put_secret(path, staged, secret, deadline).await
    }

    async fn link_file(&self, file: &Path, name: &Path, deadline: Deadline) -> Result<bool> {
        self.host.link_file(file, name, deadline).await
    }

    async fn remove_file(&self, path: &Path, deadline: Deadline) -> Result<bool> {
        self.host.remove_file(path, deadline).await
    }

    async fn run(&self, tool: Tool, arguments: &[String], deadline: Deadline) -> Result<Output> {
        note(&self.log, Deed::Program(format!("{tool} {}", arguments.join(" "))));
        self.host.run(tool, arguments, deadline).await
    }

    async fn connect(&self, address: &SocketAddress, deadline: Deadline) -> Result<Box<dyn Stream>> {
        let stream = self.host.connect(address, deadline).await?;
        Ok(Box::new(Tapped { stream, frames: Frames::default(), log: Arc::clone(&self.log) }))
    }

    async fn probe(&self, address: SocketAddr, deadline: Deadline) -> Result<Probe> {
        self.host.probe(address, deadline).await
    }

    fn uevents(&self) -> Uevents {
        self.host.uevents()
    }

    async fn inquiry(&self, device: &Path, page: Option<u8>, deadline: Deadline) -> Result<Vec<u8>> {
        self.host.inquiry(device, page, deadline).await
    }

    async fn flush(&self, device: &Path, deadline: Deadline) -> Result<()> {
        self.host.flush(device, deadline).await
    }

    async fn read_block(
        &self,
        device: &Path,
        offset: u64,
        length: usize,
        deadline: Deadline,
    ) -> Result<Vec<u8>> {
        self.host.read_block(device, offset, length, deadline).await
    }

    async fn open_count(&self, device: DeviceNumber, deadline: Deadline) -> Result<Option<u32>> {
        self.host.open_count(device, deadline).await
    }

    fn counters(&self) -> Counters {
        self.host.counters()
    }
}

/// A stream to multipathd whose commands are noted as they are sent.
struct Tapped {
    stream: Box<dyn Stream>,
    frames: Frames,
    log: Log,
}

impl AsyncRead for Tapped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Tapped {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        for command in self.frames.take(&bytes[..sent]) {
            note(&self.log, Deed::Command(command));
        }
        Poll::Ready(Ok(sent))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Puts multipathd's frames together: a native 8-byte length that counts the NUL at the end, then the text.
#[derive(Debug, Default)]
struct Frames(Vec<u8>);

impl Frames {
    /// The texts that are complete with these bytes.
    fn take(&mut self, bytes: &[u8]) -> Vec<String> {
        self.0.extend_from_slice(bytes);
        let mut texts = Vec::new();
        while let Some((head, rest)) = self.0.split_first_chunk::<8>() {
            let length = usize::try_from(u64::from_ne_bytes(*head)).unwrap_or(usize::MAX);
            let Some(text) = rest.get(..length) else { break };
            texts.push(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned());
            self.0.drain(..8 + length);
        }
        texts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_put_together_however_they_are_split() {
        let frame =
            |text: &str| [&(text.len() as u64 + 1).to_ne_bytes()[..], text.as_bytes(), b"\0"].concat();
        let bytes = [frame("add map 3600a"), frame("show paths raw format \"%d\"")].concat();
        for size in [1, 3, 8, 9, bytes.len()] {
            let mut frames = Frames::default();
            let texts: Vec<_> = bytes.chunks(size).flat_map(|it| frames.take(it)).collect();
            assert_eq!(texts, ["add map 3600a", "show paths raw format \"%d\""], "in parts of {size}");
        }
    }
}
