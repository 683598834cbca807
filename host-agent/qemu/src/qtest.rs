//! The part of QEMU's qtest protocol that reads a machine from outside: I/O ports, memory and fw_cfg.
//!
//! The protocol consists of lines of text (`system/qtest.c`). Its commands act as the processor would, so the machine should
//! be paused meanwhile. The qtest accelerator is not needed, which matters because distributions leave `-accel qtest` out.

use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Largest number of bytes that one command reads.
pub(crate) const READ_MAX: u32 = 4 << 20;

/// How long one command may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// QEMU may report interrupt lines between answers; more than this number is an error.
const ASIDES_MAX: usize = 64;

/// fw_cfg's DMA address register (`docs/specs/fw_cfg.rst`): the high half, then the low half, which starts the transfer.
const DMA_HIGH: u16 = 0x514;
const DMA_LOW: u16 = 0x518;
const DMA_ERROR: u32 = 1;
const DMA_READ: u32 = 2;
const DMA_SELECT: u32 = 8;
const DIRECTORY: u16 = 0x19;
const ENTRY: usize = 64;
const FILES_MAX: u32 = 1024;
/// Largest item that is read, in bytes. QEMU's ACPI tables have 128 KiB, and more only with thousands of devices.
const ITEM_MAX: u32 = READ_MAX;
/// Guest memory that the transfers overwrite: addresses of the DMA command and of the data.
const COMMAND_AT: u64 = 0x1000;
const DATA_AT: u64 = 0x10_0000;

/// A connection to one QEMU's qtest socket.
#[derive(Debug)]
pub(crate) struct Qtest {
    stream: BufReader<UnixStream>,
}

/// An item of fw_cfg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) name: String,
    selector: u16,
    size: u32,
}

