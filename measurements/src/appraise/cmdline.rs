//! Explains an edited kernel command line by the words that differ.
//!
//! Only the digest of the command line is measured. The event log may contain the line itself, which counts if it hashes to
//! that digest. Otherwise likely edits of the manifest's line are tried until one has the digest. Either way, what is shown
//! is what was measured, not what the host claims.

use cocoon_protocol::bytes::Hex48;

use crate::{
    manifest::printable,
    tdx::rtmr::{Edk2, loaded_command_line},
};

/// Kernel parameters that are often added, legitimately or not.
const USUAL: [&str; 26] = [
    "quiet",
    "debug",
    "nokaslr",
    "single",
    "1",
    "rw",
    "ro",
    "init=/bin/sh",
    "init=/bin/bash",
    "rdinit=/bin/sh",
    "rd.break",
    "console=ttyS0",
    "console=ttyS0,115200",
    "console=hvc0",
    "console=tty0",
    "earlyprintk=serial",
    "earlycon",
    "loglevel=7",
    "loglevel=8",
    "ignore_loglevel",
    "panic=0",
    "mitigations=off",
    "lockdown=none",
    "module.sig_enforce=0",
    "swiotlb=force",
    "systemd.unit=rescue.target",
];
/// Longest command line that is analysed, in bytes. No kernel accepts a longer one.
const LONGEST: usize = 4096;

/// Returns the words that differ between `expected` and the line with the measured digest `found`. `logged` is the event's
/// data if it hashes to that digest.
pub(super) fn difference(expected: &str, found: &Hex48, logged: Option<&[u8]>) -> Option<String> {
    if expected.len() > LONGEST {
        return None;
    }
    let logged = logged.and_then(from_utf16);
    let measured = logged.as_deref().map(stripped);
    let measured = measured
        .or_else(|| edits(expected).find(|line| forms(line).any(|form| digest(&form) == *found)))?;
    Some(shown(&measured, expected))
}

/// Returns the SHA-384 of the line as the kernel's EFI stub measures it.
fn digest(line: &str) -> Hex48 {
    let mut utf16: Vec<u8> = line.encode_utf16().flat_map(u16::to_le_bytes).collect();
    utf16.extend([0, 0]);
    Hex48::sha384(&utf16)
}

fn from_utf16(data: &[u8]) -> Option<String> {
    if data.len() > 2 * (LONGEST + 64) {
        return None;
    }
    let (pairs, []) = data.as_chunks::<2>() else {
        return None;
    };
    let units: Vec<u16> = pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
    String::from_utf16(units.strip_suffix(&[0])?).ok()
}

/// Returns `line` as older and newer firmware completes it.
fn forms(line: &str) -> impl Iterator<Item = String> {
    [Edk2::Stable202508, Edk2::Stable202505]
        .map(|edk2| loaded_command_line(line, true, edk2))
        .into_iter()
}

/// Removes the token that the firmware adds.
fn stripped(line: &str) -> String {
    const TOKEN: &str = "initrd=initrd";
    let without = line
        .strip_prefix(TOKEN)
        .or_else(|| line.strip_suffix(TOKEN));
    without.unwrap_or(line).to_owned()
}

