//! The guard around [`Host`]: one of the three places where effects pass the seam, and where waiting ends.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use san_core::{Cx, DeviceNumber, Effect, EffectKind, Result};
use secrecy::SecretString;
use tokio::time::Instant;

use crate::host::{Attr, Counters, Host, Output, Probe, SocketAddress, Stream, Tool, Uevents};

/// The longest pause between two looks, unless the caller wants a longer one.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A host whose every change passes the effect seam and whose every call ends by the context's deadline.
#[derive(Debug, Clone)]
pub struct Guard {
    host: Arc<dyn Host>,
}

impl Guard {
    /// Guards `host`.
    pub fn new(host: Arc<dyn Host>) -> Self {
        Self { host }
    }

    fn effect(verb: &'static str, subject: impl Into<String>) -> Effect {
        Effect { kind: EffectKind::Host, verb, subject: subject.into() }
    }

    /// See [`Host::attr`].
    pub async fn attr(&self, cx: &Cx, device: &Path, attribute: &str) -> Result<Attr> {
        cx.within("reading an attribute", self.host.attr(device, attribute, cx.deadline())).await
    }

    /// See [`Host::list`].
    pub async fn list(&self, cx: &Cx, directory: &Path) -> Result<Option<Vec<String>>> {
        cx.within("listing a directory", self.host.list(directory, cx.deadline())).await
    }

    /// See [`Host::read_link`].
    pub async fn read_link(&self, cx: &Cx, path: &Path) -> Result<Option<PathBuf>> {
        cx.within("reading a link", self.host.read_link(path, cx.deadline())).await
    }

    /// See [`Host::read`].
    pub async fn read(&self, cx: &Cx, path: &Path, max: usize) -> Result<Option<Vec<u8>>> {
        cx.within("reading a file", self.host.read(path, max, cx.deadline())).await
    }

    /// See [`Host::write_attr`].
    pub async fn write_attr(&self, cx: &Cx, path: &Path, value: &str) -> Result<()> {
        let effect = Self::effect("write", format!("{:?} to {}", value.trim_end(), path.display()));
        let write = self.host.write_attr(path, value, cx.deadline());
        cx.effect(effect, cx.within("writing an attribute", write)).await
    }

    /// See [`Host::make_link`].
    pub async fn make_link(&self, cx: &Cx, link: &Path, target: &Path) -> Result<()> {
        let effect = Self::effect("link", link.display().to_string());
        cx.effect(effect, cx.within("making a link", self.host.make_link(link, target, cx.deadline()))).await
    }

    /// See [`Host::remove_link`].
    pub async fn remove_link(&self, cx: &Cx, link: &Path) -> Result<bool> {
        let effect = Self::effect("unlink", link.display().to_string());
        cx.effect(effect, cx.within("removing a link", self.host.remove_link(link, cx.deadline()))).await
    }

    /// See [`Host::put_file`].
    pub async fn put_file(&self, cx: &Cx, path: &Path, text: &str) -> Result<()> {
        let effect = Self::effect("put", path.display().to_string());
        cx.effect(effect, cx.within("writing a file", self.host.put_file(path, text, cx.deadline()))).await
    }

    /// See [`Host::put_secret`].
    pub async fn put_secret(&self, cx: &Cx, path: &Path, staged: &Path, secret: &SecretString) -> Result<()> {
        let effect = Self::effect("put", path.display().to_string());
        let put = self.host.put_secret(path, staged, secret, cx.deadline());
        cx.effect(effect, cx.within("writing a file", put)).await
    }

    /// See [`Host::link_file`].
    pub async fn link_file(&self, cx: &Cx, file: &Path, name: &Path) -> Result<bool> {
        let effect = Self::effect("link", name.display().to_string());
        let link = self.host.link_file(file, name, cx.deadline());
        cx.effect(effect, cx.within("giving a file a second name", link)).await
    }

    /// See [`Host::remove_file`].
    pub async fn remove_file(&self, cx: &Cx, path: &Path) -> Result<bool> {
        let effect = Self::effect("remove", path.display().to_string());
        cx.effect(effect, cx.within("removing a file", self.host.remove_file(path, cx.deadline()))).await
    }

