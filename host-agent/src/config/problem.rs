//! What is wrong with a file: where, which key, what was found, what is allowed.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The key with its tables, such as `appliance.restart.policy`; empty when the text is no TOML there.
    pub key: String,
    /// What is wrong: a whole sentence with what was found.
    pub message: String,
    /// What may stand there instead.
    pub allowed: Option<String>,
    /// The nearest thing that is allowed.
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

/// Everything that is wrong with a file, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    /// The file.
    pub file: String,
    /// At least one.
    pub list: Vec<Problem>,
}

impl Problems {
    /// Nothing was reported, and yet something is missing.
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
