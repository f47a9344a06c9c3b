//! Plays scenes on a host and writes down what is seen.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use san_core::{Deadline, Error};
use san_host::{Host, SocketAddress, Tool, Uevents};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};

use super::scene::{Act, Scene, Step, Until};
use super::scrub::Scrub;
use super::walk::{hex, value};
use super::{events, walk};

/// multipathd's name in the abstract name space.
const MULTIPATHD: &str = "/org/kernel/linux/storage/multipathd";
/// How long one step may take on a slow machine.
const STEP: Duration = Duration::from_secs(60);
/// How often something that is waited for is looked at.
const PAUSE: Duration = Duration::from_millis(40);
/// The same where the order matters.
const LOOK: Duration = Duration::from_millis(2);
/// So long without an event it is quiet.
const QUIET: Duration = Duration::from_millis(700);
/// How long a read may take: where no path is left it would take for ever.
const READ: Duration = Duration::from_millis(1500);

/// Why a scene could not be played, in words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble(pub String);

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Trouble {}

/// A host, and the array it is connected to.
#[async_trait]
pub trait Stage: Send + Sync {
    /// The host.
    fn host(&self) -> &dyn Host;

    /// Does something at the array; it is done when this returns.
    async fn act(&self, act: Act) -> Result<(), Trouble>;

    /// Makes multipathd forget which WWIDs had a map.
    async fn forget(&self) -> Result<(), Trouble>;

    /// Opens a device for reading, as another program would, until the returned value is dropped.
    async fn open(&self, device: &str) -> Result<Box<dyn Any + Send + Sync>, Trouble>;
}

/// Plays a scene and returns its transcript.
///
/// # Errors
/// Where a quiet step does not succeed or what is waited for does not come; the text says which.
pub async fn play(stage: &dyn Stage, scene: &Scene) -> Result<String, Trouble> {
    let mut player = Player {
        stage,
        lines: vec![format!("# {}", scene.about)],
        events: stage.host().uevents(),
        opened: Vec::new(),
    };
    for step in &scene.steps {
        player.step(step).await.map_err(|it| Trouble(format!("scene {}, {step:?}: {it}", scene.name)))?;
    }
    let mut scrub = Scrub::default();
    let mut text = String::new();
    for line in &player.lines {
        text.push_str(scrub.line(line).trim_end_matches('\n'));
        text.push('\n');
    }
    Ok(text)
}

struct Player<'a> {
    stage: &'a dyn Stage,
    lines: Vec<String>,
    events: Uevents,
    opened: Vec<Box<dyn Any + Send + Sync>>,
}

fn soon() -> Deadline {
    Deadline::after(STEP)
}

