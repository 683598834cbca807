//! Problems in a configuration file: position, key, what was found, and what is allowed.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One problem in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// The key with its tables, such as `appliance.restart.policy`; empty for a TOML syntax error.
    pub key: String,
    /// What is wrong, with the value that was found.
    pub message: String,
    /// The allowed values.
    pub allowed: Option<String>,
    /// The nearest allowed value or key.
    pub suggestion: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}", self.message)?;
        if let Some(allowed) = &self.allowed {
            write!(f, "; allowed: {allowed}")?;
        }
        if let Some(suggestion) = &self.suggestion {
            write!(f, "; did you mean {suggestion}?")?;
        }
        Ok(())
    }
}

/// All problems in a file, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    /// Name of the file.
    pub file: String,
    /// The problems; never empty.
    pub list: Vec<Problem>,
}

impl Problems {
    /// The file is incomplete, although no problem was reported.
    pub(super) fn incomplete(file: &str) -> Self {
        let problem = Problem {
            line: 1,
            column: 1,
            key: String::new(),
            message: "the file is incomplete".to_owned(),
            allowed: None,
            suggestion: None,
        };
        Self {
            file: file.to_owned(),
            list: vec![problem],
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{}:{problem}", self.file)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
