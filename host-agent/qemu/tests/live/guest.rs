//! A guest of sixty bytes, and the QEMU that runs it.

use std::error::Error;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use cocoon_inputs::report;
use cocoon_qemu::find::MINIMUM;
use cocoon_qemu::spec::*;
use cocoon_qemu::{Accel, Qemu, Qmp, Vm, VmSpec, obtain, socket};
use tokio::io::AsyncReadExt;

use crate::inputs::fetcher;
use crate::skip::skipped;

pub const PATIENCE: Duration = Duration::from_secs(60);
pub const IMAGE: &[u8] = &[0x5a; 64 << 10];

/// Returns a guest that prints READY on the first serial port and then halts for ever.
pub fn guest() -> Vec<u8> {
    const LOAD: u32 = 0x10_0000;
    let flags = 1u32 << 16;
    let magic = 0x1bad_b002u32;
    let checksum = 0u32.wrapping_sub(magic).wrapping_sub(flags);
    let header = [magic, flags, checksum, LOAD, LOAD, 0, 0, LOAD + 32];
    let mut bytes: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend([0x66, 0xba, 0xf8, 0x03]); // mov dx, 0x3f8
    for byte in *b"READY\n" {
        bytes.extend([0xb0, byte, 0xee]); // mov al, byte; out dx, al
    }
    bytes.extend([0xf4, 0xeb, 0xfd]); // hlt; jmp back
    bytes
}

pub struct Running {
    pub vm: Vm,
    pub qmp: Qmp,
    pub kernel: i32,
    pub folder: tempfile::TempDir,
}

/// Starts the guest and waits until it has printed READY.
pub async fn start(qemu: &Qemu) -> Running {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let kernel = filled(&guest());
    let disk = filled(IMAGE);
    let (console, output) = socket::pair().expect("a pair");
    let qmp = socket::listen(&folder.path().join("qmp")).expect("a socket");
    let control = socket::listen(&folder.path().join("control")).expect("a socket");
    let spec = VmSpec {
        name: "live".into(),
        accel: Accel::Emulated,
        confidential: Confidential::None,
        vcpus: 2,
        memory_mib: 64,
        placement: Placement::default(),
        firmware: None,
        kernel: Blob::Descriptor(kernel.as_raw_fd()),
        initrd: None,
        cmdline: "a=b,c d".into(),
        disks: vec![Disk {
            source: Blob::Descriptor(disk.as_raw_fd()),
            serial: "model".into(),
        }],
        control: Some(Channel {
            port: "test.control".into(),
            endpoint: control.endpoint,
        }),
        console: Console::Stream(console.endpoint),
        network: Some(Network::User {
            host_port: 0,
            guest_port: 8443,
        }),
        gpu: None,
        qmp: Some(qmp.endpoint),
        pid_file: Some(folder.path().join("pid")),
    };
    let number = kernel.as_raw_fd();
    let descriptors = vec![kernel, disk, console.fd, control.fd, qmp.fd];
    let vm = Vm::spawn(qemu, &spec, descriptors).expect("started");
    let qmp = Qmp::connect(&folder.path().join("qmp"), PATIENCE).await;
    let qmp = qmp.unwrap_or_else(|error| panic!("{error}: {}", vm.diagnostics()));
    let mut output = tokio::net::UnixStream::from_std(output).expect("a stream");
    let mut text = Vec::new();
    let ready = async {
        while !text.ends_with(b"READY\n") {
            assert_ne!(
                output.read_buf(&mut text).await.expect("console"),
                0,
                "{}",
                vm.diagnostics()
            );
        }
    };
    tokio::time::timeout(PATIENCE, ready)
        .await
        .expect("READY in time");
    Running {
        vm,
        qmp,
        kernel: number,
        folder,
    }
}

pub fn filled(bytes: &[u8]) -> OwnedFd {
    let mut file: File = tempfile::tempfile().expect("a temporary file");
    file.write_all(bytes).expect("written");
    file.rewind().expect("rewound");
    file.into()
}

/// Returns the named QEMU, the system's, or the private copy.
pub async fn qemu() -> Option<Qemu> {
    let named = std::env::var_os("COCOON_QEMU").map(PathBuf::from);
    let found = match fetcher() {
        Ok(fetcher) => {
            let found = obtain(named.as_deref(), MINIMUM, fetcher, report::stderr()).await;
            found.map_err(|error| chain(&error))
        }
        Err(error) => Err(error.to_string()),
    };
    match found {
        Ok(obtained) => Some(obtained.qemu),
        Err(error) => {
            skipped(format_args!("no QEMU can be had: {error}"));
            None
        }
    }
}

/// Returns the error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
