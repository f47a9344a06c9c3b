//! CHAP: the secret reaches open-iscsi without having been in any program's arguments or environment.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use san_sim::target::{Access, ChapUser};

use super::bench::{Bench, PATIENCE};
use crate::guest::array::TestArray;
use crate::guest::network::Network;
use crate::guest::secrets::Watch;
use crate::guest::{Check, Failure, Shown, daemons, ledger, scratch, tools};

/// The network that no other check uses: a login there disturbs nobody.
const NETWORK: u8 = 3;
/// The tag of its portal group. A record made with it is a file in a folder, as the product's are.
const GROUP: u16 = 1028;
const USER: &str = "node1";
const SECRET: &str = "Zq7-never-in-an-argument";
/// Exit code of `iscsiadm` where the target refuses the login.
const REFUSED: i32 = 24;
/// Where records lie: Debian 13, and before.
const RECORDS: [&str; 2] = ["/var/lib/iscsi/nodes", "/etc/iscsi/nodes"];
/// open-iscsi's lock on its records: it is held by whoever has made the second name of the file.
const LOCK: [&str; 2] = ["/run/lock/iscsi/lock", "/run/lock/iscsi/lock.write"];

pub(super) fn checks() -> Vec<Check<Bench>> {
    vec![Check {
        name: "a_chap_secret_is_in_no_programs_arguments",
        scenarios: &["27"],
        done: "login to a target that asks for CHAP: without a secret, with a wrong and the right one written into the node record under open-iscsi's lock, and with the right one as an argument, every program's arguments and environment being watched",
        run: |bench| Box::pin(chap(bench)),
        bound: Duration::from_secs(60),
    }]
}

/// The target with its portal, for `iscsiadm`.
struct Place {
    target: String,
    portal: String,
}

impl Place {
    async fn iscsiadm(&self, arguments: &[&str]) -> Result<tools::Ran, Failure> {
        let head = ["-m", "node", "-T", &self.target, "-p", &self.portal];
        tools::output("iscsiadm", &[&head[..], arguments].concat(), PATIENCE).await
    }

    /// Every program that is started by it is written down with its arguments and its environment.
    async fn traced(&self, arguments: &[&str], log: &Path) -> Result<tools::Ran, Failure> {
        let log = log.to_string_lossy();
        let head = ["-f", "-v", "-s", "65536", "-e", "trace=execve", "-o", &log, "/usr/sbin/iscsiadm"];
        let place = ["-m", "node", "-T", &self.target, "-p", &self.portal];
        tools::output("strace", &[&head[..], &place, arguments].concat(), PATIENCE).await
    }

    /// Its record.
    fn record(&self) -> Result<PathBuf, Failure> {
        let folders = RECORDS.iter().map(|it| Path::new(it).join(&self.target));
        let found = folders.flat_map(|folder| {
            let portals = ledger::names(&folder).into_iter();
            portals.map(move |portal| folder.join(portal).join("default"))
        });
        found.last().ok_or_else(|| Failure("open-iscsi has no record of the portal".to_owned()))
    }
}

/// Holds open-iscsi's lock while it does `work`.
async fn locked<T>(work: impl AsyncFnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    if let Some(folder) = Path::new(LOCK[0]).parent() {
        fs::create_dir_all(folder)?;
    }
    OpenOptions::new().create(true).append(true).open(LOCK[0])?;
    daemons::until("open-iscsi's lock stays held", || match fs::hard_link(LOCK[0], LOCK[1]) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error.into()),
    })
    .await?;
    let result = work().await;
    fs::remove_file(LOCK[1])?;
    result
}

/// Writes the secret into a record: complete in a file of its own first, which only then takes the record's place.
fn write_secret(record: &Path, secret: &str) -> Result<(), Failure> {
    let text = fs::read_to_string(record)?;
    let settings = [("authmethod", "CHAP"), ("username", USER), ("password", secret)];
    let names = settings.map(|(name, _)| format!("node.session.auth.{name} "));
    let kept = text.lines().filter(|line| !names.iter().any(|it| line.starts_with(it.as_str())));
    let (mut before, mut after): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    for line in kept {
        if line.starts_with("# END RECORD") { after.push(line) } else { before.push(line) }
    }
    let added = settings.map(|(name, value)| format!("node.session.auth.{name} = {value}"));
    let lines = before.into_iter().chain(added.iter().map(String::as_str)).chain(after);
    let text = lines.collect::<Vec<&str>>().join("\n") + "\n";
    // Not in the record's folder: open-iscsi takes every file there for a record.
    let folder = record.ancestors().nth(3).ok_or_else(|| Failure("a record at an odd place".to_owned()))?;
    let temporary = folder.with_file_name(".sanbridge-record");
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(fs::rename(&temporary, record)?)
}

