//! Waiting for a job. ONTAP offers no event for its end, so it is asked, less and less often, until the deadline.

use std::time::Duration;

use san_core::{Cx, EffectState, Error, ErrorKind, Result};
use san_rest::Request;

use crate::client::Api;
use crate::error::{code, of_failure};
use crate::wire::{Failure, Job};

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(2);

impl Api {
    /// Waits until the job ends.
    ///
    /// # Errors
    /// What made it fail, by its code. `Timeout` where it does not end in time, `Protocol` where it is gone: in both
    /// cases the effect is unknown.
    pub(crate) async fn wait_for(&self, cx: &Cx, uuid: &str) -> Result<()> {
        let request =
            Request::get("/api/cluster/jobs/{}", &[uuid]).query("fields", "state,code,message,error");
        let mut pause = FIRST;
        loop {
            // Whatever happens to the question, the job itself may go on.
            let job: Option<Job> = self
                .find(cx, &request, code::NO_JOB)
                .await
                .map_err(|error| error.with_effect(EffectState::Unknown))?;
            let Some(job) = job else {
                return Err(Error::new(ErrorKind::Protocol, "the array forgot the job it had accepted"));
            };
            match job.state.as_str() {
                "success" => return Ok(()),
                "queued" | "running" | "paused" => {}
                _ => return Err(failed(job)),
            }
            if cx.deadline().remaining() <= pause {
                return Err(Error::new(ErrorKind::Timeout, "the array's job has not ended in time")
                    .with_remedy(
                        "look at the array's jobs; the change is looked for before it is repeated",
                    ));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST);
        }
    }
}

fn failed(job: Job) -> Error {
    let failure = job.error.unwrap_or_else(|| Failure {
        message: job.message.unwrap_or_else(|| format!("the job ended as {}", job.state)),
        code: job.code.map(|it| it.to_string()),
        target: None,
    });
    of_failure(None, failure)
}
