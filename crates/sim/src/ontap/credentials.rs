//! /protocols/san/iscsi/credentials: what initiators have to prove when they log in.

use serde_json::json;

use super::answer::{Reply, Row};
use super::call::Call;
use super::error::{ApiError, CREDENTIAL_DUPLICATE, FIELD_MISSING};
use super::model::State;
use super::volume_create::svm_of;
use crate::target::{Access, ChapUser};

/// Longest user name and longest secret.
const USER_MAX: usize = 128;
const SECRET_MAX: usize = 512;
/// The entry for every initiator that has none of its own.
const DEFAULT: &str = "default";

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credential {
    method: &'static str,
    inbound: Option<ChapUser>,
    outbound: Option<ChapUser>,
}

/// GET /protocols/san/iscsi/credentials[/{svm.uuid}/{initiator}].
#[expect(clippy::unnecessary_wraps, reason = "one signature for all collections")]
pub(crate) fn rows(state: &State, call: &Call) -> Result<Vec<Row>, ApiError> {
    let rows = state.credentials.iter().map(|((svm, initiator), it)| {
        let svm = &state.svms[*svm];
        let user = |known: &Option<ChapUser>| known.as_ref().map(|it| json!({ "user": it.user }));
        // A secret is never shown.
        let value = json!({
            "svm": { "name": svm.name, "uuid": svm.uuid },
            "initiator": initiator,
            "authentication_type": it.method,
            "chap": { "inbound": user(&it.inbound), "outbound": user(&it.outbound) },
        });
        Row::new("/protocols/san/iscsi/credentials", vec![svm.uuid.to_string(), initiator.clone()], value)
    });
    let asked =
        |row: &Row| call.keys.iter().zip(&row.keys).all(|(asked, own)| asked.eq_ignore_ascii_case(own));
    Ok(rows.filter(asked).collect())
}

/// POST.
pub(crate) fn create(state: &mut State, call: &Call) -> Result<Reply, ApiError> {
    let svm = svm_of(state, call)?;
    let missing = || FIELD_MISSING.error("field \"initiator\" is required").target("initiator");
    let initiator = call.body.text("initiator")?.ok_or_else(missing)?.to_ascii_lowercase();
    if state.credentials.contains_key(&(svm, initiator.clone())) {
        return Err(CREDENTIAL_DUPLICATE.error(format!("\"{initiator}\" has a credential already")));
    }
    let nothing = Credential { method: "none", inbound: None, outbound: None };
    let credential = changed(&nothing, call)?;
    let path = format!("/api/protocols/san/iscsi/credentials/{}/{initiator}", state.svms[svm].uuid);
    state.credentials.insert((svm, initiator), credential);
    Ok(Reply::Created(vec![path]))
}

/// PATCH.
pub(crate) fn modify(state: &mut State, call: &Call) -> Result<Reply, ApiError> {
    let key = find(state, call)?;
    let Some(before) = state.credentials.get(&key) else { return Err(ApiError::no_entry()) };
    let after = changed(before, call)?;
    state.credentials.insert(key, after);
    Ok(Reply::Done)
}

/// DELETE.
pub(crate) fn delete(state: &mut State, call: &Call) -> Result<Reply, ApiError> {
    let key = find(state, call)?;
    state.credentials.remove(&key);
    Ok(Reply::Done)
}

fn find(state: &State, call: &Call) -> Result<(usize, String), ApiError> {
    let (svm, initiator) = (call.keys.first(), call.keys.get(1));
    let found = state.credentials.keys().find(|(at, name)| {
        svm == Some(&state.svms[*at].uuid.to_string())
            && initiator.is_some_and(|it| it.eq_ignore_ascii_case(name))
    });
    found.cloned().ok_or_else(ApiError::no_entry)
}

fn changed(before: &Credential, call: &Call) -> Result<Credential, ApiError> {
    let body = &call.body;
    let known = |which: &str, before: &Option<ChapUser>| -> Result<Option<ChapUser>, ApiError> {
        let user = body.short_text(&format!("chap.{which}.user"), USER_MAX)?;
        let secret = body.short_text(&format!("chap.{which}.password"), SECRET_MAX)?;
        Ok(match (user, secret, before) {
            (None, None, before) => before.clone(),
            (Some(user), _, _) if user.is_empty() => None,
            (Some(user), Some(secret), _) => Some(ChapUser { user, secret }),
            (None, Some(secret), Some(before)) => Some(ChapUser { secret, ..before.clone() }),
            _ => return Err(FIELD_MISSING.error("a user and a password belong together").target("chap")),
        })
    };
    let method = body.word("authentication_type", &["chap", "none", "deny"])?.unwrap_or(before.method);
    let after = Credential {
        method,
        inbound: known("inbound", &before.inbound)?,
        outbound: known("outbound", &before.outbound)?,
    };
    if method == "chap" && after.inbound.is_none() {
        return Err(FIELD_MISSING.error("field \"chap.inbound.user\" is required").target("chap.inbound"));
    }
    Ok(after)
}

impl State {
    /// How an initiator may log in at an SVM.
    pub(crate) fn access(&self, svm: usize, initiator: &str) -> Access {
        let of = |name: &str| self.credentials.get(&(svm, name.to_owned()));
        let Some(it) = of(&initiator.to_ascii_lowercase()).or_else(|| of(DEFAULT)) else {
            return Access::Open;
        };
        match (it.method, &it.inbound) {
            ("none", _) => Access::Open,
            ("chap", Some(initiator)) => {
                Access::Chap { initiator: initiator.clone(), target: it.outbound.clone() }
            }
            _ => Access::Refused,
        }
    }

    /// The users of an initiator's entry: those it proves and those that are proved to it. `None`: it has no entry.
    pub(crate) fn credential_users(&self, initiator: &str) -> Option<(Option<String>, Option<String>)> {
        let found = self.credentials.iter().find(|((_, name), _)| name.eq_ignore_ascii_case(initiator));
        let user = |it: &Option<ChapUser>| it.as_ref().map(|it| it.user.clone());
        found.map(|(_, it)| (user(&it.inbound), user(&it.outbound)))
    }
}