async fn chap(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let address: SocketAddr = Network::portal(NETWORK);
    let array = Arc::new(TestArray::new("chap", vec![address], scratch::mount().await?));
    bench.plane.add(array.clone());
    let initiator = ChapUser { user: USER.to_owned(), secret: SECRET.to_owned() };
    bench.plane.plane().set_access(&bench.node.initiator, Access::Chap { initiator, target: None });
    bench.plane.sync().await?;
    let place = Place { target: array.target(), portal: format!("{address},{GROUP}") };
    let result = attempts(&place).await;
    place.iscsiadm(&["--logout"]).await?;
    place.iscsiadm(&["-o", "delete"]).await?;
    bench.plane.plane().set_access(&bench.node.initiator, Access::Open);
    bench.plane.sync().await?;
    result
}

async fn attempts(place: &Place) -> Result<Shown, Failure> {
    let log = tempfile::NamedTempFile::new()?;
    place.iscsiadm(&["-o", "new"]).await?.success()?;
    place
        .iscsiadm(&["-o", "update", "-n", "node.session.initial_login_retry_max", "-v", "1"])
        .await?
        .success()?;
    require(&place.iscsiadm(&["--login"]).await?, REFUSED, "without a secret")?;

    let watch = Watch::start(&[SECRET]);
    let record = place.record()?;
    locked(async || write_secret(&record, "this-one-is-wrong")).await?;
    require(&place.iscsiadm(&["--login"]).await?, REFUSED, "with a wrong secret")?;
    // Whoever changes records meanwhile waits for us, and what we write is not lost by it.
    let update = ["-o", "update", "-n", "node.session.timeo.replacement_timeout", "-v", "7"];
    let waiting = locked(async || {
        let other = tokio::time::timeout(Duration::from_secs(2), place.iscsiadm(&update)).await;
        write_secret(&record, SECRET)?;
        Ok(other.is_err())
    })
    .await?;
    if !waiting {
        return Err(Failure("iscsiadm changed a record although its lock was held".to_owned()));
    }
    place.iscsiadm(&update).await?.success()?;
    require(&place.traced(&["--login"], log.path()).await?, 0, "with the right secret")?;
    let (looks, seen) = watch.end().await?;
    let traced = fs::read_to_string(log.path())?;
    if !seen.is_empty() || traced.contains(SECRET) || !traced.contains("execve") {
        return Err(Failure(format!("the secret was seen: {seen:?}; {traced}")));
    }
    let mode = fs::metadata(&record)?.permissions().mode() & 0o777;
    let shown = place.iscsiadm(&["-o", "show"]).await?.success()?;
    if mode != 0o600 || shown.contains(SECRET) {
        return Err(Failure(format!("the record has mode {mode:o} and is shown as {shown}")));
    }

    // The other way round: what watches does see a secret that is an argument.
    let watch = Watch::start(&[SECRET]);
    let update = ["-o", "update", "-n", "node.session.auth.password", "-v", SECRET];
    place.traced(&update, log.path()).await?.success()?;
    let (_, seen) = watch.end().await?;
    if seen.is_empty() || !fs::read_to_string(log.path())?.contains(SECRET) {
        return Err(Failure("a secret that is an argument is not seen: this proves nothing".to_owned()));
    }
    Ok(Shown::held(format!(
        "no secret and a wrong one are refused (exit {REFUSED}); written into the record under open-iscsi's lock, beside which iscsiadm waits, the right one logs in; {looks} looks at every process and a trace of every program saw it nowhere, and both see one that is passed as an argument"
    )))
}

fn require(ran: &tools::Ran, code: i32, what: &str) -> Result<(), Failure> {
    if ran.code == Some(code) {
        return Ok(());
    }
    Err(Failure(format!(
        "{what}: {} ended with {:?}: {} {}",
        ran.line,
        ran.code,
        ran.stdout.trim(),
        ran.stderr.trim()
    )))
}
