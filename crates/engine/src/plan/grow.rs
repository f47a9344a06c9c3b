//! Grow: the array first, then the cluster's binding, then the device of this node.

use async_trait::async_trait;
use san_core::{ByteSize, Cx, Error, ErrorKind, Owner, Result, Volume};
use serde::{Deserialize, Serialize};

use super::{Direction, Flow, Outcome, Plan};
use crate::cluster::Binding;
use crate::record::{Attachment, AttachmentState};
use crate::san::San;

const RESIZE: usize = 0;
const BIND: usize = 1;
const DEVICE: usize = 2;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Grow {
    owner: Owner,
    /// What was asked for, then what the array made of it.
    size: ByteSize,
    bound: Option<Binding>,
}

impl Grow {
    pub(crate) fn new(owner: Owner, size: ByteSize) -> Self {
        Self { owner, size, bound: None }
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    fn bound(&self) -> Result<&Binding> {
        self.bound
            .as_ref()
            .ok_or_else(|| Error::new(ErrorKind::Internal, "the volume to grow was not looked up"))
    }
}

#[async_trait]
impl Plan for Grow {
    fn steps(&self) -> &'static [&'static str] {
        &["grow it on the array", "tell the cluster", "grow the device here"]
    }

    fn direction(&self) -> Direction {
        Direction::Forward
    }

    fn is_committed(&self, step: usize) -> bool {
        step > RESIZE
    }

    fn needs_lease(&self) -> bool {
        true
    }

    async fn prepare(&mut self, cx: &Cx, san: &San) -> Result<Option<Outcome>> {
        self.size = san.checked_size(self.size)?;
        let bound = san.bound_with_size(cx, &self.owner).await?;
        let now = bound.size.unwrap_or_default();
        if self.size < now {
            let message = format!("it is {now} now and cannot be made smaller ({})", self.size);
            return Err(Error::new(ErrorKind::InvalidInput, message).on(self.owner.object()));
        }
        self.bound = Some(bound);
        Ok(None)
    }

    async fn forward(&mut self, step: usize, cx: &Cx, san: &San) -> Result<Flow> {
        match step {
            RESIZE => {
                let volume: Volume = self.bound()?.to_volume();
                if volume.size < self.size {
                    self.size = san.array().resize(cx, &volume, self.size).await?;
                }
            }
            BIND => {
                san.rebind_size(cx, self.bound()?, Some(self.size)).await?;
            }
            DEVICE => {
                let id = &self.bound()?.id;
                match san.attachments().get(&self.owner).await? {
                    Some(record) if record.volume == *id && record.state == AttachmentState::Attached => {
                        let record = Attachment { size: self.size, ..record };
                        if let Some(expect) = record.expected() {
                            let routes = san.routes(cx, &record.ports).await?;
                            match san.devices().grow(cx, &expect, &routes).await {
                                // This node was started anew since: the next attach finds the new size.
                                Err(error) if error.kind() == ErrorKind::NotFound => {}
                                other => drop(other?),
                            }
                        }
                        san.attachments().put(cx, &record).await?;
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        Ok(Flow::Next)
    }

    fn outcome(&self, _san: &San) -> Outcome {
        Outcome::Grown { size: self.size }
    }
}
