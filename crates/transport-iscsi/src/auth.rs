//! What a node record says of CHAP. iscsiadm takes secrets only as arguments, where every user of the node can read them,
//! so they are written into the record's file, under the lock that open-iscsi itself takes.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use san_core::{Chap, Cx, Error, ErrorKind, HostLogin, Result};
use san_host::Guard;
use secrecy::{ExposeSecret, SecretString};

use crate::exit::LEFT_BEHIND;

/// What logins are to prove, from wherever it is kept. Asked before every login, so that a new secret is used at once.
#[async_trait]
pub trait LoginSource: fmt::Debug + Send + Sync {
    /// What is to be proved now.
    async fn read(&self) -> Result<HostLogin>;
}

/// Held by whoever changes open-iscsi's database: the second name of a file.
pub(crate) const LOCK: &str = "/run/lock/iscsi/lock.write";
/// The file whose second name we make it. It tells a lock that an earlier process of ours left behind from all others.
const OURS: &str = "/run/lock/iscsi/sanbridge";
const OUR_WORD: &str = "held by sanbridge\n";
pub(crate) const LOCK_MAX: usize = 4096;
/// How often the lock is tried, and the first pause; others hold it for tens of milliseconds.
const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_millis(50);

const METHOD: &str = "node.session.auth.authmethod";
const USER: &str = "node.session.auth.username";
const SECRET: &str = "node.session.auth.password";
const USER_IN: &str = "node.session.auth.username_in";
const SECRET_IN: &str = "node.session.auth.password_in";

/// What the settings of a record have to be; `None`: there is none of that name.
type Wanted<'a> = [(&'static str, Option<&'a str>); 5];

/// What `login` makes of a record; nothing where it is none of our business.
fn wanted(login: &HostLogin) -> Option<Wanted<'_>> {
    let chap: Option<&Chap> = match login {
        HostLogin::AsItIs => return None,
        HostLogin::Open => None,
        HostLogin::Chap(chap) => Some(chap),
    };
    let own = chap.map(|it| &it.initiator);
    let target = chap.and_then(|it| it.target.as_ref());
    Some([
        (METHOD, Some(if chap.is_some() { "CHAP" } else { "None" })),
        (USER, own.map(|it| it.user.as_str())),
        (SECRET, own.map(|it| it.secret.expose_secret())),
        (USER_IN, target.map(|it| it.user.as_str())),
        (SECRET_IN, target.map(|it| it.secret.expose_secret())),
    ])
}

/// Whether a record's settings are as `login` wants them.
pub(crate) fn fits(found: &BTreeMap<String, String>, login: &HostLogin) -> bool {
    let Some(wanted) = wanted(login) else { return true };
    wanted.iter().all(|(name, value)| found.get(*name).map(String::as_str) == *value)
}

/// The record's text with other settings, which go before its last line.
fn rewritten(text: &str, wanted: &Wanted<'_>) -> SecretString {
    let name_of = |line: &str| line.split_once('=').map(|(name, _)| name.trim().to_owned());
    let is_kept = |line: &&str| !wanted.iter().any(|(name, _)| name_of(line).as_deref() == Some(*name));
    let (ends, lines): (Vec<&str>, Vec<&str>) =
        text.lines().filter(is_kept).partition(|it| it.starts_with("# END RECORD"));
    let added = wanted.iter().filter_map(|(name, value)| Some(format!("{name} = {}", (*value)?)));
    let whole: Vec<String> = lines
        .into_iter()
        .map(str::to_owned)
        .chain(added)
        .chain(ends.into_iter().map(str::to_owned))
        .collect();
    (whole.join("\n") + "\n").into()
}

/// Makes the record in `file` say what `login` wants. `read` is the file as it is while nobody else changes it.
pub(crate) async fn write(guard: &Guard, cx: &Cx, file: &Path, max: usize, login: &HostLogin) -> Result<()> {
    let Some(wanted) = wanted(login) else { return Ok(()) };
    lock(guard, cx).await?;
    let written = async {
        let Some(text) = guard.read(cx, file, max).await? else {
            return Err(
                Error::new(ErrorKind::NotFound, "the record has just been removed").on(file.display())
            );
        };
        let text = SecretString::from(String::from_utf8_lossy(&text).into_owned());
        let text = rewritten(text.expose_secret(), &wanted);
        guard.put_secret(cx, file, &staged(file), &text).await
    };
    let written = written.await;
    // What is left behind otherwise, the next login takes away.
    let unlocked = guard.remove_file(cx, Path::new(LOCK)).await;
    written.and(unlocked.map(drop))
}

