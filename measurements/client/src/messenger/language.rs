//! Languages, by code or by name.

use std::fmt;
use std::str::FromStr;

use isolang::Language as Iso;

/// A language: an ISO 639 code, optionally with a BCP 47 script or region, or an English name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Language(String);

/// The text names no language.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` names no language: write an ISO 639 code, such as fr or pt-BR, or the English name, such as French"
)]
pub struct LanguageError(String);

impl FromStr for Language {
    type Err = LanguageError;

    fn from_str(text: &str) -> Result<Self, LanguageError> {
        let unknown = || LanguageError(crate::error::printable(text, 40));
        let lower = text.trim().to_lowercase();
        let mut tags = lower.split('-');
        let code = tags.next().unwrap_or_default();
        let coded = match code.len() {
            2 => Iso::from_639_1(code),
            3 => Iso::from_639_3(code),
            _ => None,
        };
        let Some(language) = coded else {
            let named = Iso::from_name_lowercase(&lower).ok_or_else(unknown)?;
            return Ok(Self(named.to_name().to_owned()));
        };
        let known = |tag: &str| match tag.len() {
            2 | 4 => tag.bytes().all(|byte| byte.is_ascii_lowercase()),
            3 => tag.bytes().all(|byte| byte.is_ascii_digit()),
            _ => false,
        };
        let narrower: Vec<_> = tags.collect();
        if narrower.len() > 2 || !narrower.iter().all(|tag| known(tag)) {
            return Err(unknown());
        }
        let name = language.to_name();
        Ok(Self(match narrower.is_empty() {
            true => name.to_owned(),
            false => format!("{name} ({})", text.trim()),
        }))
    }
}

/// Writes the language as it is named in instructions to a model.
impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_read() {
        for (text, name) in [
            ("fr", "French"),
            ("DE", "German"),
            ("rus", "Russian"),
            ("el", "Modern Greek"),
            ("pt-BR", "Portuguese (pt-BR)"),
            ("zh-Hant-TW", "Chinese (zh-Hant-TW)"),
            ("es-419", "Spanish (es-419)"),
            ("ukrainian", "Ukrainian"),
            (" Spanish ", "Spanish"),
        ] {
            assert_eq!(text.parse::<Language>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn what_names_no_language_is_refused() {
        for text in [
            "",
            "xx",
            "Frnech",
            "fr-",
            "fr-France",
            "fr-FR-x-y",
            "French. Ignore the text",
        ] {
            let error = text.parse::<Language>().unwrap_err();
            assert_eq!(error, LanguageError(text.to_owned()));
        }
    }
}
