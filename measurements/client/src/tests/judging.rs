//! Tests of what is appraised again and what is kept: boot documents, with a clock set by the test.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use cocoon_measurements::appraise::Presented;
use cocoon_measurements::verdict::Class;
use cocoon_protocol::bytes::Hex;

use super::double::{Double, Judges, Script, said};
use crate::boot_verdicts::BootVerdicts;
use crate::judge::{Judge, Judgement};
use crate::verifier::Verifier;

const NOON: u64 = 1_800_000_000;
const LAST: u64 = NOON + 100;

/// Counts its appraisals. The verdict on an accepted boot document holds until the second [`LAST`].
struct Counting {
    judges: Judges,
    boots: AtomicUsize,
    sessions: AtomicUsize,
}

impl Judge for Counting {
    fn judge(&self, presented: &Presented<'_>, now: u64) -> Judgement {
        let boot = presented.fresh.is_none();
        let counter = if boot { &self.boots } else { &self.sessions };
        counter.fetch_add(1, Ordering::Relaxed);
        let good = boot && self.judges.boot != Class::Rejected;
        Judgement {
            holds_until: (good && now <= LAST).then_some(LAST),
            ..self.judges.judge(presented, now)
        }
    }
}

/// A verifier with its judge and its clock.
struct World {
    verifier: Verifier,
    judge: Arc<Counting>,
    clock: Arc<AtomicU64>,
}

fn world(boot: Class) -> World {
    let judge = Arc::new(Counting {
        judges: Judges {
            boot,
            session: Class::Confidential,
        },
        boots: AtomicUsize::default(),
        sessions: AtomicUsize::default(),
    });
    let clock = Arc::new(AtomicU64::new(NOON));
    let shown = clock.clone();
    let verifier = Verifier::with_judge(judge.clone(), false)
        .with_clock(Arc::new(move || shown.load(Ordering::Relaxed)));
    World {
        verifier,
        judge,
        clock,
    }
}

impl World {
    /// Returns the numbers of boot and session documents appraised so far, after another connection
    /// at the time `now`.
    async fn judged_at(&self, now: u64, double: &Double) -> (usize, usize) {
        self.clock.store(now, Ordering::Relaxed);
        // Whether it is accepted is tested elsewhere.
        let _ = self.verifier.connect(&double.address).await;
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        (count(&self.judge.boots), count(&self.judge.sessions))
    }
}

/// A verdict on a boot document is used again through the last second for which it holds, but not
/// later, and not after the clock was set back. Session documents are appraised every time.
#[tokio::test]
async fn cocoon_verdict_10() {
    let double = Double::start(Script::default()).await;
    let world = world(Class::Simulated);
    for (now, judged) in [
        (NOON, (1, 1)),
        (NOON, (1, 2)),
        (LAST, (1, 3)),
        // The clock was set back by one second.
        (LAST - 1, (2, 4)),
        (LAST, (2, 5)),
        // In the second after it the verdict no longer holds, so it is not kept, and each
        // connection appraises again.
        (LAST + 1, (3, 6)),
        (LAST + 1, (4, 7)),
        // Back in the time in which it holds: nothing was kept.
        (LAST, (5, 8)),
        (LAST, (5, 9)),
    ] {
        assert_eq!(world.judged_at(now, &double).await, judged, "at {now}");
    }
    // A clone shares the kept verdicts, another verifier does not.
    let clone = World {
        verifier: world.verifier.clone(),
        ..world
    };
    assert_eq!(clone.judged_at(LAST, &double).await, (5, 10));
    let other = self::world(Class::Simulated);
    assert_eq!(other.judged_at(LAST, &double).await, (1, 1));
}

/// A rejected boot document may be acceptable in the next second.
#[tokio::test]
async fn rejected_boots_are_judged_again() {
    let double = Double::start(Script::default()).await;
    let world = world(Class::Rejected);
    for times in 1..=3 {
        assert_eq!(world.judged_at(NOON, &double).await, (times, 0));
    }
}

/// Verdicts on the 64 most recently used certificates are kept, each on its own.
#[test]
fn few_verdicts_are_kept() {
    let kept = BootVerdicts::default();
    let asked = |number: u8| {
        let mut judged = false;
        let _judgement = kept.get_or(Hex([number; 32]), NOON, || {
            judged = true;
            Judgement {
                holds_until: Some(LAST),
                ..said(Class::Simulated)
            }
        });
        judged
    };
    assert!((0..64).all(asked), "nothing is known at first");
    assert!((0..64).all(|number| !asked(number)), "then all are");
    assert!(!asked(0) && asked(64), "a newcomer");
    assert!(!asked(0), "used just before it came");
    assert!(asked(1), "used longest ago: it made room");
}
