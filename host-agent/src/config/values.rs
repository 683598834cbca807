//! Parsers of single values.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use cocoon_protocol::binding::Tee;
use cocoon_protocol::bytes::Hex32;
use cocoon_qemu::PciAddress;
use cocoon_qemu::accel::Wanted;
use toml::de::DeValue;

use super::reader::{Wrong, described, nearest};
use super::{RestartPolicy, TeeMode};
use crate::state;
use crate::text::plain;

type Read<T> = Result<T, Wrong>;

const TEES: [(&str, TeeMode); 4] = [
    ("tdx", TeeMode::Real(Tee::Tdx)),
    ("sev-snp", TeeMode::Real(Tee::SevSnp)),
    ("simulated-tdx", TeeMode::Simulated(Tee::Tdx)),
    ("simulated-sev-snp", TeeMode::Simulated(Tee::SevSnp)),
];
const ACCELERATORS: [(&str, Wanted); 3] = [
    ("auto", Wanted::Automatic),
    ("kvm", Wanted::Kvm),
    ("tcg", Wanted::Emulated),
];
const RESTARTS: [(&str, RestartPolicy); 2] = [
    ("on-failure", RestartPolicy::OnFailure),
    ("never", RestartPolicy::Never),
];

/// Parses an amount of memory such as `1G` or `1536M`. Returns it in MiB.
///
/// # Errors
/// Says what an amount looks like.
pub fn mebibytes(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text:?} is no amount of memory: write it like 1G or 1536M");
    let (digits, factor) = match text
        .split_at_checked(text.len().saturating_sub(1))
        .ok_or_else(wrong)?
    {
        (digits, "G") => (digits, 1024),
        (digits, "M") => (digits, 1),
        _ => return Err(wrong()),
    };
    digits
        .parse::<u32>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(wrong)
}

pub(super) fn memory(value: &DeValue<'_>) -> Read<u32> {
    let allowed = "an amount such as \"4G\" or \"1536M\"";
    let wrong = || Wrong::found(&described(value), allowed);
    let text = value.as_str().ok_or_else(wrong)?;
    mebibytes(text).map_err(|_| {
        let upper = text.trim().to_ascii_uppercase();
        let upper = upper.trim_end_matches('B').trim_end_matches('I');
        let near = mebibytes(&upper.replace(' ', ""));
        Wrong {
            suggestion: near.ok().map(|_| format!("{:?}", upper.replace(' ', ""))),
            ..wrong()
        }
    })
}

