//! Compares versions in Debian's order (Debian Policy 5.6.12).

use std::cmp::Ordering;

/// Compares two versions: epoch, then upstream version, then revision.
#[must_use]
pub fn compare(a: &str, b: &str) -> Ordering {
    let (a, b) = (split(a), split(b));
    digits(a.0, b.0)
        .then_with(|| part(a.1, b.1))
        .then_with(|| part(a.2, b.2))
}

/// Whether `version` satisfies a relation of a dependency field, such as `>=`.
pub(crate) fn satisfies(version: &str, relation: &str, wanted: &str) -> bool {
    let order = compare(version, wanted);
    match relation {
        "<<" => order.is_lt(),
        "<=" | "<" => order.is_le(),
        "=" => order.is_eq(),
        ">=" | ">" => order.is_ge(),
        ">>" => order.is_gt(),
        _ => false,
    }
}

fn split(version: &str) -> (&str, &str, &str) {
    let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, "0"));
    (epoch, upstream, revision)
}

/// Compares alternating runs of non-digits and digits, as the policy specifies.
fn part(mut a: &str, mut b: &str) -> Ordering {
    while !(a.is_empty() && b.is_empty()) {
        let (a_text, a_rest) = run(a, |c| !c.is_ascii_digit());
        let (b_text, b_rest) = run(b, |c| !c.is_ascii_digit());
        let (a_digits, a_next) = run(a_rest, |c| c.is_ascii_digit());
        let (b_digits, b_next) = run(b_rest, |c| c.is_ascii_digit());
        let order = text(a_text, b_text).then_with(|| digits(a_digits, b_digits));
        if order.is_ne() {
            return order;
        }
        (a, b) = (a_next, b_next);
    }
    Ordering::Equal
}

fn run(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

/// Compares non-digits: `~` sorts before the end, the end before letters, and letters before other characters.
fn text(a: &str, b: &str) -> Ordering {
    let weight = |c: Option<char>| match c {
        Some('~') => -1,
        None => 0,
        Some(c) if c.is_ascii_alphabetic() => i64::from(u32::from(c)),
        Some(c) => i64::from(u32::from(c)) + 0x11_0000,
    };
    let (mut a, mut b) = (a.chars(), b.chars());
    loop {
        let (left, right) = (a.next(), b.next());
        if left.is_none() && right.is_none() {
            return Ordering::Equal;
        }
        let order = weight(left).cmp(&weight(right));
        if order.is_ne() {
            return order;
        }
    }
}

/// Compares numbers of any length without parsing them, so that none overflows.
fn digits(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn order_of_the_policy() {
        let ascending = [
            "0~~",
            "0~~a",
            "0~",
            "0",
            "0a",
            "1.0~rc1-1",
            "1.0-0~bpo12+1",
            "1.0",
            "1.0-1",
            "1.0-1+deb13u1",
            "1.0-1.1",
            "1.0+ds-1",
            "1.0a-1",
        ];
        // `a` sorts before `+`, so the last two are swapped.
        let mut ascending = ascending.to_vec();
        ascending.swap(11, 12);
        ascending.extend([
            "1.2",
            "1.10",
            "6.12.107-1",
            "6.12.117-1",
            "1:0",
            "1:10.0.2+ds-2+deb13u1",
            "1:10.0.13+ds-0+deb13u1",
            "2:0",
        ]);
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                assert_eq!(compare(a, b), i.cmp(&j), "{a} against {b}");
            }
        }
        assert_eq!(compare("1.0", "1.0-0"), Ordering::Equal);
        assert_eq!(compare("0:1.00", "1.0"), Ordering::Equal);
    }

    #[test]
    fn relations() {
        assert!(satisfies("2.41-12", ">=", "2.38"));
        assert!(satisfies("1.16.3-2", ">>", "1.16.3-1~"));
        assert!(!satisfies("1", "<<", "1"));
        assert!(!satisfies("1", "~", "1"));
    }

    proptest! {
        #[test]
        fn it_is_an_order(a in "[0-9a-c~.+:-]{0,8}", b in "[0-9a-c~.+:-]{0,8}", c in "[0-9a-c~.+:-]{0,8}") {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            if compare(&a, &b).is_le() && compare(&b, &c).is_le() {
                prop_assert!(compare(&a, &c).is_le());
            }
        }
    }
}
