//! Network interface ioctls (`linux/if.h`): address, netmask and up flag. There is no route, because the guest opens no
//! connections.

use std::io;
use std::mem::size_of;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd as _;

use nix::libc;

/// `struct ifreq`: a name and a union of 24 bytes.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    value: [u8; 24],
}

const _: () = assert!(size_of::<Request>() == size_of::<libc::ifreq>());

/// Sets the address and prefix length of `interface`.
pub fn set_address(interface: &str, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
    let mask = u32::MAX
        .checked_shl(32 - u32::from(prefix.min(32)))
        .unwrap_or(0);
    set(interface, libc::SIOCSIFADDR as libc::Ioctl, address)?;
    set(
        interface,
        libc::SIOCSIFNETMASK as libc::Ioctl,
        Ipv4Addr::from(mask),
    )
}

/// Brings `interface` up.
pub fn up(interface: &str) -> io::Result<()> {
    let mut request = request(interface)?;
    call(libc::SIOCGIFFLAGS as libc::Ioctl, &mut request)?;
    // IFF_UP is bit 0 of the first of the two bytes of flags, because this machine is little-endian.
    request.value[0] |= 1;
    call(libc::SIOCSIFFLAGS as libc::Ioctl, &mut request)
}

fn set(interface: &str, code: libc::Ioctl, address: Ipv4Addr) -> io::Result<()> {
    let mut request = request(interface)?;
    // `struct sockaddr_in`: family 2 (AF_INET), port zero, address at offset 4.
    request.value[0] = 2;
    request.value[4..8].copy_from_slice(&address.octets());
    call(code, &mut request)
}

fn request(interface: &str) -> io::Result<Request> {
    let mut request = Request {
        name: [0; libc::IFNAMSIZ],
        value: [0; 24],
    };
    if interface.len() >= request.name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    request.name[..interface.len()].copy_from_slice(interface.as_bytes());
    Ok(request)
}

fn call(code: libc::Ioctl, request: &mut Request) -> io::Result<()> {
    // Any IPv4 socket accepts these ioctls. Port zero means that no specific port is used.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: the socket is open during the call. All four codes read or write one `struct ifreq`, which has the size of
    // `Request`, and every bit pattern of it is valid.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), code, &raw mut *request) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
