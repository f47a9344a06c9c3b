//! [`System`]: the real operating system behind the trait [`Host`].

use std::collections::HashMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use san_core::{Deadline, DeviceNumber, EffectState, Error, ErrorKind, Result};
use secrecy::SecretString;
use tokio::sync::Semaphore;
use tokio::time::timeout_at;

use crate::counts::{Counts, tick};
use crate::errno::late;
use crate::files::{self, Root};
use crate::host::{Attr, Counters, Host, Output, Probe, SocketAddress, Stream, Tool, Uevents};
use crate::job::{Answer, Job};
use crate::pool::{Pool, PoolConfig};
use crate::uevent::Events;
use crate::{link, net, tool};

/// How long the kernel waits for a device's answer to one INQUIRY; a healthy one answers in milliseconds.
const INQUIRY_PATIENCE: Duration = Duration::from_secs(3);
/// How many direct calls run at once. One that hangs keeps its place, so that no more than these threads can be lost.
const DIRECT_AT_MOST: usize = 64;

/// How a [`System`] is set up.
#[derive(Debug, Clone)]
pub struct SystemConfig {
    /// The program of the helper processes, absolute and not below [`SystemConfig::root`]. The first thing it does has to
    /// be [`crate::helper_main`]. `/proc/self/exe` is the
    /// running program itself, even when an upgrade has replaced its file.
    pub helper: PathBuf,
    /// Its arguments.
    pub helper_arguments: Vec<OsString>,
    /// How many helpers are started in advance and kept.
    pub helpers: usize,
    /// How many may work at once; those beyond [`SystemConfig::helpers`] end after their job.
    pub helpers_at_most: usize,
    /// With so many helpers stuck in the kernel no further job is taken.
    pub abandoned_at_most: usize,
    /// Where tools are looked for, in this order, below [`SystemConfig::root`].
    pub tool_folders: Vec<PathBuf>,
    /// The folder that stands for `/`.
    pub root: PathBuf,
}

impl SystemConfig {
    /// The production settings: this node's root, four helpers, at most 32 at work and 32 abandoned.
    pub fn new(
        helper: impl Into<PathBuf>,
        helper_arguments: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Self {
        Self {
            helper: helper.into(),
            helper_arguments: helper_arguments.into_iter().map(Into::into).collect(),
            helpers: 4,
            helpers_at_most: 32,
            abandoned_at_most: 32,
            tool_folders: ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from).into(),
            root: "/".into(),
        }
    }
}

/// The real operating system. Needs a tokio runtime with time and input/output, which it must not outlive.
///
/// A runtime waits for its blocking threads when it is dropped: a program ends it with `shutdown_timeout`, so that a
/// thread that hangs in the kernel cannot keep it.
#[derive(Debug)]
pub struct System {
    root: Root,
    tool_folders: Vec<PathBuf>,
    tools: Mutex<HashMap<Tool, PathBuf>>,
    pool: Pool,
    events: Events,
    direct: Arc<Semaphore>,
    links: Arc<Mutex<()>>,
    counts: Arc<Counts>,
}

impl System {
    /// Starts the helpers and begins to listen for kernel events.
    ///
    /// # Errors
    /// `InvalidInput` where a path of the configuration is not absolute, `Unavailable` where no helper can be started.
    pub fn start(config: SystemConfig) -> Result<Arc<Self>> {
        for path in [&config.helper, &config.root].into_iter().chain(&config.tool_folders) {
            if !path.is_absolute() {
                return Err(Error::new(ErrorKind::InvalidInput, "not an absolute path").on(path.display()));
            }
        }
        let root = Root::new(config.root);
        let tool_folders = config.tool_folders.iter().map(|it| root.at(it)).collect::<Result<_>>()?;
        let counts = Arc::new(Counts::default());
        let pool = PoolConfig {
            program: config.helper,
            arguments: config.helper_arguments,
            prestarted: config.helpers,
            at_most: config.helpers_at_most,
            abandoned_at_most: config.abandoned_at_most,
        };
        Ok(Arc::new(Self {
            root,
            tool_folders,
            tools: Mutex::default(),
            pool: Pool::start(pool, Arc::clone(&counts))?,
            events: Events::start(),
            direct: Arc::new(Semaphore::new(DIRECT_AT_MOST)),
            links: Arc::default(),
            counts,
        }))
    }

