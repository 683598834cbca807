//! Unix sockets that are made before QEMU starts, so that a peer can connect at any time.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::spec::{Endpoint, SOCKET_PATH_MAX};

/// Makes a listening socket at `path` on which QEMU will accept. A stale socket there is replaced.
///
/// # Errors
/// [`SocketError`] if something listens there, the file is not a socket, the path is too long or the system refuses.
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

/// Makes a connected pair: QEMU's end, and this process's end as a non-blocking stream for Tokio.
///
/// # Errors
/// [`SocketError::Pair`] if the system has no file descriptor left.
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
    /// Endpoint for the [`VmSpec`](crate::VmSpec).
    pub endpoint: Endpoint,
    /// Descriptor for [`Vm::spawn`](crate::Vm::spawn).
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
    /// `bind` or one of the checks before it failed.
    #[error("cannot listen on {path:?}; use another folder")]
    Listen {
        /// Path of the socket.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// Another process listens on the socket.
    #[error("another process listens on {0:?}; stop it or use another folder")]
    InUse(PathBuf),
    /// The file is not a socket. It is not deleted, since it was not made here.
    #[error("{0:?} exists and is no socket; remove it or use another folder")]
    NotASocket(PathBuf),
    /// The path is longer than the 107 bytes of a socket address.
    #[error("the socket path {path:?} has {length} bytes, at most 107 fit; use a shorter folder")]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
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
