//! The three ioctls of this workspace, the closing of inherited descriptors, and so all of its `unsafe` code. Called in
//! helper processes only.
#![expect(unsafe_code, reason = "ioctls whose argument types the kernel's headers fix; nothing wraps them")]

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, RawFd};
use std::ptr;

use rustix::io::Errno;
use rustix::ioctl::{NoArg, Opcode, Updater, ioctl, opcode};
use san_core::DeviceNumber;

/// `BLKFLSBUF`, `_IO(0x12, 97)` in `linux/fs.h`.
const BLKFLSBUF: Opcode = opcode::none(0x12, 97);
/// `SG_IO` in `scsi/sg.h`: a number from before the encoding of directions and sizes.
const SG_IO: Opcode = 0x2285;
/// `DM_DEV_STATUS`, `_IOWR(DM_IOCTL, 7, struct dm_ioctl)` in `linux/dm-ioctl.h`.
const DM_DEV_STATUS: Opcode = opcode::read_write::<DmIoctl>(0xfd, 7);

/// Drops what the page cache holds of a block device, after writing it out.
pub(crate) fn drop_page_cache(device: impl AsFd) -> Result<(), Errno> {
    // SAFETY: BLKFLSBUF takes no argument and touches no memory of ours.
    unsafe { ioctl(device, NoArg::<BLKFLSBUF>::new()) }
}

/// Closes every descriptor above 2: the starter's sockets and locks that were not marked to close by themselves.
///
/// Only for a process that will not use any of them again: it fails where another thread could.
pub(crate) fn close_inherited() -> io::Result<()> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("another thread is running"));
    }
    // Paths, not entries: an entry keeps the listing open.
    let listing = std::fs::read_dir("/proc/self/fd")?.map(|it| it.map(|it| it.path()));
    for path in listing.collect::<io::Result<Vec<_>>>()? {
        let name = path.file_name().and_then(|it| it.to_str());
        // The listing's own descriptor is in the list and closed by now.
        if let Some(descriptor @ 3..) = name.and_then(|it| it.parse::<RawFd>().ok())
            && path.read_link().is_ok()
        {
            // SAFETY: It is open, this is the only thread, and `helper_main`, the only caller, never returns to a frame
            // that owns a descriptor.
            unsafe { rustix::io::close(descriptor) }
        }
    }
    Ok(())
}

/// What came back from a SCSI command that reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SgAnswer {
    /// The device's status byte (SAM-5 table 30).
    pub(crate) status: u8,
    /// The host adapter's word, `DID_*` in the kernel.
    pub(crate) host_status: u16,
    /// The driver's word, `DRIVER_*` in the kernel.
    pub(crate) driver_status: u16,
    /// The bytes really transferred.
    pub(crate) data: Vec<u8>,
    /// Sense data, where there is any.
    pub(crate) sense: Vec<u8>,
}

/// Sends one command that reads at most `length` bytes, with the kernel's own timeout for it.
pub(crate) fn sg_read(
    node: impl AsFd,
    command: [u8; 6],
    length: u16,
    timeout_ms: u32,
) -> Result<SgAnswer, Errno> {
    let mut command = command;
    let mut sense = [0_u8; SENSE_MAX as usize];
    let mut data = vec![0_u8; usize::from(length)];
    let mut header = SgIoHdr {
        interface_id: i32::from(b'S'),
        dxfer_direction: SG_DXFER_FROM_DEV,
        cmd_len: 6,
        mx_sb_len: SENSE_MAX,
        iovec_count: 0,
        dxfer_len: u32::from(length),
        dxferp: data.as_mut_ptr().cast(),
        cmdp: command.as_mut_ptr(),
        sbp: sense.as_mut_ptr(),
        timeout: timeout_ms,
        flags: 0,
        pack_id: 0,
        usr_ptr: ptr::null_mut(),
        status: 0,
        masked_status: 0,
        msg_status: 0,
        sb_len_wr: 0,
        host_status: 0,
        driver_status: 0,
        resid: 0,
        duration: 0,
        info: 0,
    };
    // SAFETY: SG_IO reads and writes exactly one `struct sg_io_hdr`, whose layout is asserted below. Its three pointers
    // are to buffers of the lengths beside them, which live until the call has returned; without SG_FLAG_* the kernel
    // keeps none of them.
    unsafe { ioctl(node, Updater::<SG_IO, SgIoHdr>::new(&mut header)) }?;
    let untouched = usize::try_from(header.resid).unwrap_or(0);
    data.truncate(data.len().saturating_sub(untouched));
    Ok(SgAnswer {
        status: header.status,
        host_status: header.host_status,
        driver_status: header.driver_status,
        data,
        sense: sense[..usize::from(header.sb_len_wr.min(SENSE_MAX))].to_vec(),
    })
}

