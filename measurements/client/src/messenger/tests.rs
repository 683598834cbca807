//! Tests of cutting, asking and merging, on generated texts.

use proptest::prelude::*;
use unicode_segmentation::UnicodeSegmentation as _;

use super::digest::Digest;
use super::job::{Job, JobError, Next};
use super::pieces::{MIN_LIMIT, Piece, pieces};
use super::task::{Style, Task, Tone};
use super::tokens::estimate;
use super::translation::Translation;

fn translate() -> Task {
    Task::Translate {
        to: "fr".parse().unwrap(),
        from: None,
    }
}

fn texts<'a>(pieces: &[Piece<'a>]) -> Vec<&'a str> {
    let texts = pieces.iter().filter_map(|piece| match piece {
        Piece::Text(text) => Some(*text),
        Piece::Kept(_) => None,
    });
    texts.collect()
}

fn joined(pieces: &[Piece<'_>]) -> String {
    pieces.iter().map(|piece| piece.as_str()).collect()
}

/// Generates messages with everything that is hard to cut.
fn message() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => "[a-zA-Z]{1,12}[ ,.?!]{0,2}",
        2 => "[а-яё]{1,10} ",
        1 => "[一-龥]{1,20}。?",
        1 => Just("👩‍👩‍👧‍👦🏳️‍🌈".to_owned()),
        1 => Just("e\u{301}\u{302}\u{303}".to_owned()),
        1 => "https://[a-z]{2,9}\\.example/[a-z0-9/?=&.]{0,60} ",
        1 => Just(" @some_one ".to_owned()),
        1 => "\n{1,3}",
        1 => "[ \t\r\n]{1,6}",
        1 => Just("\n```rust\nfn main() {}\n\nlet a = 1;\n```\n".to_owned()),
        1 => "`[a-z -]{1,30}` ",
        1 => any::<String>(),
    ];
    prop::collection::vec(part, 0..60).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn pieces_are_the_text_in_order_and_within_the_limit(text in message(), limit in 0_usize..200) {
        let found = pieces(&text, limit);
        prop_assert_eq!(joined(&found), &*text);
        for piece in &found {
            match piece {
                Piece::Text(text) => {
                    prop_assert!(estimate(text) <= limit.max(MIN_LIMIT), "{text:?}");
                    prop_assert_eq!(text.trim(), *text);
                    prop_assert!(!text.is_empty());
                }
                Piece::Kept(blank) => prop_assert_eq!(blank.trim(), ""),
            }
        }
        prop_assert!(found.windows(2).all(|two| !matches!(two, [Piece::Kept(_), Piece::Kept(_)])));
    }

    /// A character as readers see it is not cut where it fits.
    #[test]
    fn characters_stay_whole(text in message(), limit in 64_usize..200) {
        prop_assume!(text.graphemes(true).all(|grapheme| estimate(grapheme) <= limit / 2));
        let mut at = 0;
        let whole: Vec<_> = text.grapheme_indices(true).map(|(index, _)| index).collect();
        for piece in pieces(&text, limit) {
            // A combining mark may follow white space, which is a piece of its own.
            let blank = text[..at].ends_with(char::is_whitespace);
            prop_assert!(blank || whole.binary_search(&at).is_ok(), "{at} in {text:?}");
            at += piece.as_str().len();
        }
    }

    /// With a translator that copies its input, the result is the text itself, however long, as
    /// long as the smallest part fits into the context.
    #[test]
    fn translations_keep_what_stands_between(text in message(), context in 400_u32..2000, bytes in 96_usize..400) {
        let mut job = Translation::new(translate(), context, &text).unwrap();
        let mut result = String::new();
        loop {
            match job.next() {
                Next::Done => break,
                Next::Kept(kept) => result.push_str(kept),
                // This model counts a token for every byte, more than the estimate.
                Next::Ask(question) if question.text.len() > bytes => job.exceeded().unwrap(),
                Next::Ask(question) => {
                    result.push_str(question.text);
                    job.answered("").unwrap();
                }
            }
        }
        prop_assert_eq!(result, text);
    }
}