/// Returns the line and its likely edits, or nothing for a line that is too long.
///
/// The edits are: an empty line, normalised white space, a space, line break or NUL at the end, one word removed, all words
/// from one on removed, two neighbours swapped, another digit as a value, and one usual word added at either end.
pub(super) fn edits(line: &str) -> impl Iterator<Item = String> {
    if line.len() > LONGEST {
        return Vec::new().into_iter();
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut edits = vec![
        line.to_owned(),
        String::new(),
        line.trim().to_owned(),
        words.join(" "),
    ];
    edits.extend([" ", "\n", "\0"].map(|end| format!("{line}{end}")));
    for at in 0..words.len() {
        let mut less = words.clone();
        let word = less.remove(at);
        edits.push(less.join(" "));
        edits.push(words[..at].join(" "));
        if at + 1 < words.len() {
            let mut swapped = words.clone();
            swapped.swap(at, at + 1);
            edits.push(swapped.join(" "));
        }
        if let Some((name, value)) = word.split_once('=')
            && value.len() == 1
        {
            edits.extend((0..10).map(|digit| {
                let other = format!("{name}={digit}");
                let mut changed = words.clone();
                changed[at] = &other;
                changed.join(" ")
            }));
        }
    }
    for word in USUAL {
        edits.push(format!("{line} {word}"));
        edits.push(format!("{word} {line}"));
    }
    edits.into_iter()
}

/// Returns the words that differ, in order: `-` marks missing words, `+` added ones.
pub(super) fn shown(found: &str, expected: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (
        expected.split_whitespace().collect(),
        found.split_whitespace().collect(),
    );
    let words = diff(&old, &new);
    if words.is_empty() {
        return "the words are the manifest's, the space between or behind them is not".to_owned();
    }
    let words: Vec<String> = words
        .iter()
        .map(|(mark, word)| format!("{mark}{}", printable(word)))
        .collect();
    words.join(" ")
}

/// Computes the difference by the longest common subsequence. [`LONGEST`] bounds both lines.
fn diff<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<(char, &'a str)> {
    let mut common = vec![vec![0_u16; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] = if old[i] == new[j] {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut words) = (0, 0, Vec::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && common[i + 1][j] >= common[i][j + 1]) {
            words.push(('-', old[i]));
            i += 1;
        } else {
            words.push(('+', new[j]));
            j += 1;
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::{Edk2, LONGEST, difference, digest, edits, loaded_command_line};

    const LINE: &str = "console=ttyS0 quiet loglevel=3 panic=-1";

    fn measured(line: &str) -> cocoon_protocol::bytes::Hex48 {
        digest(&loaded_command_line(line, true, Edk2::Stable202508))
    }

    #[test]
    fn likely_edits_are_found_by_their_digest() {
        for (edited, expected) in [
            ("", "-console=ttyS0 -quiet -loglevel=3 -panic=-1"),
            ("console=ttyS0 loglevel=3 panic=-1", "-quiet"),
            ("console=ttyS0 quiet loglevel=3 panic=-1 debug", "+debug"),
            (
                "init=/bin/sh console=ttyS0 quiet loglevel=3 panic=-1",
                "+init=/bin/sh",
            ),
            (
                "console=ttyS0 quiet loglevel=7 panic=-1",
                "-loglevel=3 +loglevel=7",
            ),
            (
                "quiet console=ttyS0 loglevel=3 panic=-1",
                "-console=ttyS0 +console=ttyS0",
            ),
            ("console=ttyS0 quiet", "-loglevel=3 -panic=-1"),
            (
                "console=ttyS0 quiet loglevel=3 panic=-1 ",
                "the words are the manifest's, the space between or behind them is not",
            ),
        ] {
            let shown = difference(LINE, &measured(edited), None);
            assert_eq!(shown.as_deref(), Some(expected), "{edited:?}");
        }
        assert_eq!(difference(LINE, &measured("something else"), None), None);
    }

    #[test]
    fn a_logged_line_is_shown_whatever_it_is() {
        let line = loaded_command_line("evil=1 quiet \u{1b}[2J", true, Edk2::Stable202508);
        let mut data: Vec<u8> = line.encode_utf16().flat_map(u16::to_le_bytes).collect();
        data.extend([0, 0]);
        assert_eq!(
            difference(LINE, &digest(&line), Some(&data)).as_deref(),
            Some("-console=ttyS0 +evil=1 -loglevel=3 -panic=-1 +?[2J"),
            "and cannot steer a terminal"
        );
        // The length of the manifest's line is limited too: the table of two long lines would take gigabytes.
        let word = "a ";
        let (longest, longer) = (word.repeat(LONGEST / 2), word.repeat(LONGEST / 2 + 1));
        let shown = difference(&longest, &digest(&line), Some(&data));
        assert!(shown.is_some_and(|words| words.contains("+evil=1")));
        assert_eq!(difference(&longer, &digest(&line), Some(&data)), None);
        assert_eq!(edits(&longer).count(), 0);
        // A line without its terminating zero is ignored.
        assert_eq!(difference(LINE, &digest("x"), Some(&data[..3])), None);
    }
}
