//! The canonical form over which a lock's digest is computed: length-prefixed fields.

use crate::Digest;

/// An encoding in which different sequences of fields never give the same bytes.
pub(crate) struct Canonical(Vec<u8>);

impl Canonical {
    pub(crate) fn new(tag: &str) -> Self {
        let mut form = Self(Vec::new());
        form.fields(&[tag]);
        form
    }

    pub(crate) fn fields(&mut self, fields: &[&str]) {
        for field in fields {
            self.0
                .extend_from_slice(&(field.len() as u64).to_be_bytes());
            self.0.extend_from_slice(field.as_bytes());
        }
    }

    pub(crate) fn list(&mut self, items: &[String]) {
        self.fields(&[&items.len().to_string()]);
        items.iter().for_each(|item| self.fields(&[item]));
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.0)
    }
}
