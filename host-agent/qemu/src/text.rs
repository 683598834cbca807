//! Checks and escapes text for QEMU's command line.

use std::path::Path;

use crate::spec::{SOCKET_PATH_MAX, SpecError};

/// Escapes `value` for QEMU's `key=value,key=value` syntax by doubling commas.
pub(crate) fn escaped(field: &'static str, value: &str) -> Result<String, SpecError> {
    Ok(plain(field, value)?.replace(',', ",,"))
}

/// Checks `value` for an argument that QEMU takes as it stands.
pub(crate) fn plain<'a>(field: &'static str, value: &'a str) -> Result<&'a str, SpecError> {
    match value.chars().find(|c| c.is_control()) {
        Some(character) => Err(SpecError::ControlCharacter { field, character }),
        None => Ok(value),
    }
}

/// Checks a name, which then needs no escaping.
pub(crate) fn name<'a>(
    field: &'static str,
    value: &'a str,
    max: usize,
) -> Result<&'a str, SpecError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let begins = value
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic());
    if begins && value.len() <= max && value.bytes().all(allowed) {
        Ok(value)
    } else {
        Err(SpecError::Name {
            field,
            name: value.to_owned(),
            max,
        })
    }
}

/// Returns a path as text.
pub(crate) fn path<'a>(field: &'static str, value: &'a Path) -> Result<&'a str, SpecError> {
    value.to_str().ok_or_else(|| SpecError::NotUtf8 {
        field,
        path: value.to_owned(),
    })
}

/// Returns a path that fits into a socket address.
pub(crate) fn socket_path<'a>(field: &'static str, value: &'a Path) -> Result<&'a str, SpecError> {
    let text = path(field, value)?;
    if text.len() > SOCKET_PATH_MAX {
        return Err(SpecError::TooLong {
            field,
            length: text.len(),
            max: SOCKET_PATH_MAX,
        });
    }
    Ok(text)
}

/// Checks that `value` is within `min..=max`.
pub(crate) fn range(field: &'static str, value: u64, min: u64, max: u64) -> Result<(), SpecError> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(SpecError::OutOfRange {
            field,
            value,
            min,
            max,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn commas_are_doubled_and_control_characters_refused() {
        assert_eq!(escaped("disk", "a,b=c,,d").as_deref(), Ok("a,,b=c,,,,d"));
        for character in ['\n', '\r', '\0', '\u{1b}'] {
            let value = format!("a{character}b");
            assert_eq!(
                escaped("disk", &value),
                Err(SpecError::ControlCharacter {
                    field: "disk",
                    character
                })
            );
        }
    }

    #[test]
    fn names_have_one_alphabet() {
        assert_eq!(name("n", "model-1.a_b", 20), Ok("model-1.a_b"));
        for bad in ["", "1a", "-a", "a,b", "a b", "a/b", "ä", "abcdef"] {
            assert_eq!(
                name("n", bad, 5),
                Err(SpecError::Name {
                    field: "n",
                    name: bad.into(),
                    max: 5
                })
            );
        }
    }

    #[test]
    fn paths_must_be_text_and_socket_paths_short() {
        let raw = Path::new(OsStr::from_bytes(b"/a\xff"));
        assert_eq!(
            path("p", raw),
            Err(SpecError::NotUtf8 {
                field: "p",
                path: raw.to_owned()
            })
        );
        let long = "/".repeat(108);
        let error = SpecError::TooLong {
            field: "p",
            length: 108,
            max: 107,
        };
        assert_eq!(socket_path("p", Path::new(&long)), Err(error));
    }
}
