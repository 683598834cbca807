//! What names, versions and paths of foreign files may look like.

/// Package and suite names; Python's allow upper case and underscore too.
pub(crate) fn is_name(text: &str) -> bool {
    text.bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric())
        && text.len() <= 128
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-._".contains(&b))
}

/// Debian Policy 5.6.12; also covers PEP 440.
pub(crate) fn is_version(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 128
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b".+-:~!_".contains(&b))
}

/// A path that means the same below any base, in a URL and in a folder.
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
