//! Reading and writing through a simulated node's block devices, past its page cache or through it.

use std::path::Path;

use san_core::Result;

use super::data::{Attempt, Io, PAGE};
use super::node::SimNode;

impl SimNode {
    /// Reads past the page cache. Waits as long as the kernel would.
    ///
    /// # Errors
    /// `NotFound` where there is no such device, `Unavailable` for an I/O error.
    pub async fn read_at(&self, path: &Path, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.io(path, &Io::Read { offset, length }).await
    }

    /// Writes past the page cache. Waits as long as the kernel would.
    ///
    /// # Errors
    /// As [`SimNode::read_at`].
    pub async fn write_at(&self, path: &Path, offset: u64, bytes: &[u8]) -> Result<()> {
        self.io(path, &Io::Write { offset, bytes: bytes.to_vec() }).await.map(drop)
    }

    async fn io(&self, path: &Path, io: &Io) -> Result<Vec<u8>> {
        let number = self.look(|it| {
            it.check_up()?;
            it.block(&path.to_string_lossy())
        })?;
        self.until(|it| match it.attempt(number, io) {
            Attempt::Done(bytes) => Some(Ok(bytes)),
            Attempt::Failed(error) => Some(Err(error)),
            // Requests that a map holds back are not counted as in flight.
            Attempt::Waits => None,
        })
        .await
    }

    /// Reads through the page cache: what was read or written before comes from memory, however the volume changed.
    ///
    /// # Errors
    /// As [`SimNode::read_at`].
    pub async fn read_cached(&self, path: &Path, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.cache(path, offset, length).await?;
        self.look(|it| Ok(it.cache.read(it.block(&path.to_string_lossy())?, offset, length)))
    }

    /// Writes into the page cache: the bytes stay dirty until a flush.
    ///
    /// # Errors
    /// As [`SimNode::read_at`].
    pub async fn write_cached(&self, path: &Path, offset: u64, bytes: &[u8]) -> Result<()> {
        self.cache(path, offset, bytes.len()).await?;
        self.look(|it| {
            let number = it.block(&path.to_string_lossy())?;
            it.cache.write(number, offset, bytes);
            it.touch();
            Ok(())
        })
    }

    async fn cache(&self, path: &Path, offset: u64, length: usize) -> Result<()> {
        let number = self.look(|it| it.block(&path.to_string_lossy()))?;
        for page in self.look(|it| it.cache.missing(number, offset, length)) {
            let bytes = self.read_at(path, page, usize::try_from(PAGE).unwrap_or(usize::MAX)).await?;
            self.look(|it| it.cache.fill(number, page, bytes));
        }
        Ok(())
    }
}