/// Why the machine could not be read through qtest.
#[derive(Debug, thiserror::Error)]
pub enum QtestError {
    /// The socket failed, usually because QEMU has ended.
    #[error("QEMU's test socket broke at {command:?}; its diagnostics say why it ended")]
    Io {
        /// The command, without its data.
        command: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// QEMU did not answer within ten seconds.
    #[error("QEMU did not answer {command:?} in time; is the machine too busy?")]
    Late {
        /// The command, without its data.
        command: &'static str,
    },
    /// The answer does not follow the protocol.
    #[error("QEMU answered {command:?} with {answer:?}")]
    Answer {
        /// The command, without its data.
        command: &'static str,
        /// Beginning of the answer.
        answer: String,
    },
    /// An item or read exceeds its limit.
    #[error("QEMU offers {size} bytes of {what}, at most {max} are taken")]
    TooLarge {
        /// Name of the item.
        what: String,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// fw_cfg reported an error in a transfer.
    #[error("QEMU's fw_cfg refused to read {item:?}")]
    Refused {
        /// Name of the item.
        item: String,
    },
}

impl Qtest {
    /// Takes over this process's end of a pair made by [`pair`](crate::socket::pair).
    pub(crate) fn over(stream: StdStream) -> io::Result<Self> {
        Ok(Self {
            stream: BufReader::new(UnixStream::from_std(stream)?),
        })
    }

    /// Returns the named items of fw_cfg.
    pub(crate) async fn files(&mut self) -> Result<Vec<File>, QtestError> {
        let head = self.item(DIRECTORY, "the directory", 4).await?;
        let count = big(&head, 0);
        if count > FILES_MAX {
            return Err(QtestError::TooLarge {
                what: "fw_cfg's directory".into(),
                size: count.into(),
                max: FILES_MAX.into(),
            });
        }
        let length = 4 + count * 64;
        let directory = self.item(DIRECTORY, "the directory", length).await?;
        let entries = directory.get(4..).unwrap_or_default();
        Ok(entries.chunks_exact(ENTRY).map(File::parse).collect())
    }

    /// Reads the contents of `file`.
    pub(crate) async fn file(&mut self, file: &File) -> Result<Vec<u8>, QtestError> {
        self.item(file.selector, &file.name, file.size).await
    }

    /// Reads `length` bytes of guest memory at `address`.
    pub(crate) async fn read(&mut self, address: u64, length: u32) -> Result<Vec<u8>, QtestError> {
        const COMMAND: &str = "b64read";
        if length > READ_MAX {
            return Err(QtestError::TooLarge {
                what: "memory".into(),
                size: length.into(),
                max: READ_MAX.into(),
            });
        }
        if length == 0 {
            // QEMU aborts on a length of zero.
            return Ok(Vec::new());
        }
        let line = format!("{COMMAND} {address:#x} {length:#x}\n");
        let answer = self.command(COMMAND, &line).await?;
        let bytes = STANDARD.decode(&answer).unwrap_or_default();
        if bytes.len() == length as usize {
            return Ok(bytes);
        }
        Err(unexpected(COMMAND, &answer))
    }

    async fn item(
        &mut self,
        selector: u16,
        name: &str,
        length: u32,
    ) -> Result<Vec<u8>, QtestError> {
        if length > ITEM_MAX {
            return Err(QtestError::TooLarge {
                what: format!("fw_cfg's {name}"),
                size: length.into(),
                max: ITEM_MAX.into(),
            });
        }
        if length == 0 {
            return Ok(Vec::new());
        }
        let control = u32::from(selector) << 16 | DMA_SELECT | DMA_READ;
        let mut command = [control, length].map(u32::to_be_bytes).concat();
        command.extend(DATA_AT.to_be_bytes());
        let hex = hex::encode(&command);
        let line = format!("write {COMMAND_AT:#x} {:#x} 0x{hex}\n", command.len());
        self.command("write", &line).await?;
        // The register is big-endian, but a port write is little-endian.
        let [low, high] = [COMMAND_AT & 0xffff_ffff, COMMAND_AT >> 32]
            .map(|half| u32::try_from(half).unwrap_or_default().swap_bytes());
        for (port, value) in [(DMA_HIGH, high), (DMA_LOW, low)] {
            self.command("outl", &format!("outl {port:#x} {value:#x}\n"))
                .await?;
        }
        let state = self.read(COMMAND_AT, 4).await?;
        if big(&state, 0) & DMA_ERROR != 0 {
            return Err(QtestError::Refused {
                item: name.to_owned(),
            });
        }
        self.read(DATA_AT, length).await
    }

    /// Sends a command and returns what follows `OK` in the answer.
    async fn command(&mut self, command: &'static str, line: &str) -> Result<String, QtestError> {
        let fail = |source| QtestError::Io { command, source };
        let exchange = async {
            self.stream
                .get_mut()
                .write_all(line.as_bytes())
                .await
                .map_err(fail)?;
            for _ in 0..ASIDES_MAX {
                let mut answer = String::new();
                // Length of the longest read in Base64, and of the text around it.
                let limit = u64::from(READ_MAX) / 3 * 4 + 64;
                let mut limited = (&mut self.stream).take(limit);
                limited.read_line(&mut answer).await.map_err(fail)?;
                if answer.is_empty() {
                    return Err(fail(io::ErrorKind::UnexpectedEof.into()));
                }
                if answer.starts_with("IRQ ") {
                    continue;
                }
                return match answer.strip_prefix("OK").map(str::trim) {
                    Some(rest) => Ok(rest.to_owned()),
                    None => Err(unexpected(command, &answer)),
                };
            }
            Err(unexpected(command, "nothing but interrupts"))
        };
        let late = QtestError::Late { command };
        timeout(PATIENCE, exchange).await.map_err(|_| late)?
    }
}

impl File {
    fn parse(entry: &[u8]) -> Self {
        let name = entry.get(8..).unwrap_or_default();
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        Self {
            name: String::from_utf8_lossy(name).into_owned(),
            selector: u16::try_from(big(entry, 4) >> 16).unwrap_or_default(),
            size: big(entry, 0),
        }
    }
}

/// Returns the big-endian number at `offset`; the callers have read enough bytes.
fn big(bytes: &[u8], offset: usize) -> u32 {
    let field = bytes.get(offset..).and_then(|rest| rest.first_chunk());
    field.map_or(0, |field| u32::from_be_bytes(*field))
}

fn unexpected(command: &'static str, answer: &str) -> QtestError {
    QtestError::Answer {
        command,
        answer: answer.trim().chars().take(80).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A simulated QEMU that answers each line with the next of `answers`, then closes.
    async fn told(
        answers: &'static [&'static str],
    ) -> (Qtest, tokio::task::JoinHandle<Vec<String>>) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let qemu = tokio::spawn(async move {
            let mut lines = BufReader::new(theirs);
            let mut heard = Vec::new();
            for answer in answers {
                let mut line = String::new();
                lines.read_line(&mut line).await.expect("a line");
                heard.push(line.trim().to_owned());
                let bytes = answer.as_bytes();
                lines.get_mut().write_all(bytes).await.expect("answered");
            }
            heard
        });
        let stream = BufReader::new(ours);
        (Qtest { stream }, qemu)
    }

    #[tokio::test]
    async fn the_directory_is_read_through_dma() {
        let (mut qtest, qemu) = told(&[
            "OK\n",
            "OK\n",
            "IRQ raise 4\nOK\n",
            "OK AAAAAA==\n",
            "OK AAAAAA==\n",
            "OK\n",
            "OK\n",
            "OK\n",
            "OK AAAAAA==\n",
            "OK AAAAAA==\n",
        ])
        .await;
        assert_eq!(qtest.files().await.expect("a directory"), []);
        let heard = qemu.await.expect("heard");
        assert_eq!(
            heard[..5],
            [
                "write 0x1000 0x10 0x0019000a000000040000000000100000",
                "outl 0x514 0x0",
                "outl 0x518 0x100000",
                "b64read 0x1000 0x4",
                "b64read 0x100000 0x4",
            ]
        );
    }

    #[tokio::test]
    async fn answers_out_of_the_protocol_are_named() {
        let (mut qtest, _qemu) = told(&["FAIL Unknown command\n", "OK AAAA\n"]).await;
        let error = qtest.read(0, 4).await.expect_err("refused");
        assert!(
            matches!(&error, QtestError::Answer { command: "b64read", answer } if answer == "FAIL Unknown command"),
            "{error:?}"
        );
        let error = qtest.read(0, 4).await.expect_err("too short");
        assert!(
            matches!(&error, QtestError::Answer { answer, .. } if answer == "AAAA"),
            "{error:?}"
        );
        let error = qtest.read(0, 4).await.expect_err("closed");
        assert!(
            matches!(
                &error,
                QtestError::Io {
                    command: "b64read",
                    ..
                }
            ),
            "{error:?}"
        );
        let error = qtest.read(0, READ_MAX + 1).await.expect_err("too much");
        assert!(
            matches!(&error, QtestError::TooLarge { max: 0x40_0000, .. }),
            "{error:?}"
        );
    }

    #[test]
    fn an_entry_is_size_selector_and_name() {
        let mut entry = vec![0, 0, 16, 0, 0, 0x2a, 0, 0];
        entry.extend(b"etc/table-loader");
        entry.resize(ENTRY, 0);
        assert_eq!(
            File::parse(&entry),
            File {
                name: "etc/table-loader".into(),
                selector: 0x2a,
                size: 4096
            }
        );
    }
}
