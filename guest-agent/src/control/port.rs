//! The virtio-serial port of the control channel, found by its name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use cocoon_protocol::control::PORT_NAME;

use crate::wait;

const PORTS: &str = "/sys/class/virtio-ports";

/// Why there is no port.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// No port of the name.
    #[error("no virtio-serial port named {PORT_NAME} within {0} s: add one to the machine")]
    Absent(u64),
    /// More than one: which of them is the host's cannot be known.
    #[error("{0} virtio-serial ports are named {PORT_NAME}: there must be one")]
    Duplicate(usize),
    /// It is there and does not open.
    #[error("cannot open control port {device}")]
    Open {
        /// The device.
        device: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Finds and opens the port; returns its reading and its writing end.
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
    let ends = opened.and_then(|port| Ok((PortReader(port.try_clone()?), port)));
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

/// The reading end. The driver reports an end of file while nobody is connected on the host's
/// side; that is no end, the host agent may come or come back.
pub struct PortReader(File);

impl Read for PortReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer)? {
                // Nor is there an event for it: poll(2) reports the missing host again and again.
                0 => thread::sleep(Duration::from_millis(50)),
                count => return Ok(count),
            }
        }
    }
}
