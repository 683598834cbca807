//! The result of appraising evidence in files, and its output.

use std::error::Error;

use cocoon_client::terminal::{print, style};
use cocoon_client::{chain, check_table, printable};
use cocoon_measurements::roots::RootClass;
use cocoon_measurements::verdict::{Check, Outcome};
use serde_json::{Map, Value};

use crate::MAX_REASON;

/// Claims in the evidence, in order of output.
pub type Rows = Vec<(&'static str, String)>;

/// Result of an appraisal.
pub struct Appraisal {
    /// Class of the root and claims; `None` if the evidence could not be verified.
    verified: Option<(RootClass, Rows)>,
    checks: Vec<Check>,
    /// Whether measurements were compared with reference values.
    compared: bool,
}

impl Appraisal {
    /// Makes the result for evidence with valid signatures and endorsements; `checks` are about the
    /// platform.
    pub fn verified(root: RootClass, rows: Rows, checks: Vec<Check>) -> Self {
        Self {
            verified: Some((root, rows)),
            checks,
            compared: false,
        }
    }

    /// Makes the result for evidence whose `checks` include the measurements; `root` is the root
    /// that endorses it, if any.
    pub fn compared(root: Option<RootClass>, rows: Rows, checks: Vec<Check>) -> Self {
        // A row without an expected value says why nothing was compared.
        let mut measured = checks.iter().filter(|row| row.id == "gpu.measurements");
        let first = measured.next();
        let compared = first.is_some_and(|row| row.expected.is_some())
            && measured.all(|row| row.expected.is_some());
        Self {
            verified: root.map(|root| (root, rows)),
            checks,
            compared,
        }
    }

    /// Makes the result for evidence that could not be verified. Its claims are not shown.
    pub fn unverified(error: &dyn Error) -> Self {
        let check = Check {
            id: "evidence.signature",
            title: "form, signatures and endorsements of the evidence".to_owned(),
            outcome: Outcome::Fail,
            expected: None,
            found: None,
            cause: Some(chain(error)),
            advice: Some(UNVERIFIED.to_owned()),
        };
        Self {
            verified: None,
            checks: vec![check],
            compared: false,
        }
    }

    /// Returns whether the evidence is rejected: a single failed check is enough, even without a
    /// cause.
    pub fn is_rejected(&self) -> bool {
        self.verified.is_none() || self.failures().next().is_some()
    }

    fn failures(&self) -> impl Iterator<Item = &Check> {
        (self.checks.iter()).filter(|check| check.outcome == Outcome::Fail)
    }

    /// Returns the reasons of the rejection in one line.
    fn reason(&self) -> String {
        let causes = self
            .failures()
            .map(|check| check.cause.as_deref().unwrap_or(&check.title));
        printable(&causes.collect::<Vec<_>>().join("; "), MAX_REASON)
    }

    /// Prints the result, for people or as JSON. `named` says whether the policy came from a file.
    pub fn show(&self, named: bool, json: bool) -> anyhow::Result<()> {
        if json {
            let text = serde_json::to_string_pretty(&self.json()?)?;
            return Ok(print(format_args!("{text}\n"))?);
        }
        match self.accepted() {
            Some((class, root, rows)) => {
                let class = class.to_uppercase();
                let policy = if named { "policy" } else { "default policy" };
                let measurements = if self.compared {
                    "as published"
                } else {
                    "not compared"
                };
                print(format_args!(
                    "{class}: signatures and endorsements hold under the {root} root; the {policy} is met; \
                     measurements {measurements}\n"
                ))?;
                for (name, value) in rows {
                    print(format_args!("  {name:<18} {value}\n"))?;
                }
            }
            None => print(format_args!("REJECTED: {}\n", self.reason()))?,
        }
        // Values are shown in full, so that they can be copied into a policy.
        let table = check_table(&self.checks, style(true));
        Ok(print(format_args!("\n{table}\n"))?)
    }

    fn json(&self) -> serde_json::Result<Map<String, Value>> {
        let mut object = Map::new();
        let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
        let accepted = self.accepted();
        put(
            "class",
            accepted.map_or("rejected", |(class, ..)| class).into(),
        );
        put("measurements_compared", self.compared.into());
        match accepted {
            Some((_, root, rows)) => {
                put("root", root.into());
                for (name, value) in rows {
                    put(name, value.as_str().into());
                }
            }
            None => {
                put("reason", self.reason().into());
            }
        }
        put("checks", serde_json::to_value(&self.checks)?);
        Ok(object)
    }

    /// Returns class, root and claims, unless the evidence is rejected. The class is never
    /// `confidential`, because genuine hardware may run any guest.
    fn accepted(&self) -> Option<(&'static str, &'static str, &Rows)> {
        let (root, rows) = self.verified.as_ref().filter(|_| !self.is_rejected())?;
        let (class, root) = match root {
            RootClass::Vendor => ("genuine", "vendor"),
            RootClass::Development => ("simulated", "development"),
        };
        Some((class, root, rows))
    }
}

const UNVERIFIED: &str =
    "take evidence and endorsements of the same machine, unchanged, and a time within their dates";

#[cfg(test)]
mod tests {
    use super::*;

    fn check(outcome: Outcome) -> Check {
        Check {
            id: "evidence.tcb",
            title: "TCB level".to_owned(),
            outcome,
            expected: None,
            found: None,
            cause: None,
            advice: None,
        }
    }

    fn of(outcomes: &[Outcome]) -> Appraisal {
        let checks = outcomes.iter().copied().map(check).collect();
        let rows = vec![("mrtd", "00".to_owned())];
        Appraisal::verified(RootClass::Vendor, rows, checks)
    }

    /// A failed check leads to a rejection even if it has no cause, and no claims are shown.
    #[test]
    fn a_failed_check_without_a_cause_rejects() {
        let good = of(&[Outcome::Pass, Outcome::Note]);
        assert!(!good.is_rejected());
        let shown = good.json().unwrap();
        assert_eq!(
            (&shown["class"], &shown["mrtd"]),
            (&"genuine".into(), &"00".into())
        );
        let bad = of(&[Outcome::Pass, Outcome::Fail]);
        assert!(bad.is_rejected());
        let shown = bad.json().unwrap();
        assert_eq!(shown["class"], "rejected");
        assert_eq!(shown["reason"], "TCB level");
        assert_eq!(shown["checks"].as_array().unwrap().len(), 2);
        assert_eq!(shown["checks"][1]["outcome"], "fail");
        assert!(!shown.contains_key("mrtd") && !shown.contains_key("root"));
    }

    #[test]
    fn what_does_not_verify_is_a_check_too() {
        let appraisal = Appraisal::unverified(&std::io::Error::other("no quote"));
        assert!(appraisal.is_rejected());
        let shown = appraisal.json().unwrap();
        assert_eq!(shown["reason"], "no quote");
        assert_eq!(shown["checks"][0]["id"], "evidence.signature");
        assert_eq!(shown["checks"][0]["cause"], "no quote");
    }
}