pub(super) fn number<T>(range: RangeInclusive<T>) -> impl Fn(&DeValue<'_>) -> Read<T>
where
    T: TryFrom<u64> + PartialOrd + std::fmt::Display,
{
    move |value| {
        let wrong = || {
            let allowed = format!("a number from {} to {}", range.start(), range.end());
            Wrong::found(&described(value), &allowed)
        };
        let integer = value.as_integer().ok_or_else(wrong)?;
        let number = u64::from_str_radix(integer.as_str(), integer.radix());
        let number = number.ok().and_then(|number| T::try_from(number).ok());
        number
            .filter(|number| range.contains(number))
            .ok_or_else(wrong)
    }
}

pub(super) fn flag(value: &DeValue<'_>) -> Read<bool> {
    let wrong = || Wrong::found(&described(value), "true or false");
    value.as_bool().ok_or_else(wrong)
}

pub(super) fn text(value: &DeValue<'_>) -> Read<String> {
    let wrong = || Wrong::found(&described(value), "text in quotes");
    value.as_str().map(str::to_owned).ok_or_else(wrong)
}

/// Accepts absolute paths only: relative ones would depend on the folder in which the service starts.
pub(super) fn path(value: &DeValue<'_>) -> Read<PathBuf> {
    let wrong = || Wrong::found(&described(value), "a path that begins with /");
    let path = value.as_str().map(PathBuf::from).ok_or_else(wrong)?;
    let harmless = !path.to_string_lossy().chars().any(char::is_control);
    if path.is_absolute() && harmless {
        Ok(path)
    } else {
        Err(wrong())
    }
}

pub(super) fn name(value: &DeValue<'_>) -> Read<String> {
    let name = text(value)?;
    let allowed = format!(
        "1 to {} letters, digits, '-', '_' or '.', beginning with a letter",
        state::NAME_MAX
    );
    if state::check(&name).is_ok() {
        Ok(name)
    } else {
        Err(Wrong::found(&described(value), &allowed))
    }
}

pub(super) fn address(value: &DeValue<'_>) -> Read<SocketAddr> {
    let allowed = "an IP address and a port, such as \"0.0.0.0:8443\" or \"[::]:8443\"";
    let wrong = || Wrong::found(&described(value), allowed);
    let text = value.as_str().ok_or_else(wrong)?;
    text.parse().map_err(|_| {
        let local = text
            .strip_prefix("localhost:")
            .map(|port| format!("127.0.0.1:{port}"));
        let suggestion = local
            .or_else(|| {
                Some(format!(
                    "0.0.0.0:{}",
                    text.strip_prefix(':').unwrap_or(text)
                ))
            })
            .filter(|near| near.parse::<SocketAddr>().is_ok())
            .map(|near| format!("{near:?}"));
        Wrong {
            suggestion,
            ..wrong()
        }
    })
}

/// Parses Ed25519 public keys, and refuses duplicates.
pub(super) fn signers(value: &DeValue<'_>) -> Read<Vec<[u8; 32]>> {
    let allowed = "keys as `cocoon-image manifest keygen` prints them, such as [\"64 hexadecimal digits in lower case\"]";
    let wrong = || Wrong::found(&described(value), allowed);
    let DeValue::Array(keys) = value else {
        return Err(wrong());
    };
    let mut signers: Vec<[u8; 32]> = vec![];
    for key in keys.iter() {
        let key = key.get_ref();
        let parsed = key.as_str().and_then(|text| text.parse::<Hex32>().ok());
        let Some(parsed) = parsed else {
            return Err(Wrong::found(&described(key), allowed));
        };
        if signers.contains(&parsed.0) {
            return Err(Wrong::because(format!("{parsed} stands there twice")));
        }
        signers.push(parsed.0);
    }
    Ok(signers)
}

/// Accepts names that are safe on QEMU's command line.
pub(super) fn cpu(value: &DeValue<'_>) -> Read<String> {
    let name = text(value)?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let begins = name.starts_with(|first: char| first.is_ascii_alphabetic());
    if begins && name.len() <= 64 && name.bytes().all(allowed) {
        Ok(name)
    } else {
        let allowed = "one of QEMU's CPU models for SEV-SNP, such as \"EPYC-v4\"";
        Err(Wrong::found(&described(value), allowed))
    }
}

pub(super) fn gpu(value: &DeValue<'_>) -> Read<PciAddress> {
    let allowed = "the PCI address of a GPU, such as \"0000:41:00.0\"";
    let wrong = || Wrong::found(&described(value), allowed);
    let text = value.as_str().ok_or_else(wrong)?;
    text.parse().map_err(|_| wrong())
}

pub(super) fn tee(value: &DeValue<'_>) -> Read<TeeMode> {
    one_of(value, &TEES)
}

pub(super) fn accelerator(value: &DeValue<'_>) -> Read<Wanted> {
    one_of(value, &ACCELERATORS)
}

pub(super) fn restart(value: &DeValue<'_>) -> Read<RestartPolicy> {
    one_of(value, &RESTARTS)
}

pub(super) fn one_of<T: Copy>(value: &DeValue<'_>, choices: &[(&'static str, T)]) -> Read<T> {
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    let allowed = words
        .iter()
        .map(|word| format!("{word:?}"))
        .collect::<Vec<_>>()
        .join(", ");
    let wrong = || Wrong::found(&described(value), &allowed);
    let text = value.as_str().ok_or_else(wrong)?;
    let choice = choices.iter().find(|(word, _)| *word == text);
    choice.map(|(_, choice)| *choice).ok_or_else(|| Wrong {
        suggestion: nearest(&plain(text, 60), &words).map(|near| format!("{near:?}")),
        ..wrong()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_of_mebibytes() {
        assert_eq!(mebibytes("1G"), Ok(1024));
        assert_eq!(mebibytes("1536M"), Ok(1536));
        for wrong in ["", "G", "1", "1T", "-1G", "9999999G", "1é"] {
            assert_eq!(
                mebibytes(wrong),
                Err(format!(
                    "{wrong:?} is no amount of memory: write it like 1G or 1536M"
                ))
            );
        }
    }
}
