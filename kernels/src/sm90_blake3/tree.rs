//! Plans how chaining values are joined, pass by pass, until each message has one; computes numbers only.

/// Number of values that one block joins.
pub const NODES: u64 = 256;

/// The values of one message that are still to be joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Branch {
    /// Index of its first value, among those of all messages.
    pub first_value: u64,
    /// Number of values, at least 2.
    pub values: u64,
    /// Index of its first group of at most [`NODES`] values, among those of all messages.
    pub first_group: u64,
    /// Index of the message.
    pub message: u64,
}

/// One launch of the joining kernel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pass {
    /// The messages that still have more than one value.
    pub branches: Vec<Branch>,
    /// Number of groups of all branches. Each group leaves one value, or the root if it is the only one of its message.
    pub groups: u64,
}

impl Pass {
    /// Returns the table that the kernel reads.
    pub(super) fn table(&self) -> Vec<u8> {
        let words = |branch: &Branch| {
            [
                branch.first_value,
                branch.values,
                branch.first_group,
                branch.message,
            ]
        };
        self.branches
            .iter()
            .flat_map(words)
            .flat_map(u64::to_le_bytes)
            .collect()
    }

    /// Number of branches.
    pub(super) fn count(&self) -> u32 {
        // There are no more branches than ranges, whose number is at most MAX_RANGES.
        u32::try_from(self.branches.len()).unwrap_or(u32::MAX)
    }
}

/// Returns the passes for messages with these tiles, given as first tile and number of tiles. A message of one tile
/// needs no pass.
#[must_use]
pub fn passes(tiles: &[(u64, u64)]) -> Vec<Pass> {
    let mut open: Vec<(u64, u64, u64)> = tiles
        .iter()
        .zip(0..)
        .map(|(&(first, count), message)| (first, count, message))
        .filter(|(_, count, _)| *count > 1)
        .collect();
    let mut passes = Vec::new();
    while !open.is_empty() {
        let mut pass = Pass::default();
        let mut still_open = Vec::new();
        for (first_value, values, message) in open {
            let groups = values.div_ceil(NODES);
            pass.branches.push(Branch {
                first_value,
                values,
                first_group: pass.groups,
                message,
            });
            if groups > 1 {
                still_open.push((pass.groups, groups, message));
            }
            pass.groups += groups;
        }
        passes.push(pass);
        open = still_open;
    }
    passes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_pass_joins_256_values_and_two_join_65536() {
        assert_eq!(passes(&[(0, 1), (1, 1)]), []);
        let branch = |first_value, values, first_group, message| Branch {
            first_value,
            values,
            first_group,
            message,
        };
        assert_eq!(
            passes(&[(0, 256), (256, 1), (257, 257), (514, 2)]),
            [
                Pass {
                    branches: vec![
                        branch(0, 256, 0, 0),
                        branch(257, 257, 1, 2),
                        branch(514, 2, 3, 3)
                    ],
                    groups: 4
                },
                Pass {
                    branches: vec![branch(1, 2, 0, 2)],
                    groups: 1
                }
            ]
        );
        assert_eq!(passes(&[(0, 65_536)]).len(), 2);
        assert_eq!(passes(&[(0, 65_537)]).len(), 3);
    }

    proptest! {
        /// Every value is joined once, groups are numbered without gaps, and passes shrink, so that two buffers
        /// suffice.
        #[test]
        fn nothing_is_lost_or_joined_twice(tiles in prop::collection::vec(1..200_000u64, 1..20)) {
            let mut first = 0;
            let tiles: Vec<(u64, u64)> = tiles.into_iter().map(|count| { first += count; (first - count, count) }).collect();
            let mut values = tiles.clone();
            let mut before = first + 1;
            let passes = passes(&tiles);
            for pass in &passes {
                let mut group = 0;
                let mut left = vec![(0, 1); tiles.len()];
                for branch in &pass.branches {
                    let message = usize::try_from(branch.message).unwrap();
                    prop_assert_eq!((branch.first_value, branch.values), values[message]);
                    prop_assert_eq!(branch.first_group, group);
                    left[message] = (group, branch.values.div_ceil(NODES));
                    group += branch.values.div_ceil(NODES);
                }
                prop_assert_eq!(pass.groups, group);
                prop_assert!(group < before);
                (values, before) = (left, group);
            }
            prop_assert!(values.iter().all(|(_, count)| *count == 1) || passes.is_empty());
            prop_assert!(!passes.is_empty() || tiles.iter().all(|(_, count)| *count == 1));
        }
    }
}
