//! Rules for names, versions and paths of foreign files.

/// Whether this can be the name of a package, suite, component or group. Python names may contain upper case and
/// underscores.
pub(crate) fn is_name(text: &str) -> bool {
    text.bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric())
        && text.len() <= 128
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-._".contains(&b))
}

/// Whether this can be a version (Debian Policy 5.6.12; also covers PEP 440).
pub(crate) fn is_version(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 128
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b".+-:~!_".contains(&b))
}

/// Whether a path is relative and plain, so that it has the same meaning in a URL and in a folder.
pub(crate) fn is_relative(path: &str) -> bool {
    path.len() <= 512
        && path
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..")
        && path
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"/+-._~:!".contains(&b))
        && !path.contains("://")
}