#[test]
fn cuts_are_where_readers_pause() {
    let found = |text, limit| -> Vec<&str> { texts(&pieces(text, limit)) };
    let text = "One two three. Four five six?\nSeven eight nine ten.\n\nEleven twelve.";
    assert_eq!(
        found(text, 30),
        [
            "One two three. Four five six?\nSeven eight nine ten.",
            "Eleven twelve."
        ]
    );
    assert_eq!(
        found(text, 16),
        [
            "One two three. Four five six?",
            "Seven eight nine ten.",
            "Eleven twelve."
        ]
    );
    assert_eq!(
        found(text, 11),
        [
            "One two three.",
            "Four five six?",
            "Seven eight nine ten.",
            "Eleven twelve."
        ]
    );
    assert_eq!(
        found("Seven eight nine ten", 8),
        ["Seven eight nine", "ten"]
    );
    // Without white space: between words as Unicode defines them, then between characters.
    assert_eq!(found("你好。世界很大", 12), ["你好。", "世界很大"]);
    assert_eq!(found("abcdefgh", 4), ["abcdefgh"]);
    assert_eq!(found("abcdefghij", 4), ["abcdefgh", "ij"]);
    assert_eq!(found(" \n ", 4), [""; 0]);
}

#[test]
fn links_mentions_emoji_and_code_stay_whole() {
    let link = "https://a.example/path?query=one.two&three=four#five";
    let family = "👩‍👩‍👧‍👦";
    let block = "```\nlet a = 1;\n\nlet b = 2;\n```";
    for kept in [link, "@some_one", family, "`cargo test --workspace`", block] {
        for before in 0..40 {
            let text = format!(
                "{}\n{kept}\nand more words after it",
                "word ".repeat(before)
            );
            let found = pieces(&text, 64);
            let whole = texts(&found).iter().any(|text| text.contains(kept));
            assert!(whole, "{kept} after {before} words: {found:?}");
        }
    }
    // A link that is too long is cut, but nothing around it.
    let long = format!("before {link}{link} after");
    let found = pieces(&long, 32);
    assert_eq!(joined(&found), long);
    assert_eq!(found.first(), Some(&Piece::Text("before")));
}

#[test]
fn code_blocks_are_not_translated() {
    let block = "```sh\nrm -r target\n```\n";
    let text = format!("Run this:\n\n{block}\nThen wait.");
    let mut job = Translation::new(translate(), 8192, &text).unwrap();
    let (mut asked, mut result) = (Vec::new(), String::new());
    loop {
        match job.next() {
            Next::Done => break,
            Next::Kept(kept) => result.push_str(kept),
            Next::Ask(question) => {
                asked.push(question.text.to_owned());
                result.push_str("<>");
                job.answered("").unwrap();
            }
        }
    }
    assert_eq!(asked, ["Run this:", "Then wait."]);
    assert_eq!(result, format!("<>\n\n{block}\n<>"));
}

#[test]
fn a_context_that_is_too_short_is_named() {
    let made = |context| Translation::new(translate(), context, "text").map(|_| ());
    assert_eq!(made(100), Err(JobError::Context(100)));
    assert_eq!(made(1024), Ok(()));
    let text = "word ".repeat(100);
    let mut job = Translation::new(translate(), 1024, &text).unwrap();
    let refused = std::iter::repeat_with(|| {
        assert!(matches!(job.next(), Next::Ask(_)));
        job.exceeded()
    });
    let error = refused.take(20).find_map(Result::err);
    assert!(
        matches!(error, Some(JobError::Part(tokens)) if tokens < 32),
        "{error:?}"
    );
}

fn summarize() -> Task {
    Task::Summarize {
        style: Style::Paragraph,
        words: None,
    }
}

/// Blank lines around a message are never asked about, however many there are.
#[test]
fn a_reply_is_to_the_words_and_not_to_the_blanks_around_them() {
    let blanks = "\n".repeat(3000);
    for text in [format!("hello{blanks}"), format!("{blanks}hello")] {
        let job = Digest::replies(Task::Reply { tone: Tone::Same }, 1024, &text, 1).unwrap();
        let asked = asked(job, |_| "x".into()).unwrap();
        assert_eq!(asked, [("reply", "hello".to_owned())]);
    }
}

/// Returns everything that is asked, with answers from `answer`.
fn asked(
    mut job: Digest,
    mut answer: impl FnMut(&str) -> String,
) -> Result<Vec<(&'static str, String)>, JobError> {
    let mut asked = Vec::new();
    while let Next::Ask(question) = job.next() {
        let (name, text) = (question.task.name(), question.text.to_owned());
        let answer = answer(&text);
        asked.push((name, text));
        job.answered(&answer)?;
    }
    Ok(asked)
}

