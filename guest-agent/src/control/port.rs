//! Finds and opens the control channel's virtio-serial port, by its name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use cocoon_protocol::control::PORT_NAME;

use crate::wait;

const PORTS: &str = "/sys/class/virtio-ports";

/// Why the control port could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// No port with the expected name appeared in time.
    #[error("no virtio-serial port named {PORT_NAME} within {0} s: add one to the machine")]
    Absent(u64),
    /// Several ports have the name, so the right one is unknown.
    #[error("{0} virtio-serial ports are named {PORT_NAME}: there must be one")]
    Duplicate(usize),
    /// The port exists but cannot be opened.
    #[error("cannot open control port {device}")]
    Open {
        /// Path of the device.
        device: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// Finds the port, waiting for it at most for `deadline`, and opens it. Returns its reading and writing ends.
pub fn open(deadline: Duration) -> Result<(PortReader, File), PortError> {
    let found = wait::until(deadline, || {
        let found = named_ports();
        (!found.is_empty()).then_some(found)
    });
    let device = match found.as_deref() {
        Some([device]) => device.clone(),
        Some(several) => return Err(PortError::Duplicate(several.len())),
        None => return Err(PortError::Absent(deadline.as_secs())),
    };
    let opened = OpenOptions::new().read(true).write(true).open(&device);
    let ends = opened.and_then(|port| {
        let reader = PortReader {
            port: port.try_clone()?,
            heard: false,
        };
        Ok((reader, port))
    });
    ends.map_err(|source| PortError::Open { device, source })
}

fn named_ports() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(PORTS) else {
        return Vec::new();
    };
    let entries = entries.flatten().filter(|entry| {
        let name = fs::read_to_string(entry.path().join("name"));
        name.is_ok_and(|name| name.trim_end() == PORT_NAME)
    });
    entries
        .map(|entry| PathBuf::from("/dev").join(entry.file_name()))
        .collect()
}

/// Reading end of the port. The driver reports end of file while no process on the host is connected, and it may learn of a
/// connection later than the guest. Until the first bytes arrive, end of file is therefore ignored. After that it is the end
/// of the stream: the host agent keeps one connection for the life of the machine, and a later connection would start in the
/// middle of a message.
pub struct PortReader<R = File> {
    port: R,
    heard: bool,
}

impl<R: Read> Read for PortReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.port.read(buffer)? {
                // There is no event to wait for: poll(2) reports the missing host again and again.
                0 if !self.heard => thread::sleep(Duration::from_millis(50)),
                count => {
                    self.heard = true;
                    return Ok(count);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns one of these chunks per read.
    struct Told(Vec<&'static [u8]>);

    impl Read for Told {
        fn read(&mut self, mut buffer: &mut [u8]) -> io::Result<usize> {
            io::Write::write(&mut buffer, self.0.remove(0))
        }
    }

    #[test]
    fn a_host_that_comes_late_is_waited_for_and_one_that_has_left_is_not() {
        let mut reader = PortReader {
            port: Told(vec![b"", b"first", b"again", b"", b"another"]),
            heard: false,
        };
        let mut buffer = [0; 64];
        let mut read = || {
            let count = reader.read(&mut buffer).unwrap();
            String::from_utf8(buffer[..count].to_vec()).unwrap()
        };
        assert_eq!([read(), read(), read()], ["first", "again", ""]);
    }
}