/// How often a device-mapper device is open; `ENXIO` where there is none of that number.
pub(crate) fn dm_open_count(control: impl AsFd, device: DeviceNumber) -> Result<i32, Errno> {
    let mut status = DmIoctl {
        // Any kernel of major version 4 takes a request of an older minor version.
        version: [4, 0, 0],
        data_size: DM_IOCTL_SIZE,
        data_start: DM_IOCTL_SIZE,
        target_count: 0,
        open_count: 0,
        flags: 0,
        event_nr: 0,
        padding: 0,
        dev: encode_device(device),
        name: [0; 128],
        uuid: [0; 129],
        data: [0; 7],
    };
    // SAFETY: DM_DEV_STATUS reads and writes `data_size` bytes at the argument, which is the size of `struct dm_ioctl`
    // as asserted below.
    unsafe { ioctl(control, Updater::<DM_DEV_STATUS, DmIoctl>::new(&mut status)) }?;
    Ok(status.open_count)
}

/// `huge_encode_dev` of the kernel, which is how `dm_ioctl.dev` holds a number.
fn encode_device(device: DeviceNumber) -> u64 {
    let (major, minor) = (u64::from(device.major), u64::from(device.minor));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

const SG_DXFER_FROM_DEV: i32 = -3;
const SENSE_MAX: u8 = 64;

/// `struct sg_io_hdr` of `scsi/sg.h`.
#[repr(C)]
struct SgIoHdr {
    interface_id: i32,
    dxfer_direction: i32,
    cmd_len: u8,
    mx_sb_len: u8,
    iovec_count: u16,
    dxfer_len: u32,
    dxferp: *mut c_void,
    cmdp: *mut u8,
    sbp: *mut u8,
    timeout: u32,
    flags: u32,
    pack_id: i32,
    usr_ptr: *mut c_void,
    status: u8,
    masked_status: u8,
    msg_status: u8,
    sb_len_wr: u8,
    host_status: u16,
    driver_status: u16,
    resid: i32,
    duration: u32,
    info: u32,
}

/// `struct dm_ioctl` of `linux/dm-ioctl.h`.
#[repr(C)]
struct DmIoctl {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

const DM_IOCTL_SIZE: u32 = 312;
const _: () = assert!(size_of::<DmIoctl>() == DM_IOCTL_SIZE as usize);
const _: () = assert!(std::mem::offset_of!(DmIoctl, dev) == 40 && std::mem::offset_of!(DmIoctl, uuid) == 176);

#[cfg(target_pointer_width = "64")]
const _: () = assert!(
    size_of::<SgIoHdr>() == 88
        && std::mem::offset_of!(SgIoHdr, dxferp) == 16
        && std::mem::offset_of!(SgIoHdr, timeout) == 40
        && std::mem::offset_of!(SgIoHdr, status) == 64
        && std::mem::offset_of!(SgIoHdr, resid) == 72
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_headers() {
        // As `_IO` and `_IOWR` of asm-generic/ioctl.h give them.
        assert_eq!(BLKFLSBUF, 0x1261);
        assert_eq!(DM_DEV_STATUS, 0xc138_fd07);
    }

    #[test]
    fn device_numbers_are_encoded_like_the_kernel_does() {
        assert_eq!(encode_device(DeviceNumber { major: 253, minor: 3 }), 0xfd03);
        assert_eq!(encode_device(DeviceNumber { major: 253, minor: 0x1_2345 }), 0x1230_fd45);
    }
}
