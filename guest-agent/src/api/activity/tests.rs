//! Tests of when a connection ends, is cut, or leaves to make room for another.

use super::*;
use std::time::Duration;

fn limits() -> Limits {
    Limits {
        head_time: Duration::from_secs(10),
        idle: Duration::from_secs(120),
        unread: Duration::from_secs(60),
        ..Limits::default()
    }
}

fn new(framed: bool) -> Activity {
    Activity::new(framed, Arc::new(Unread::new(1000)))
}

fn idle(framed: bool) -> Activity {
    let activity = new(framed);
    activity.answered(activity.asked());
    activity
}

fn due(activity: &Activity, ending: bool) -> Due {
    activity.due(&limits(), ending)
}

#[test]
fn a_head_that_has_begun_is_short_and_idleness_is_long() {
    let activity = new(false);
    let born = Instant::now();
    assert!(matches!(due(&activity, false), Due::Cut(at) if at <= born + limits().head_time));
    let (first, second) = (activity.asked(), activity.asked());
    assert_ne!(first, second);
    activity.answered(second);
    activity.received();
    assert!(
        matches!(due(&activity, false), Due::Look(_)),
        "one answer is on its way"
    );
    activity.answered(first);
    let now = Instant::now();
    let Due::End(at) = due(&activity, false) else {
        panic!("not idle")
    };
    assert!(at <= now + limits().idle && at > now + limits().idle / 2);
    activity.received();
    assert!(matches!(due(&activity, false), Due::Cut(at) if at < now + limits().idle / 2));
}

#[test]
fn who_was_told_to_leave_has_no_time_to_be_idle() {
    for activity in [idle(false), idle(true)] {
        let before = Instant::now();
        assert!(matches!(due(&activity, false), Due::End(at) if at > before));
        activity.leave();
        let now = Instant::now();
        assert!(matches!(due(&activity, false), Due::End(at) if at <= now));
        assert!(matches!(due(&activity, true), Due::Cut(at) if at >= before + limits().head_time));
    }
    // A request that arrives just after the connection was asked to leave is still answered.
    let activity = idle(false);
    activity.leave();
    activity.received();
    assert!(matches!(due(&activity, true), Due::Cut(_)));
    activity.asked();
    assert!(matches!(due(&activity, true), Due::Look(_)));
}

#[test]
fn pings_are_no_requests() {
    let activity = idle(true);
    let before = due(&activity, false);
    activity.received();
    activity.sent();
    assert_eq!(due(&activity, false), before);
}

#[test]
fn room_is_made_by_the_one_that_was_idle_longest() {
    let table = Table::default();
    assert!(!table.make_room(false));
    let busy = Arc::new(new(false));
    busy.asked();
    let reading = Arc::new(new(false));
    let (first, gone, second) = (
        Arc::new(idle(false)),
        Arc::new(idle(false)),
        Arc::new(idle(true)),
    );
    for activity in [&busy, &second, &reading, &gone, &first] {
        table.add(activity);
    }
    drop(gone);
    let left = |activity: &Activity| matches!(*activity.lock(), State::Leaving(_));
    assert!(table.make_room(false));
    assert!(left(&first) && !left(&second));
    assert!(table.make_room(false));
    assert!(left(&second));
    assert!(!table.make_room(false), "nobody is asked twice");
}

#[test]
fn who_has_attested_leaves_last() {
    let table = Table::default();
    let (attested, stranger, late) = (
        Arc::new(idle(true)),
        Arc::new(idle(true)),
        Arc::new(idle(false)),
    );
    attested.attested();
    for activity in [&attested, &late, &stranger] {
        table.add(activity);
    }
    let alone = Table::default();
    alone.add(&attested);
    assert!(!alone.make_room(true), "it is no stranger");
    let left = |activity: &Activity| matches!(*activity.lock(), State::Leaving(_));
    for newcomer in [&stranger, &late] {
        assert!(table.make_room(false));
        assert!(left(newcomer) && !left(&attested));
    }
    assert!(table.make_room(false));
    assert!(left(&attested));
}

#[test]
fn an_answer_that_nobody_takes_is_cut_whatever_the_others_do() {
    let activity = new(true);
    let (stuck, moving) = (activity.asked(), activity.asked());
    let before = Instant::now();
    activity.given(stuck, 512);
    let after = Instant::now();
    let cut = due(&activity, false);
    let range = before + limits().unread..=after + limits().unread;
    assert!(matches!(cut, Due::Cut(at) if range.contains(&at)));
    for _ in 0..3 {
        activity.given(moving, 512);
        activity.taken(moving);
        activity.received();
        activity.sent();
        assert_eq!(due(&activity, false), cut);
    }
    // A client that takes one piece quickly has the full time for the next.
    activity.taken(stuck);
    assert!(matches!(due(&activity, false), Due::Look(_)));
    activity.given(stuck, 512);
    let Due::Cut(at) = due(&activity, false) else {
        panic!("it waits again")
    };
    assert!(at >= after + limits().unread);
    activity.answered(stuck);
    assert!(matches!(due(&activity, false), Due::Look(_)));
}

#[test]
fn a_socket_that_takes_nothing_is_cut_while_an_answer_is_on_its_way() {
    let unread = Arc::new(Unread::new(1000));
    let activity = Activity::new(false, Arc::clone(&unread));
    let answer = activity.asked();
    // Over HTTP/1.1 only the socket counts.
    activity.given(answer, 512);
    assert!(matches!(due(&activity, false), Due::Look(_)));
    unread.blocked(Instant::now());
    let cut = due(&activity, false);
    assert!(matches!(cut, Due::Cut(_)));
    unread.blocked(Instant::now());
    assert_eq!(due(&activity, false), cut, "it was blocked all the time");
    unread.flowed(512, Instant::now());
    assert!(matches!(due(&activity, false), Due::Look(_)));
    unread.blocked(Instant::now());
    activity.answered(answer);
    assert!(matches!(due(&activity, false), Due::End(_)));
}