    /// Runs a call that does not wait for a device on a thread that may block.
    async fn direct<T: Send + 'static>(
        &self,
        deadline: Deadline,
        call: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let places = Arc::clone(&self.direct).acquire_owned();
        let place = match timeout_at(deadline.instant(), places).await {
            Ok(Ok(place)) => place,
            Ok(Err(error)) => return Err(Error::new(ErrorKind::Cancelled, "closed").caused_by(error)),
            Err(_) => return Err(late(format!("all {DIRECT_AT_MOST} threads for direct calls are in use"))),
        };
        let running = tokio::task::spawn_blocking(move || {
            let _place = place;
            call()
        });
        match timeout_at(deadline.instant(), running).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => {
                Err(Error::new(ErrorKind::Internal, "a direct call ended early").caused_by(error))
            }
            Err(_) => Err(Error::new(ErrorKind::Timeout, "a direct call did not end by the deadline")),
        }
    }

    /// A direct call that only looks: late or not, nothing has happened.
    async fn look<T: Send + 'static>(
        &self,
        deadline: Deadline,
        call: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.direct(deadline, call).await.map_err(|it| it.with_effect(EffectState::None))
    }

    /// A job that answers with bytes, or with none.
    async fn job(&self, job: Job, deadline: Deadline) -> Result<Vec<u8>> {
        match self.pool.run(job.clone(), deadline).await? {
            (Answer::Done, data) => Ok(data),
            (Answer::Failed(failure), _) => Err(failure.into_error(&job)),
            (Answer::OpenCount(_), _) => Err(mismatch(&job)),
        }
    }

    fn tool(&self, tool: Tool) -> Result<PathBuf> {
        let mut tools = self.tools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = tools.get(&tool) {
            return Ok(path.clone());
        }
        // Only what was found is remembered: it may be installed later.
        let path = tool::find(tool, &self.tool_folders)?;
        tools.insert(tool, path.clone());
        Ok(path)
    }
}

fn mismatch(job: &Job) -> Error {
    Error::new(ErrorKind::Protocol, "the helper process answered something else").on(job.key())
}

#[async_trait]
impl Host for System {
    async fn attr(&self, device: &Path, attribute: &str, deadline: Deadline) -> Result<Attr> {
        let (device, attribute) = (self.root.attribute(device)?, attribute.to_owned());
        self.look(deadline, move || files::attr(&device, &attribute)).await
    }

    async fn list(&self, directory: &Path, deadline: Deadline) -> Result<Option<Vec<String>>> {
        let directory = self.root.at(directory)?;
        self.look(deadline, move || files::list(&directory)).await
    }

    async fn read_link(&self, path: &Path, deadline: Deadline) -> Result<Option<PathBuf>> {
        let path = self.root.at(path)?;
        self.look(deadline, move || files::read_link(&path)).await
    }

    async fn read(&self, path: &Path, max: usize, deadline: Deadline) -> Result<Option<Vec<u8>>> {
        let path = self.root.at(path)?;
        self.look(deadline, move || files::read(&path, max)).await
    }

    async fn write_attr(&self, path: &Path, value: &str, deadline: Deadline) -> Result<()> {
        let job = Job::WriteAttr { path: self.root.attribute(path)?, value: value.to_owned() };
        tick(&self.counts.writes);
        self.job(job, deadline).await.map(drop)
    }

    async fn make_link(&self, link: &Path, target: &Path, deadline: Deadline) -> Result<()> {
        let (link, target, turn) = (self.root.at(link)?, target.to_owned(), Arc::clone(&self.links));
        self.direct(deadline, move || link::make(&link, &target, &turn)).await
    }