/// Where a record is written before it takes its place: beside the folder of all records, in which open-iscsi takes every
/// file for one.
fn staged(file: &Path) -> PathBuf {
    let records = file.ancestors().find(|it| it.file_name().is_some_and(|name| name == "nodes"));
    records.unwrap_or(file).with_file_name(".sanbridge-record")
}

/// Takes the lock away that an earlier process of ours was killed with. One process per node changes records for us, one
/// record at a time: while nobody here holds it, nobody of ours does.
pub(crate) async fn release_left_behind(guard: &Guard, cx: &Cx) -> Result<()> {
    match guard.read(cx, Path::new(LOCK), LOCK_MAX).await? {
        Some(text) if text == OUR_WORD.as_bytes() => guard.remove_file(cx, Path::new(LOCK)).await.map(drop),
        _ => Ok(()),
    }
}

async fn lock(guard: &Guard, cx: &Cx) -> Result<()> {
    guard.put_file(cx, Path::new(OURS), OUR_WORD).await?;
    let mut pause = PAUSE;
    for _ in 0..TRIES {
        if guard.link_file(cx, Path::new(OURS), Path::new(LOCK)).await? {
            return Ok(());
        }
        // The lock is a file that other processes poll: there is no event to wait for.
        let wait = async {
            tokio::time::sleep(pause).await;
            Ok(())
        };
        cx.within("waiting for open-iscsi's database", wait).await?;
        pause *= 2;
    }
    Err(Error::new(ErrorKind::Busy, "the record database of open-iscsi is locked").with_remedy(LEFT_BEHIND))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::parse;
    use san_core::ChapName;

    fn chap(target: Option<&str>) -> HostLogin {
        let name = |user: &str, secret: &str| ChapName { user: user.into(), secret: secret.into() };
        let target = target.map(|it| name("array", it));
        HostLogin::Chap(Chap { initiator: name("node", "one = secret"), target })
    }

    /// The record is as open-iscsi 2.1.11 (Debian 13) wrote it after a discovery.
    #[test]
    fn a_record_gets_and_loses_what_logins_prove_and_keeps_all_else() {
        let before = include_str!("../tests/fixtures/node-record-2.1.11.txt");
        let write = |text: &str, login: &HostLogin| {
            rewritten(text, &wanted(login).unwrap()).expose_secret().to_owned()
        };
        let mutual = write(before, &chap(Some("another secret")));
        assert!(
            mutual.ends_with("node.session.auth.password_in = another secret\n# END RECORD\n"),
            "{mutual}"
        );
        assert!(fits(&parse(mutual.as_bytes()), &chap(Some("another secret"))));
        assert!(!fits(&parse(mutual.as_bytes()), &chap(None)));
        let one_way = write(&mutual, &chap(None));
        assert!(fits(&parse(one_way.as_bytes()), &chap(None)));
        assert!(!one_way.contains("another secret") && !one_way.contains("username_in"));
        let open = write(&one_way, &HostLogin::Open);
        assert!(fits(&parse(open.as_bytes()), &HostLogin::Open));
        let others = |text: &str| {
            let mut all = parse(text.as_bytes());
            all.retain(|name, _| !name.starts_with("node.session.auth."));
            all
        };
        assert_eq!(others(&open), others(before));
        assert!(fits(&parse(mutual.as_bytes()), &HostLogin::AsItIs));
    }

    #[test]
    fn what_is_staged_lies_beside_the_records() {
        for (record, staged_at) in [
            ("/var/lib/iscsi/nodes/iqn.x/10.0.0.1,3260,1028/default", "/var/lib/iscsi/.sanbridge-record"),
            ("/etc/iscsi/nodes/iqn.x/10.0.0.1,3260", "/etc/iscsi/.sanbridge-record"),
        ] {
            assert_eq!(staged(Path::new(record)), Path::new(staged_at));
        }
    }
}
