//! The TD's own report (`linux/tdx-guest.h`). The TDX module creates it without the host, so the guest can trust what it
//! says about its launch.

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd as _;

use nix::libc;

/// Device file of the TDX guest driver.
pub const DEVICE: &str = "/dev/tdx_guest";
/// Offset of MRCONFIGID in `TDREPORT_STRUCT` (Intel TDX module specification): TDINFO is at 512, and ATTRIBUTES (8), XFAM
/// (8) and MRTD (48) come first in it.
const MRCONFIGID_AT: usize = 512 + 8 + 8 + 48;
/// `_IOWR('T', 1, struct tdx_report_req)`.
const GET_REPORT0: u32 = (3 << 30) | (1088 << 16) | (0x54 << 8) | 1;

#[repr(C)]
struct Request {
    report_data: [u8; 64],
    report: [u8; 1024],
}

const _: () = assert!(size_of::<Request>() == 1088);

/// Returns the 48 bytes of this TD's MRCONFIGID.
pub fn config_id() -> io::Result<[u8; 48]> {
    let device = File::open(DEVICE)?;
    let mut request = Request {
        report_data: [0; 64],
        report: [0; 1024],
    };
    // SAFETY: the descriptor is open during the call. The kernel reads and writes exactly one `struct tdx_report_req`, which
    // has the size of `Request`, and every bit pattern of it is valid.
    let done = unsafe {
        libc::ioctl(
            device.as_raw_fd(),
            GET_REPORT0 as libc::Ioctl,
            &raw mut request,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut id = [0; 48];
    id.copy_from_slice(&request.report[MRCONFIGID_AT..MRCONFIGID_AT + 48]);
    Ok(id)
}