    async fn remove_link(&self, link: &Path, deadline: Deadline) -> Result<bool> {
        let link = self.root.at(link)?;
        self.direct(deadline, move || link::remove(&link)).await
    }

    async fn put_file(&self, path: &Path, text: &str, deadline: Deadline) -> Result<()> {
        let (path, text, turn) = (self.root.at(path)?, text.to_owned(), Arc::clone(&self.links));
        self.direct(deadline, move || link::put_file(&path, &text, &turn)).await
    }

    async fn put_secret(
        &self,
        path: &Path,
        staged: &Path,
        secret: &SecretString,
        deadline: Deadline,
    ) -> Result<()> {
        let (path, staged) = (self.root.at(path)?, self.root.at(staged)?);
        let (secret, turn) = (secret.clone(), Arc::clone(&self.links));
        self.direct(deadline, move || link::put_secret(&path, &staged, &secret, &turn)).await
    }

    async fn link_file(&self, file: &Path, name: &Path, deadline: Deadline) -> Result<bool> {
        let (file, name) = (self.root.at(file)?, self.root.at(name)?);
        self.direct(deadline, move || link::link_file(&file, &name)).await
    }

    async fn remove_file(&self, path: &Path, deadline: Deadline) -> Result<bool> {
        let path = self.root.at(path)?;
        self.direct(deadline, move || link::remove_file(&path)).await
    }

    async fn run(&self, tool: Tool, arguments: &[String], deadline: Deadline) -> Result<Output> {
        let program = self.tool(tool)?;
        tick(&self.counts.processes);
        tool::run(tool, &program, arguments, deadline).await
    }

    async fn connect(&self, address: &SocketAddress, deadline: Deadline) -> Result<Box<dyn Stream>> {
        tick(&self.counts.connections);
        let (root, address) = (self.root.clone(), address.clone());
        let stream = self.look(deadline, move || net::connect_unix(&root, &address, deadline)).await?;
        let unusable = |error| {
            Error::new(ErrorKind::Internal, "cannot use the connection")
                .with_effect(EffectState::None)
                .caused_by(error)
        };
        stream.set_nonblocking(true).map_err(unusable)?;
        Ok(Box::new(tokio::net::UnixStream::from_std(stream).map_err(unusable)?))
    }

    async fn probe(&self, address: SocketAddr, deadline: Deadline) -> Result<Probe> {
        net::probe(address, deadline).await
    }

    fn uevents(&self) -> Uevents {
        self.events.subscribe()
    }

    async fn inquiry(&self, device: &Path, page: Option<u8>, deadline: Deadline) -> Result<Vec<u8>> {
        let patience = deadline.remaining().min(INQUIRY_PATIENCE).as_millis();
        // Zero would be the kernel's default of a minute.
        let timeout_ms = u32::try_from(patience).unwrap_or(u32::MAX).max(1);
        self.job(Job::Inquiry { device: self.root.at(device)?, page, timeout_ms }, deadline).await
    }

    async fn flush(&self, device: &Path, deadline: Deadline) -> Result<()> {
        self.job(Job::Flush { device: self.root.at(device)? }, deadline).await.map(drop)
    }

    async fn read_block(
        &self,
        device: &Path,
        offset: u64,
        length: usize,
        deadline: Deadline,
    ) -> Result<Vec<u8>> {
        self.job(Job::ReadBlock { device: self.root.at(device)?, offset, length }, deadline).await
    }

    async fn open_count(&self, device: DeviceNumber, deadline: Deadline) -> Result<Option<u32>> {
        let control = self.root.at(Path::new("/dev/mapper/control"))?;
        let job = Job::OpenCount { control, device };
        match self.pool.run(job.clone(), deadline).await? {
            (Answer::OpenCount(count), _) => Ok(count),
            (Answer::Failed(failure), _) => Err(failure.into_error(&job)),
            (Answer::Done, _) => Err(mismatch(&job)),
        }
    }

    fn counters(&self) -> Counters {
        self.counts.read(self.pool.abandoned())
    }
}
