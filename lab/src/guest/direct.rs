//! Input and output as guests do it: on the block device itself, past the page cache.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use sha2::{Digest, Sha256};

/// Every block device of the lab takes requests of this alignment.
const ALIGNMENT: usize = 4096;
/// As much as one request carries.
const CHUNK: usize = 1 << 20;

/// Memory that the kernel may hand to a device.
#[derive(Debug)]
pub struct Aligned {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    /// Zeroes; `length` is rounded up to whole blocks.
    pub fn new(length: usize) -> Self {
        let length = length.next_multiple_of(ALIGNMENT);
        let memory = vec![0; length + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Self { memory, start, length }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }

    /// The bytes, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

/// A block device opened for direct input and output.
#[derive(Debug)]
pub struct Device(File);

impl Device {
    /// Opens `path`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).map_err(io::Error::other)?;
        OpenOptions::new().read(true).write(true).custom_flags(direct).open(path).map(Self)
    }

    /// Reads `length` bytes at `offset`; both in whole sectors.
    ///
    /// # Errors
    /// What the kernel says; `UnexpectedEof` beyond the end.
    pub fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut read = Vec::with_capacity(length);
        let mut chunk = Aligned::new(length.min(CHUNK));
        while read.len() < length {
            let wanted = (length - read.len()).min(CHUNK);
            let bytes = &mut chunk.bytes_mut()[..wanted];
            self.0.read_exact_at(bytes, offset + read.len() as u64)?;
            read.extend_from_slice(bytes);
        }
        Ok(read)
    }

    /// Writes `bytes` at `offset`; both in whole sectors.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut chunk = Aligned::new(bytes.len().min(CHUNK));
        let mut at = offset;
        for part in bytes.chunks(CHUNK) {
            let memory = &mut chunk.bytes_mut()[..part.len()];
            memory.copy_from_slice(part);
            self.0.write_all_at(memory, at)?;
            at += part.len() as u64;
        }
        Ok(())
    }
}

/// The SHA-256 of `length` bytes at `offset` of the device at `path`, in hexadecimal digits: a fresh handle, past the cache.
///
/// # Errors
/// What the kernel says.
pub fn hash(path: &Path, offset: u64, length: usize) -> io::Result<String> {
    Ok(hash_of(&Device::open(path)?.read(offset, length)?))
}

/// The SHA-256 of `bytes`, in hexadecimal digits.
pub fn hash_of(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut digits, byte| {
        // Writing to a string cannot fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

/// Drops everything clean from the page cache, so that the next read of whoever reads goes to the device.
///
/// # Errors
/// What the kernel says.
pub fn drop_caches() -> io::Result<()> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_and_whole() {
        for length in [1, 512, 4096, 5000] {
            let mut memory = Aligned::new(length);
            assert_eq!(memory.bytes().as_ptr().align_offset(ALIGNMENT), 0);
            assert_eq!(memory.bytes().len() % ALIGNMENT, 0);
            assert!(memory.bytes_mut().len() >= length);
        }
    }

    #[test]
    fn a_hash_is_the_one_of_the_standard() {
        assert_eq!(hash_of(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
