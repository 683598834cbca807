//! Device-mapper ioctls (`linux/dm-ioctl.h`), as far as one read-only target needs them.

use std::fs::File;
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::AsRawFd as _;

use nix::libc;

const PARAMS_LEN: usize = 1024;
const READONLY_FLAG: u32 = 1 << 0;
const DEV_CREATE: u32 = 3;
const DEV_REMOVE: u32 = 4;
const DEV_SUSPEND: u32 = 6;
const TABLE_LOAD: u32 = 9;
/// `_IOWR(0xfd, nr, struct dm_ioctl)` without `nr`.
const CODE_BASE: u32 = (3 << 30) | (312 << 16) | (0xfd << 8);

/// `struct dm_ioctl`, one `struct dm_target_spec` and its parameters.
#[repr(C)]
struct Request {
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
    sector_start: u64,
    length: u64,
    status: i32,
    next: u32,
    target_type: [u8; 16],
    params: [u8; PARAMS_LEN],
}

const _: () = assert!(offset_of!(Request, dev) == 40);
const _: () = assert!(offset_of!(Request, sector_start) == 312);
const _: () = assert!(offset_of!(Request, params) == 352);
const _: () = assert!(size_of::<Request>() == 352 + PARAMS_LEN);

/// A read-only mapping to create.
pub struct Target<'a> {
    /// Target type, such as `verity`.
    pub kind: &'a str,
    /// Length in sectors of 512 bytes.
    pub sectors: u64,
    /// Parameters of the target.
    pub params: &'a str,
}

/// Creates and activates the mapping `name`. Returns the minor number N of its device, `/dev/dm-N`.
pub fn create(control: &File, name: &str, target: &Target<'_>) -> io::Result<u64> {
    call(control, DEV_CREATE, &mut request(name, 0)?)?;
    let mut load = request(name, READONLY_FLAG)?;
    load.target_count = 1;
    load.length = target.sectors;
    put(&mut load.target_type, target.kind)?;
    put(&mut load.params, target.params)?;
    let activated = call(control, TABLE_LOAD, &mut load).and_then(|()| {
        let mut resume = request(name, READONLY_FLAG)?;
        call(control, DEV_SUSPEND, &mut resume)?;
        Ok(resume.dev)
    });
    match activated {
        // The kernel's huge encoding of device numbers: the minor number is in bits 0-7 and from bit 20 upwards.
        Ok(dev) => Ok((dev & 0xff) | ((dev >> 12) & !0xff)),
        Err(error) => {
            // Only the first error is reported; an inactive mapping that remains is harmless.
            let _ = remove(control, name);
            Err(error)
        }
    }
}

/// Removes the mapping `name`, which must not be open.
pub fn remove(control: &File, name: &str) -> io::Result<()> {
    call(control, DEV_REMOVE, &mut request(name, 0)?)
}

fn request(name: &str, flags: u32) -> io::Result<Request> {
    let mut request = Request {
        version: [4, 0, 0],
        data_size: 352 + 1024,
        data_start: 312,
        target_count: 0,
        open_count: 0,
        flags,
        event_nr: 0,
        padding: 0,
        dev: 0,
        name: [0; 128],
        uuid: [0; 129],
        data: [0; 7],
        sector_start: 0,
        length: 0,
        status: 0,
        next: 0,
        target_type: [0; 16],
        params: [0; PARAMS_LEN],
    };
    put(&mut request.name, name)?;
    Ok(request)
}

/// Copies a string into a zeroed field and keeps at least one terminating zero.
fn put(field: &mut [u8], text: &str) -> io::Result<()> {
    if text.len() >= field.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    field[..text.len()].copy_from_slice(text.as_bytes());
    Ok(())
}

fn call(control: &File, number: u32, request: &mut Request) -> io::Result<()> {
    // SAFETY: the descriptor is open during the call. The kernel reads and writes at most `data_size` bytes at the pointer,
    // which is exactly the size of `Request`, a type for which every bit pattern is valid.
    let done = unsafe {
        libc::ioctl(
            control.as_raw_fd(),
            (CODE_BASE | number) as libc::Ioctl,
            &raw mut *request,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