    /// See [`Host::run`]. Every run passes the seam: what a tool changes is its own business.
    pub async fn run(&self, cx: &Cx, tool: Tool, arguments: &[String]) -> Result<Output> {
        let effect = Self::effect(tool.name(), arguments.join(" "));
        cx.effect(effect, cx.within("running a tool", self.host.run(tool, arguments, cx.deadline()))).await
    }

    /// See [`Host::connect`]. What is said on the stream passes the seam through [`Guard::exchange`].
    pub async fn connect(&self, cx: &Cx, address: &SocketAddress) -> Result<Box<dyn Stream>> {
        cx.within("connecting to a daemon", self.host.connect(address, cx.deadline())).await
    }

    /// Runs one changing conversation over a stream under the seam.
    pub async fn exchange<T>(
        &self,
        cx: &Cx,
        verb: &'static str,
        subject: &str,
        conversation: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        cx.effect(Self::effect(verb, subject), cx.within("waiting for a daemon's answer", conversation)).await
    }

    /// See [`Host::probe`]; bounded by `at_most` as well.
    pub async fn probe(&self, cx: &Cx, address: SocketAddr, at_most: Duration) -> Result<Probe> {
        self.host.probe(address, cx.deadline().at_most(at_most)).await
    }

    /// See [`Host::uevents`].
    pub fn uevents(&self) -> Uevents {
        self.host.uevents()
    }

    /// See [`Host::inquiry`]; bounded by `at_most` as well.
    pub async fn inquiry(
        &self,
        cx: &Cx,
        device: &Path,
        page: Option<u8>,
        at_most: Duration,
    ) -> Result<Vec<u8>> {
        let cx = cx.at_most(at_most);
        cx.within("waiting for an INQUIRY", self.host.inquiry(device, page, cx.deadline())).await
    }

    /// See [`Host::flush`].
    pub async fn flush(&self, cx: &Cx, device: &Path) -> Result<()> {
        let effect = Self::effect("flush", device.display().to_string());
        cx.effect(effect, cx.within("flushing a device", self.host.flush(device, cx.deadline()))).await
    }

    /// See [`Host::read_block`]; bounded by `at_most` as well.
    pub async fn read_block(
        &self,
        cx: &Cx,
        device: &Path,
        offset: u64,
        length: usize,
        at_most: Duration,
    ) -> Result<Vec<u8>> {
        let cx = cx.at_most(at_most);
        cx.within("reading from a device", self.host.read_block(device, offset, length, cx.deadline())).await
    }

    /// See [`Host::open_count`].
    pub async fn open_count(&self, cx: &Cx, device: DeviceNumber) -> Result<Option<u32>> {
        cx.within("asking for openers", self.host.open_count(device, cx.deadline())).await
    }

    /// See [`Host::counters`].
    pub fn counters(&self) -> Counters {
        self.host.counters()
    }

    /// Looks until `look` answers: at once, after every kernel event, and every `pause` where the kernel sends none; the
    /// longer it takes the more seldom, so that a wait costs little and is over at most an eighth later than it could be.
    /// Ends with the context's deadline.
    ///
    /// # Errors
    /// `Timeout` saying what was waited for, or whatever `look` fails with.
    pub async fn wait_for<T, F, Look>(
        &self,
        cx: &Cx,
        what: &'static str,
        pause: Duration,
        mut look: F,
    ) -> Result<T>
    where
        // Not `AsyncFnMut`: what waits inside a boxed trait method must be provably `Send`.
        F: FnMut() -> Look,
        Look: Future<Output = Result<Option<T>>>,
    {
        let mut events = self.uevents();
        let started = Instant::now();
        let waiting = async {
            loop {
                if let Some(found) = look().await? {
                    return Ok(found);
                }
                let pause = pause.max((started.elapsed() / 8).min(PAUSE_MAX));
                // An event, or a missed one, or the pause: in every case the state itself is looked at again.
                let _ = tokio::time::timeout(pause, events.next()).await;
                // One look serves for all that has happened by now.
                events.catch_up();
            }
        };
        cx.within(what, waiting).await
    }
}
