//! Writes the archive that the kernel unpacks into its first file system: cpio in the "newc" form, as the kernel's
//! documentation describes it (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::io::{self, Write};

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// An archive under way.
#[derive(Debug)]
pub(super) struct Archive<W> {
    to: W,
    inode: u32,
}

impl<W: Write> Archive<W> {
    /// An empty archive, written to `to` as it grows.
    pub(super) fn new(to: W) -> Self {
        Self { to, inode: 0 }
    }

    /// A folder; its parent has to be there.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub(super) fn folder(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, FOLDER, &[])
    }

    /// A file that may be executed.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub(super) fn program(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        self.entry(path, PROGRAM, content)
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.to.flush()
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.inode += 1;
        let too_large = |_| io::Error::from(io::ErrorKind::FileTooLarge);
        let size = u32::try_from(content.len()).map_err(too_large)?;
        let name_size = u32::try_from(path.len() + 1).map_err(too_large)?;
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        let mut head = b"070701".to_vec();
        for field in fields {
            write!(head, "{field:08x}")?;
        }
        head.extend_from_slice(path.as_bytes());
        head.push(0);
        self.padded(&head)?;
        self.padded(content)
    }

    fn padded(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.to.write_all(bytes)?;
        let rest = bytes.len().next_multiple_of(4) - bytes.len();
        self.to.write_all(&[0; 3][..rest])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_laid_out_as_the_kernel_reads_them() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.folder("bin").unwrap();
        archive.program("bin/it", b"hello").unwrap();
        archive.finish().unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.len() % 4, 0);
        // 110 bytes of header and "bin\0" make 114: two bytes of padding.
        assert!(text.starts_with("070701"));
        assert_eq!(&text[110..116], "bin\0\0\0");
        let second = &text[116..];
        assert!(second.starts_with("070701"));
        assert_eq!(&second[14..22], "000081ed");
        assert_eq!(&second[54..62], "00000005");
        assert_eq!(&second[110..117], "bin/it\0");
        assert_eq!(&second[120..128], "hello\0\0\0");
        assert!(text.contains("TRAILER!!!\0"));
    }
}
