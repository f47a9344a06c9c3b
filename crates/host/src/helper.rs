//! The helper process: does one job after the other and ends when the daemon does.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use san_core::{DeviceNumber, ErrorKind};

use crate::inquiry::inquire;
use crate::ioctl;
use crate::job::{self, Answer, DATA_MAX, Failure, Job};

/// What an aligned buffer begins at a multiple of: no block device has larger logical blocks than a page.
const ALIGNMENT: usize = 4096;

/// The whole life of a helper process: jobs come in on descriptor 0, answers go out on descriptor 1.
///
/// For the program that [`crate::SystemConfig::helper`] names, as the first thing it does: it fails where a second
/// thread runs, and closes every other descriptor. Ends when descriptor 0 is closed, even in the middle of a job: nobody
/// waits for the answer any more.
pub fn helper_main() -> ! {
    std::process::exit(match serve() {
        Ok(()) => 0,
        Err(_) => 1,
    })
}

fn serve() -> io::Result<()> {
    ioctl::close_inherited()?;
    // A session of our own: no terminal, and no signal meant for the daemon's group. It fails only where the starter
    // already made us a leader, which is as good.
    let _ = rustix::process::setsid();
    let (sender, jobs) = mpsc::sync_channel(1);
    // Jobs are done on the main thread, so that /proc/PID tells where a stuck one waits.
    std::thread::Builder::new().name("jobs".into()).spawn(move || {
        let mut input = io::stdin().lock();
        while let Ok(Some((job, _))) = job::read::<Job>(&mut input) {
            if sender.send(job).is_err() {
                break;
            }
        }
        std::process::exit(0)
    })?;
    jobs.iter().try_for_each(|job| answer(&perform(&job)))
}

type Outcome = Result<(Answer, Vec<u8>), Failure>;

fn answer(outcome: &Outcome) -> io::Result<()> {
    let frame = match outcome {
        Ok((answer, data)) => job::encode(answer, data)?,
        Err(failure) => job::encode(&Answer::Failed(failure.clone()), &[])?,
    };
    let mut output = io::stdout().lock();
    output.write_all(&frame)?;
    output.flush()
}

fn perform(job: &Job) -> Outcome {
    match job {
        Job::WriteAttr { path, value } => write_attr(path, value).map(|()| (Answer::Done, Vec::new())),
        Job::Inquiry { device, page, timeout_ms } => {
            inquiry(device, *page, *timeout_ms).map(|data| (Answer::Done, data))
        }
        Job::Flush { device } => flush(device).map(|()| (Answer::Done, Vec::new())),
        Job::ReadBlock { device, offset, length } => {
            read_block(device, *offset, *length).map(|data| (Answer::Done, data))
        }
        Job::OpenCount { control, device } => {
            open_count(control, *device).map(|count| (Answer::OpenCount(count), Vec::new()))
        }
    }
}

fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, Failure> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())
        .map_err(|it| Failure::os("cannot open it", it))
}

fn open_kind(path: &Path, flags: OFlags, kind: FileType, otherwise: &str) -> Result<OwnedFd, Failure> {
    // O_NONBLOCK: the SCSI generic driver would wait for error recovery to end.
    let device = open(path, OFlags::NONBLOCK | flags)?;
    let status = rustix::fs::fstat(&device).map_err(|it| Failure::os("cannot look at it", it))?;
    if FileType::from_raw_mode(status.st_mode) != kind {
        return Err(Failure::new(ErrorKind::InvalidInput, otherwise));
    }
    Ok(device)
}

fn open_block_device(path: &Path, flags: OFlags) -> Result<OwnedFd, Failure> {
    open_kind(path, OFlags::RDONLY | flags, FileType::BlockDevice, "not a block device")
}

fn write_attr(path: &Path, value: &str) -> Result<(), Failure> {
    let mut file = File::from(open(path, OFlags::WRONLY)?);
    let written = loop {
        match file.write(value.as_bytes()) {
            Ok(written) => break written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                return Err(Failure::os("cannot write the attribute", errno));
            }
        }
    };
    if written != value.len() {
        let message = format!("only {written} of {} bytes were taken", value.len());
        return Err(Failure::new(ErrorKind::Protocol, message));
    }
    Ok(())
}

fn inquiry(device: &Path, page: Option<u8>, timeout_ms: u32) -> Result<Vec<u8>, Failure> {
    // Not through a block device: on a map the kernel would wait for a path.
    let node = open_kind(device, OFlags::RDWR, FileType::CharacterDevice, "not a SCSI generic node")?;
    inquire(page, |command, length| ioctl::sg_read(&node, command, length, timeout_ms))
}

fn flush(device: &Path) -> Result<(), Failure> {
    // Read-only: closing a writer makes udev look at the device again.
    let device = open_block_device(device, OFlags::empty())?;
    rustix::fs::fsync(&device)
        .map_err(|it| Failure::os("the device did not take all of the cached data", it))?;
    ioctl::drop_page_cache(&device).map_err(|it| Failure::os("cannot drop the cached data", it))
}

fn read_block(device: &Path, offset: u64, length: usize) -> Result<Vec<u8>, Failure> {
    if length == 0 || length > DATA_MAX {
        return Err(Failure::new(ErrorKind::InvalidInput, format!("cannot read {length} bytes at once")));
    }
    let device = open_block_device(device, OFlags::DIRECT)?;
    let mut buffer = vec![0_u8; length + ALIGNMENT];
    let start = buffer.as_ptr().align_offset(ALIGNMENT);
    let Some(aligned) = buffer.get_mut(start..start + length) else {
        return Err(Failure::new(ErrorKind::Internal, "no aligned buffer"));
    };
    let read = rustix::io::retry_on_intr(|| rustix::io::pread(&device, &mut *aligned, offset))
        .map_err(|it| Failure::os("cannot read from the device", it))?;
    if read != length {
        let message = format!("the device ended after {read} of {length} bytes");
        return Err(Failure::new(ErrorKind::Protocol, message));
    }
    Ok(aligned.to_vec())
}

fn open_count(control: &Path, device: DeviceNumber) -> Result<Option<u32>, Failure> {
    if device.major == 0 {
        return Err(Failure::new(ErrorKind::InvalidInput, "no device has major number 0"));
    }
    let control = open(control, OFlags::RDWR).map_err(|it| it.of_a_service("cannot ask device-mapper"))?;
    match ioctl::dm_open_count(control, device) {
        Ok(count) => u32::try_from(count)
            .map(Some)
            .map_err(|_| Failure::new(ErrorKind::Protocol, format!("device-mapper reports {count} openers"))),
        Err(Errno::NXIO) => Ok(None),
        Err(errno) => Err(Failure::os("cannot ask device-mapper", errno)),
    }
}
