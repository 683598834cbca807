//! Tests of what is read from a process and what is refused.

use super::*;

const GOOD: &[&str] = &[
    "/cache/ld-linux-x86-64.so.2",
    "--library-path",
    "/cache/lib",
    "/cache/usr/bin/qemu-system-x86_64",
    "-L",
    "/cache/share",
    "-nodefaults",
    "-machine",
    "pc-q35-10.0,smm=off",
    "-smp",
    "2,sockets=1,cores=2,threads=1",
    "-m",
    "1024M",
    "-bios",
    "/dev/fd/5",
    "-kernel",
    "/dev/fd/6",
    "-initrd",
    "/dev/fd/7",
    "-append",
    "console=ttyS0 quiet",
    "-device",
    "virtio-blk-pci,id=disk",
    "-no-reboot",
];

fn parse(arguments: &[&str]) -> Result<CommandLine, OpenedError> {
    CommandLine::parse((arguments.join("\0") + "\0").as_bytes())
}

fn refusal(further: &[&str]) -> String {
    parse(&[GOOD, further].concat()).unwrap_err().to_string()
}

#[test]
fn measured_arguments_are_found_behind_the_loader() {
    let expected = CommandLine {
        firmware: 5,
        kernel: 6,
        initrd: Some(7),
        append: "console=ttyS0 quiet".into(),
        memory: 1 << 30,
        vcpus: 2,
    };
    assert_eq!(parse(GOOD).unwrap(), expected);
}

/// Huge pages, host NUMA nodes and other network back ends do not change the measured inputs.
#[test]
fn where_memory_and_bytes_come_from_does_not_matter() {
    let ram = r#"{"qom-type":"memory-backend-memfd","id":"ram0","size":1073741824,"host-nodes":[0],"policy":"bind"}"#;
    let machine = "pc-q35-10.0,memory-backend=ram0";
    let network = "stream,id=net0,server=off,addr.type=unix,addr.path=/run/passt";
    let further = ["-object", ram, "-machine", machine, "-netdev", network];
    let given = parse(&[GOOD, &further].concat()).unwrap();
    assert_eq!(given, parse(GOOD).unwrap());
}

#[test]
fn whatever_could_change_the_memory_is_refused() {
    for (further, what) in [
        (&["-fw_cfg", "name=a,file=b"][..], "-fw_cfg"),
        (&["-pflash", "x"], "-pflash"),
        (&["-device", "loader,file=x"], "-device loader,file=x"),
        (
            &["-object", "memory-backend-ram,id=a"],
            "-object memory-backend-ram,id=a",
        ),
        (
            &["-object", r#"{"qom-type":"memory-backend-file","id":"a"}"#],
            r#"-object {"qom-type":"memory-backend-file","id":"a"}"#,
        ),
        (&["-machine", "pflash0=x"], "-machine pflash0=x"),
        (&["-machine", "q35,kernel=/x"], "-machine q35,kernel=/x"),
        (&["--kernel", "/dev/fd/9"], "--kernel"),
    ] {
        let text =
            format!("QEMU has the argument {what:?}, which cannot be measured: start it without");
        assert_eq!(refusal(further), text);
    }
    assert_eq!(
        refusal(&["-kernel", "/dev/fd/9"]),
        "QEMU has the argument \"-kernel\" twice"
    );
    assert_eq!(
        refusal(&["-device"]),
        "QEMU's argument \"-device\" has no value"
    );
}

#[test]
fn missing_and_odd_arguments_are_named() {
    let without = |flag: &str| {
        let at = GOOD.iter().position(|argument| *argument == flag).unwrap();
        parse(&[&GOOD[..at], &GOOD[at + 2..]].concat())
    };
    for flag in ["-bios", "-kernel", "-append", "-m", "-smp"] {
        let text = format!("QEMU has no argument {flag:?}, which is needed to measure it");
        assert_eq!(without(flag).unwrap_err().to_string(), text);
    }
    assert_eq!(without("-initrd").unwrap().initrd, None);
    let odd = |old: &str, new: &'static str| {
        let swapped: Vec<&str> = GOOD
            .iter()
            .map(|argument| if *argument == old { new } else { argument })
            .collect();
        parse(&swapped)
    };
    assert_eq!(
        odd("1024M", "1G,slots=2").unwrap_err().to_string(),
        "QEMU's argument `-m 1G,slots=2` is not a number of mebibytes with M behind it"
    );
    assert!(matches!(
        odd("/dev/fd/6", "/boot/vmlinuz"),
        Err(OpenedError::Odd {
            flag: "-kernel",
            ..
        })
    ));
    assert!(matches!(
        odd("/cache/usr/bin/qemu-system-x86_64", "sleep"),
        Err(OpenedError::NotQemu)
    ));
}

#[test]
fn files_are_read_through_the_process() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("fd")).unwrap();
    std::fs::write(folder.path().join("cmdline"), GOOD.join("\0")).unwrap();
    for (fd, bytes) in [(5, "firmware"), (6, "kernel"), (7, "initrd")] {
        std::fs::write(folder.path().join(format!("fd/{fd}")), bytes).unwrap();
    }
    let opened = Opened::below(folder.path()).unwrap();
    assert_eq!(
        (&opened.firmware[..], &opened.kernel[..]),
        (&b"firmware"[..], &b"kernel"[..])
    );
    assert_eq!(opened.initrd.unwrap(), b"initrd");

    std::fs::remove_file(folder.path().join("fd/6")).unwrap();
    std::fs::create_dir(folder.path().join("fd/6")).unwrap();
    let error = Opened::below(folder.path()).err().unwrap().to_string();
    assert_eq!(
        error,
        "the kernel of QEMU is not a regular file: its bytes cannot be read again"
    );
}
