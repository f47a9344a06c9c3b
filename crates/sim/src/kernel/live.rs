//! Arrays whose data plane is the kernel's: the plane follows before an answer leaves.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use san_core::Deadline;
use san_rest::{Wire, WireError};
use tokio::sync::watch;
use tokio::time::timeout_at;

use super::plane::KernelPlane;
use crate::ontap::OntapSim;
use crate::server::{Api, ApiState, Cut};
use crate::target::Target;

/// A plane with the arrays it shows and the initiators it shows them to.
#[derive(Debug)]
pub struct LivePlane {
    plane: KernelPlane,
    shown: Mutex<Shown>,
}

#[derive(Debug, Default)]
struct Shown {
    targets: Vec<Arc<dyn Target>>,
    initiators: Vec<String>,
}

impl LivePlane {
    /// A plane that shows nothing yet, to `initiators` (IQNs).
    pub fn new(plane: KernelPlane, initiators: Vec<String>) -> Arc<Self> {
        Arc::new(Self { plane, shown: Mutex::new(Shown { targets: Vec::new(), initiators }) })
    }

    /// The plane itself: access of initiators, clearing.
    pub fn plane(&self) -> &KernelPlane {
        &self.plane
    }

    /// Shows one more array from the next [`LivePlane::sync`] on.
    pub fn add(&self, target: Arc<dyn Target>) {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).targets.push(target);
    }

    /// Shows the arrays to one more initiator from the next [`LivePlane::sync`] on.
    pub fn admit(&self, initiator: &str) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if !shown.initiators.iter().any(|it| it == initiator) {
            shown.initiators.push(initiator.to_owned());
        }
    }

    /// Lets the kernel follow the arrays, on a thread that may block. It goes on to its end when this is dropped.
    ///
    /// # Errors
    /// Those of [`KernelPlane::sync`].
    pub async fn sync(self: &Arc<Self>) -> io::Result<()> {
        let this = Arc::clone(self);
        tokio::task::spawn_blocking(move || this.follow()).await.map_err(io::Error::other)?
    }

    fn follow(&self) -> io::Result<()> {
        let (targets, initiators) = {
            let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
            (shown.targets.clone(), shown.initiators.clone())
        };
        let targets: Vec<&dyn Target> = targets.iter().map(AsRef::as_ref).collect();
        self.plane.sync(&targets, &initiators)
    }
}

/// A simulated ONTAP array over a [`LivePlane`]: an answer leaves when the kernel shows what it says. Clones are the
/// same array. Where the plane fails to follow, the answer is lost and the log says why.
#[derive(Debug, Clone)]
pub struct LiveArray {
    array: OntapSim,
    plane: Arc<LivePlane>,
}

impl LiveArray {
    /// Puts `array` on `plane`, which shows it from now on.
    ///
    /// # Errors
    /// Those of [`KernelPlane::sync`].
    pub async fn start(array: OntapSim, plane: Arc<LivePlane>) -> io::Result<Self> {
        plane.add(Arc::new(array.clone()));
        plane.sync().await?;
        Ok(Self { array, plane })
    }

    /// The array: for what is done to it behind its API. [`LivePlane::sync`] lets the kernel follow that.
    pub fn array(&self) -> &OntapSim {
        &self.array
    }

    /// The plane it is on.
    pub fn plane(&self) -> &Arc<LivePlane> {
        &self.plane
    }

    async fn answer(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Cut> {
        let answer = self.array.handle(request).await;
        match self.plane.sync().await {
            Ok(()) => answer,
            Err(error) => {
                tracing::error!(%error, "the data plane does not follow the array");
                Err(Cut::Lost)
            }
        }
    }
}

#[async_trait]
impl Api for LiveArray {
    async fn handle(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Cut> {
        self.answer(request).await
    }

    fn state(&self) -> watch::Receiver<ApiState> {
        self.array.api()
    }
}

#[async_trait]
impl Wire for LiveArray {
    async fn send(&self, request: Request<Bytes>, deadline: Deadline) -> Result<Response<Bytes>, WireError> {
        match timeout_at(deadline.instant(), self.answer(request)).await {
            Ok(answer) => answer.map_err(WireError::from),
            Err(_) => Err(WireError::TimedOut),
        }
    }
}