fn kind<T>(result: &Result<T, Error>) -> String {
    match result {
        Ok(_) => "done".to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
fn trouble(error: Error) -> Trouble {
    Trouble(error.to_string())
}

impl Player<'_> {
    fn head(&mut self, text: &str) {
        self.lines.push(String::new());
        self.lines.push(format!("$ {text}"));
    }

    fn text(&mut self, mark: &str, text: &str) {
        self.lines.extend(text.lines().map(|it| format!("{mark}{it}")));
    }

    async fn step(&mut self, step: &Step) -> Result<(), Trouble> {
        match step {
            Step::Array(act) => {
                self.head(&format!("array: {act:?}"));
                self.stage.act(*act).await
            }
            Step::Forget => {
                self.head("multipathd forgets");
                self.stage.forget().await
            }
            Step::Iscsiadm(arguments) => self.iscsiadm(arguments).await.map(drop),
            Step::Multipathd(command) => {
                let reply = self.multipathd(command).await?;
                self.head(&format!("multipathd: {command}"));
                self.text("| ", &reply);
                Ok(())
            }
            Step::Open(device) => {
                self.head(&format!("open {device}"));
                let opened = self.stage.open(device).await?;
                self.opened.push(opened);
                Ok(())
            }
            Step::Close => {
                self.head("close");
                self.opened.clear();
                Ok(())
            }
            Step::Events => {
                self.quiet().await?;
                let seen = self.seen().await;
                self.head("kernel events");
                self.lines.extend(events::lines(&seen));
                Ok(())
            }
            Step::Order(paths) => {
                let came = timeout(STEP, self.came(paths)).await;
                let came = came.map_err(|_| Trouble("not all of it comes".to_owned()))??;
                self.head("order of appearance");
                self.lines.extend(came);
                Ok(())
            }
            Step::Await(until) => self.wait(until).await,
            Step::Quietly(step) => self.quietly(step).await,
            Step::Write(path, value) => self.write(path, value).await.map(drop),
            Step::Read(device) => {
                let deadline = Deadline::after(READ);
                let read = self.stage.host().read_block(Path::new(device), 0, 4096, deadline).await;
                self.head(&format!("read {device}"));
                self.lines.push(kind(&read));
                Ok(())
            }
            Step::Inquiry(device, page) => {
                let answer = self.stage.host().inquiry(Path::new(device), *page, soon()).await;
                let page = page.map_or_else(|| "standard".to_owned(), |it| format!("page {it:02x}"));
                self.head(&format!("inquiry {device} {page}"));
                let line = answer.as_ref().map_or_else(|_| kind(&answer), |it| hex(it));
                self.lines.push(line);
                Ok(())
            }
            Step::Tree(_) | Step::File(_) | Step::Attribute(_) | Step::Names(_) | Step::Link(_) => {
                self.look(step).await
            }
        }
    }

    /// Fills in the number of a host's session: `{host0}`.
    async fn resolve(&self, path: &str) -> Result<String, Trouble> {
        let Some((before, rest)) = path.split_once('{') else { return Ok(path.to_owned()) };
        let Some((name, after)) = rest.split_once('}') else { return Ok(path.to_owned()) };
        let folder = format!("/sys/class/iscsi_host/{name}/device");
        let names = self.stage.host().list(Path::new(&folder), soon()).await.map_err(trouble)?;
        let names = names.unwrap_or_default();
        let number = names.iter().find_map(|it| it.strip_prefix("session"));
        let number = number.ok_or_else(|| Trouble(format!("{name} has no session")))?;
        Ok(format!("{before}{number}{after}"))
    }

    /// Steps that only look at files.
    async fn look(&mut self, step: &Step) -> Result<(), Trouble> {
        let host = self.stage.host();
        match step {
            Step::Tree(folder) => {
                let lines = walk::walk(host, &self.resolve(folder).await?, soon()).await.map_err(trouble)?;
                self.head(&format!("tree {folder}"));
                self.lines.extend(lines);
            }
            Step::File(path) => {
                let bytes = host.read(Path::new(path), 1 << 20, soon()).await.map_err(trouble)?;
                self.head(&format!("file {path}"));
                match bytes {
                    None => self.lines.push("absent".to_owned()),
                    Some(bytes) => {
                        let text = record(path, &String::from_utf8_lossy(&bytes));
                        self.text("| ", &text);
                    }
                }
            }
            Step::Attribute(path) => {
                let real = self.resolve(path).await?;
                let (folder, name) = real.rsplit_once('/').unwrap_or((&real, ""));
                let value = value(host, folder, name, soon()).await;
                self.lines.extend([String::new(), format!("$ attribute {path}"), value]);
            }
            Step::Names(folder) => {
                let names = host.list(Path::new(folder), soon()).await.map_err(trouble)?;
                self.head(&format!("names {folder}"));
                match names {
                    None => self.lines.push("absent".to_owned()),
                    Some(names) => self.lines.extend(names),
                }
            }
            Step::Link(path) => {
                let target = host.read_link(Path::new(path), soon()).await.map_err(trouble)?;
                self.head(&format!("link {path}"));
                let line = target.map_or_else(|| "absent".to_owned(), |it| it.display().to_string());
                self.lines.push(line);
            }
            _ => {}
        }
        Ok(())
    }

    /// A step without a trace, that has to succeed.
    async fn quietly(&mut self, step: &Step) -> Result<(), Trouble> {
        let before = self.lines.len();
        match step {
            Step::Iscsiadm(arguments) => {
                if self.iscsiadm(arguments).await? != Some(0) {
                    return Err(Trouble(self.lines.split_off(before).join("; ")));
                }
            }
            Step::Multipathd(command) => {
                let reply = self.multipathd(command).await?;
                if reply != "ok\n" {
                    return Err(Trouble(reply));
                }
            }
            Step::Write(path, value) => self.write(path, value).await?.map_err(trouble)?,
            Step::Events => {
                self.quiet().await?;
                self.seen().await;
            }
            other => Box::pin(self.step(other)).await?,
        }
        self.lines.truncate(before);
        Ok(())
    }

    async fn iscsiadm(&mut self, arguments: &[String]) -> Result<Option<i32>, Trouble> {
        let output = self.stage.host().run(Tool::Iscsiadm, arguments, soon()).await.map_err(trouble)?;
        self.head(&format!("iscsiadm {}", arguments.join(" ")));
        self.lines.push(output.code.map_or_else(|| "killed".to_owned(), |it| format!("exit {it}")));
        self.text("out| ", &String::from_utf8_lossy(&output.stdout));
        self.text("err| ", &String::from_utf8_lossy(&output.stderr));
        Ok(output.code)
    }

    async fn write(&mut self, path: &str, value: &str) -> Result<Result<(), Error>, Trouble> {
        let result = self.stage.host().write_attr(Path::new(path), value, soon()).await;
        self.head(&format!("write {path} {value:?}"));
        self.lines.push(kind(&result));
        Ok(result)
    }

    /// One command on a connection of its own. The frame is looked at strictly.
    async fn multipathd(&self, command: &str) -> Result<String, Trouble> {
        let address = SocketAddress::Abstract(MULTIPATHD.to_owned());
        let mut stream = self.stage.host().connect(&address, soon()).await.map_err(trouble)?;
        let broken = |error: std::io::Error| Trouble(format!("multipathd's connection: {error}"));
        let exchange = async {
            let length = u64::try_from(command.len() + 1).unwrap_or(u64::MAX);
            let frame = [&length.to_ne_bytes()[..], command.as_bytes(), &[0]].concat();
            stream.write_all(&frame).await.map_err(broken)?;
            stream.flush().await.map_err(broken)?;
            let mut length = [0; 8];
            stream.read_exact(&mut length).await.map_err(broken)?;
            let length = u64::from_ne_bytes(length);
            let mut bytes = Vec::new();
            (&mut stream).take(length).read_to_end(&mut bytes).await.map_err(broken)?;
            if bytes.pop() != Some(0) {
                return Err(Trouble(format!("a reply of {length} bytes does not end with a NUL")));
            }
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        timeout(STEP, exchange).await.map_err(|_| Trouble(format!("no reply to {command}")))?
    }

    /// The paths in the order in which they are there.
    async fn came(&self, paths: &[String]) -> Result<Vec<String>, Trouble> {
        let mut came: Vec<String> = Vec::new();
        while came.len() < paths.len() {
            let before = came.len();
            for path in paths {
                if !came.contains(path) && present(self.stage.host(), Path::new(path)).await? {
                    came.push(path.clone());
                }
            }
            if came.len() == before {
                sleep(LOOK).await;
            }
        }
        Ok(came)
    }

    async fn wait(&mut self, until: &Until) -> Result<(), Trouble> {
        let host = self.stage.host();
        let path = |path: &str| Path::new(path).to_owned();
        match until {
            Until::Quiet => self.quiet().await,
            Until::There(it) => bounded(async || present(host, &path(it)).await).await,
            Until::Gone(it) => bounded(async || Ok(!present(host, &path(it)).await?)).await,
            Until::File(it, part) => {
                let holds = async || {
                    let bytes =
                        host.read(&path(&self.resolve(it).await?), 1 << 20, soon()).await.map_err(trouble)?;
                    Ok(bytes.is_some_and(|it| String::from_utf8_lossy(&it).contains(part)))
                };
                bounded(holds).await
            }
            Until::Reply(command, parts) => {
                let holds = async || {
                    let reply = self.multipathd(command).await?;
                    Ok(parts.iter().all(|it| reply.contains(it)))
                };
                bounded(holds).await
            }
        }
    }

    /// Waits until no event came for a while and udev has nothing to do. Events are kept for the next look at them.
    async fn quiet(&mut self) -> Result<(), Trouble> {
        let host = self.stage.host();
        let mut watch = host.uevents();
        let mut last = String::new();
        let settled = async {
            loop {
                let came = timeout(QUIET, watch.next()).await;
                last = match came {
                    Ok(event) => format!("the last event was {event:?}"),
                    Err(_) if present(host, Path::new("/run/udev/queue")).await? => {
                        "udev has work".to_owned()
                    }
                    Err(_) => return Ok(()),
                };
            }
        };
        let ended = timeout(STEP, settled).await;
        ended.unwrap_or_else(|_| Err(Trouble(format!("it does not become quiet: {last}"))))
    }

    /// The events that came so far.
    async fn seen(&mut self) -> Vec<Arc<san_host::Uevent>> {
        let mut seen = Vec::new();
        while let Ok(Some(event)) = timeout(PAUSE, self.events.next()).await {
            seen.push(event);
        }
        seen
    }
}

async fn present(host: &dyn Host, path: &Path) -> Result<bool, Trouble> {
    let (folder, name) = (path.parent().unwrap_or(path), path.file_name().unwrap_or_default());
    let names = host.list(folder, soon()).await.map_err(trouble)?;
    Ok(names.is_some_and(|it| it.iter().any(|it| name.to_str() == Some(it))))
}

/// Looks again and again until it is so, within bounds.
async fn bounded<Look>(look: impl Fn() -> Look) -> Result<(), Trouble>
where
    Look: Future<Output = Result<bool, Trouble>>,
{
    let waiting = async {
        while !look().await? {
            sleep(PAUSE).await;
        }
        Ok(())
    };
    timeout(STEP, waiting).await.map_err(|_| Trouble("what is waited for does not come".to_owned()))?
}

/// udev's records hold their lines in no order, and these depend on how often udev has looked at the device: multipathd loads
/// the same table again where it learns a priority late.
const LOOKS: [&str; 5] = [
    "E:NVME_HOST_IFACE=",
    "E:SYSTEMD_WANTS=",
    "E:DM_ACTIVATION=",
    "E:DM_SUBSYSTEM_UDEV_FLAG0=",
    "E:MPATH_UNCHANGED=",
];

/// A file as a transcript shows it.
fn record(path: &str, text: &str) -> String {
    if !path.starts_with("/run/udev/data/") {
        return text.to_owned();
    }
    let lines = text.lines().filter(|it| !LOOKS.iter().any(|look| it.starts_with(look)));
    let mut lines: Vec<&str> = lines.map(|it| if it.starts_with("I:") { "I:~" } else { it }).collect();
    lines.sort_unstable();
    lines.join("\n")
}