#[test]
fn a_short_text_is_summarized_as_it_is() {
    let job = Digest::summary(summarize(), 8192, " a\n\nb ").unwrap();
    let asked = asked(job, |_| "c".to_owned()).unwrap();
    assert_eq!(asked, [("summarize", " a\n\nb ".to_owned())]);
}

#[test]
fn a_long_text_becomes_notes_in_order() {
    let words: Vec<_> = (0..3000).map(|number| format!("{number}.")).collect();
    let job = Digest::summary(summarize(), 2048, &words.join(" ")).unwrap();
    let asked = asked(job, |text| {
        text.split(' ').next().unwrap_or_default().to_owned()
    })
    .unwrap();
    let (last, parts) = asked.split_last().unwrap();
    assert!(parts.len() > 5 && parts.iter().all(|(task, _)| *task == "notes"));
    let read: Vec<_> = parts.iter().flat_map(|(_, text)| text.split(' ')).collect();
    assert_eq!(read, words);
    let firsts: Vec<_> = parts
        .iter()
        .map(|(_, text)| text.split(' ').next().unwrap())
        .collect();
    let notes: Vec<_> = last.1.split_whitespace().collect();
    assert_eq!((last.0, notes), ("summarize", firsts));
}

#[test]
fn notes_that_do_not_fit_are_noted_down_again() {
    let text = "some words. ".repeat(4000);
    let job = Digest::summary(summarize(), 1024, &text).unwrap();
    // Each note has a quarter of the length of its part.
    let asked = asked(job, |text| text[..text.len() / 4].to_owned()).unwrap();
    let lengths: Vec<_> = asked.iter().map(|(_, text)| estimate(text)).collect();
    assert!(lengths.iter().all(|length| *length <= 1024), "{lengths:?}");
    let read: usize = asked.iter().map(|(_, text)| text.len()).sum();
    assert!(read > text.len() * 6 / 5, "one round only: {read}");
    assert_eq!(asked.last().unwrap().0, "summarize");
}

#[test]
fn notes_that_are_no_shorter_end_it() {
    let text = "some words. ".repeat(1000);
    let job = Digest::summary(summarize(), 1024, &text).unwrap();
    assert_eq!(
        asked(job, |text| format!("{text} and more")),
        Err(JobError::NoShorter)
    );
}

#[test]
fn a_reply_reads_the_end_of_a_thread_word_by_word() {
    let task = Task::Reply { tone: Tone::Same };
    let beginning = "Ann: something was said.\n".repeat(400);
    let end = "Bob: shall we meet at nine?";
    let job = Digest::replies(task.clone(), 1024, &format!("{beginning}\n{end}\n"), 2).unwrap();
    let asked = asked(job, |_| "They talked.".to_owned()).unwrap();
    let drafts: Vec<_> = asked.iter().filter(|(task, _)| *task == "reply").collect();
    assert_eq!(drafts.len(), 2);
    assert_eq!(drafts[0], drafts[1]);
    let text = &drafts[0].1;
    assert!(text.starts_with("They talked.\n\n"), "{text}");
    assert!(text.trim_end().ends_with(end), "{text}");
    assert!(
        asked
            .iter()
            .all(|(task, text)| *task == "reply" || !text.contains("nine")),
        "the end is no part of the notes"
    );

    // If even that is too long, more of the thread becomes notes.
    let mut job = Digest::replies(task, 1024, &beginning[..600], 1).unwrap();
    assert!(matches!(job.next(), Next::Ask(question) if question.task.name() == "reply"));
    job.exceeded().unwrap();
    assert!(matches!(job.next(), Next::Ask(question) if question.task.name() == "notes"));
}

#[test]
fn parts_of_notes_that_were_too_long_are_halved() {
    let text = "some words. ".repeat(1000);
    let mut job = Digest::summary(summarize(), 1024, &text).unwrap();
    let mut length = || match job.next() {
        Next::Ask(question) => (question.text.len(), job.exceeded()),
        _ => panic!("nothing is asked"),
    };
    let (first, halved) = length();
    assert_eq!(halved, Ok(()));
    let (second, _) = length();
    assert!(second <= first / 2 + 8, "{first} {second}");
}
