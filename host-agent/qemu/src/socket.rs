//! Unix sockets made before QEMU starts, so that no peer ever comes too early.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::spec::{Endpoint, SOCKET_PATH_MAX};

/// A listening socket at `path` for QEMU to accept on; a dead one left behind there is replaced.
///
/// # Errors
/// Says what stands in the way: a live listener, a file that is no socket, a path too long.
pub fn listen(path: &Path) -> Result<Prepared, SocketError> {
    let length = path.as_os_str().len();
    if length > SOCKET_PATH_MAX {
        return Err(SocketError::TooLong {
            path: path.to_owned(),
            length,
        });
    }
    let fail = |source| SocketError::Listen {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            return Err(SocketError::InUse(path.to_owned()));
        }
        Ok(_) => fs::remove_file(path).map_err(fail)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(fail(error)),
    }
    let fd: OwnedFd = UnixListener::bind(path).map_err(fail)?.into();
    Ok(Prepared {
        endpoint: Endpoint::Listener(fd.as_raw_fd()),
        fd,
    })
}

/// A connected pair: QEMU's end, and ours as a non-blocking stream for tokio.
///
/// # Errors
/// Only when the system has no descriptor left.
pub fn pair() -> Result<(Prepared, UnixStream), SocketError> {
    let (ours, theirs) = UnixStream::pair().map_err(SocketError::Pair)?;
    ours.set_nonblocking(true).map_err(SocketError::Pair)?;
    let fd: OwnedFd = theirs.into();
    Ok((
        Prepared {
            endpoint: Endpoint::Connected(fd.as_raw_fd()),
            fd,
        },
        ours,
    ))
}

/// QEMU's end of a stream, and how the specification names it.
#[derive(Debug)]
pub struct Prepared {
    /// For the [`VmSpec`](crate::VmSpec).
    pub endpoint: Endpoint,
    /// For [`Vm::spawn`](crate::Vm::spawn).
    pub fd: OwnedFd,
}

impl AsRawFd for Prepared {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Why a socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// `bind` or the checks before it failed.
    #[error("cannot listen on {path:?}; use another folder")]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something answers there.
    #[error("another process listens on {0:?}; stop it or use another folder")]
    InUse(PathBuf),
    /// We never delete what we did not make.
    #[error("{0:?} exists and is no socket; remove it or use another folder")]
    NotASocket(PathBuf),
    /// A socket address holds 107 bytes.
    #[error("the socket path {path:?} has {length} bytes, at most 107 fit; use a shorter folder")]
    TooLong {
        /// Where.
        path: PathBuf,
        /// How long it is.
        length: usize,
    },
    /// `socketpair` failed.
    #[error("cannot make a pair of sockets")]
    Pair(#[source] io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_socket_is_replaced_a_live_one_and_a_file_are_not() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("s");
        drop(listen(&path).expect("first"));
        let live = listen(&path).expect("replaces the dead one");
        assert!(matches!(listen(&path), Err(SocketError::InUse(at)) if at == path));
        drop(live);
        let file = folder.path().join("f");
        fs::write(&file, "x").expect("a file");
        assert!(matches!(listen(&file), Err(SocketError::NotASocket(at)) if at == file));
        let long = folder.path().join("x".repeat(100));
        assert!(matches!(listen(&long), Err(SocketError::TooLong { .. })));
    }
}
