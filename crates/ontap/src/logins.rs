//! What the SVM asks a node for when it logs in: one entry per initiator.

use async_trait::async_trait;
use san_core::{Chap, ChapName, Cx, EffectState, Error, HostLogins, Initiator, Result};
use san_rest::Request;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::array::Ontap;
use crate::convert::inconsistent;
use crate::wire;

const COLLECTION: &str = "/api/protocols/san/iscsi/credentials";
const ITEM: &str = "/api/protocols/san/iscsi/credentials/{}/{}";

/// How an entry says what `chap` says.
fn settings(chap: &Chap) -> Value {
    let of = |it: &ChapName| json!({ "user": it.user, "password": it.secret.expose_secret() });
    let mut both = json!({ "inbound": of(&chap.initiator) });
    if let Some(target) = &chap.target {
        both["outbound"] = of(target);
    }
    json!({ "authentication_type": "chap", "chap": both })
}

impl Ontap {
    async fn entry(&self, cx: &Cx, initiator: &str) -> Result<Option<wire::Credential>> {
        let request = Request::get(COLLECTION, &[])
            .query("svm.uuid", &self.svm)
            .query("initiator", initiator)
            .query("fields", "svm.uuid,initiator,chap.outbound.user");
        let Some(found) = self.api.find_one::<wire::Credential>(cx, request).await? else { return Ok(None) };
        self.check_svm(&found.svm)?;
        if found.initiator.eq_ignore_ascii_case(initiator) {
            Ok(Some(found))
        } else {
            Err(inconsistent("the array answered about another initiator"))
        }
    }

    async fn settle_login(&self, cx: &Cx, initiator: &str, chap: Option<&Chap>) -> Result<()> {
        match (self.entry(cx, initiator).await?, chap) {
            (None, None) => Ok(()),
            (Some(_), None) => self.drop_login(cx, initiator).await,
            (None, Some(chap)) => self.make_login(cx, initiator, chap).await,
            // How a proof of the array alone is taken away is nowhere documented.
            (Some(found), Some(chap)) if chap.target.is_none() && found.proves_itself() => {
                self.drop_login(cx, initiator).await?;
                self.make_login(cx, initiator, chap).await
            }
            (Some(_), Some(chap)) => self.write_login(cx, initiator, chap).await,
        }
    }

    /// A secret cannot be read back, so an entry that is there is written anew: that changes nothing where it was right.
    async fn write_login(&self, cx: &Cx, initiator: &str, chap: &Chap) -> Result<()> {
        let request = Request::patch(ITEM, &[&self.svm, initiator]).json(&settings(chap))?;
        self.api.insist(cx, request).await
    }

    async fn make_login(&self, cx: &Cx, initiator: &str, chap: &Chap) -> Result<()> {
        let mut body = settings(chap);
        body["svm"] = json!({ "uuid": self.svm });
        body["initiator"] = json!(initiator);
        let request = Request::post(COLLECTION, &[]).json(&body)?;
        match self.api.change::<Value>(cx, &request).await {
            Ok(_) => Ok(()),
            // Whoever made it, and whether or not that was this request: it is ours to write.
            Err(error) => match self.entry(cx, initiator).await {
                Ok(Some(_)) => self.write_login(cx, initiator, chap).await,
                _ => Err(error),
            },
        }
    }

    async fn drop_login(&self, cx: &Cx, initiator: &str) -> Result<()> {
        let request = Request::delete(ITEM, &[&self.svm, initiator]);
        let gone = || async { Ok(self.entry(cx, initiator).await?.is_none().then_some(())) };
        self.api.settle::<Value, _, _>(cx, &request, gone).await.map(drop)
    }
}

#[async_trait]
impl HostLogins for Ontap {
    async fn ensure_login(&self, cx: &Cx, initiators: &[Initiator], chap: Option<&Chap>) -> Result<()> {
        self.prove(cx).await.map_err(|error| error.with_effect(EffectState::None))?;
        for it in initiators {
            if let Initiator::Iscsi(iqn) = it {
                let outcome = self.settle_login(cx, iqn.as_str(), chap).await;
                outcome.map_err(|error| {
                    Error::wrap(error, "cannot tell the array how this node proves itself").on(iqn)
                })?;
            }
        }
        Ok(())
    }
}
