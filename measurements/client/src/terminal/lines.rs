//! Questions from standard input, one per line with a length limit, and the tally of their results.

use std::io::{BufRead, Read as _};

use zeroize::{Zeroize as _, Zeroizing};

use super::TerminalError;

/// Longest line, in bytes. It leaves room for the rest of a request.
pub(super) const MAX_LINE: usize = 512 * 1024;

/// Returns the next line, or `None` at the end. Skips a line that is too long as a whole, so that
/// its parts do not become questions.
pub(super) fn next(input: &mut impl BufRead) -> Result<Option<Zeroizing<String>>, TerminalError> {
    // One byte more than the limit tells a line that just fits from a longer one. Allocated at
    // once: a vector that grows would leave copies behind that are not wiped.
    let limit = MAX_LINE + 1;
    let mut line = Zeroizing::new(Vec::with_capacity(limit));
    let read = input
        .by_ref()
        .take(limit as u64)
        .read_until(b'\n', &mut line)?;
    if read == 0 {
        return Ok(None);
    }
    if read > MAX_LINE && !line.ends_with(b"\n") {
        input.skip_until(b'\n')?;
        return Err(TerminalError::LineTooLong);
    }
    match String::from_utf8(std::mem::take(&mut *line)) {
        Ok(line) => Ok(Some(Zeroizing::new(line))),
        Err(error) => {
            error.into_bytes().zeroize();
            Err(TerminalError::NotText)
        }
    }
}

/// Tally of the results of a conversation's questions.
#[derive(Debug, Default)]
pub struct Tally {
    asked: usize,
    failed: usize,
    rejected: bool,
}

impl Tally {
    /// Counts a question. The error says whether appliances were refused for what they presented.
    pub fn count(&mut self, result: Result<(), bool>) {
        self.asked += 1;
        if let Err(rejected) = result {
            self.failed += 1;
            self.rejected |= rejected;
        }
    }

    /// Returns the overall result.
    ///
    /// # Errors
    /// [`TerminalError::Unanswered`] if at least one question failed. It counts as a rejection if
    /// one of them was one.
    pub fn end(self) -> Result<(), TerminalError> {
        let Self {
            asked,
            failed,
            rejected,
        } = self;
        match failed {
            0 => Ok(()),
            _ => Err(TerminalError::Unanswered {
                asked,
                failed,
                rejected,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_is_one_question_and_not_several() {
        let longest = "é".repeat(MAX_LINE / 2);
        let input = format!("one\n{longest}\n{longest}a\ntwo\r\n{longest}{longest}\nthree");
        let mut input = input.as_bytes();
        let mut read = || next(&mut input).map(|line| line.map(|line| line.to_string()));
        let told = |line: &str| Some(line.to_owned());
        assert_eq!(read().unwrap(), told("one\n"));
        assert_eq!(read().unwrap(), told(&format!("{longest}\n")));
        assert!(matches!(read(), Err(TerminalError::LineTooLong)));
        assert_eq!(read().unwrap(), told("two\r\n"));
        assert!(matches!(read(), Err(TerminalError::LineTooLong)));
        assert_eq!(read().unwrap(), told("three"));
        assert_eq!(read().unwrap(), None);

        // The end of input does not make the line shorter.
        let mut input = &vec![b'a'; MAX_LINE + 1][..];
        assert!(matches!(next(&mut input), Err(TerminalError::LineTooLong)));
        assert!(matches!(next(&mut input), Ok(None)));
    }

    /// The questions after a line that is not UTF-8 are still read.
    #[test]
    fn a_line_that_is_no_text_is_one_question() {
        let mut input = &b"\xff\ntwo\n"[..];
        let error = next(&mut input).unwrap_err();
        assert!(matches!(error, TerminalError::NotText), "{error}");
        assert!(error.is_of_one_question() && TerminalError::LineTooLong.is_of_one_question());
        assert!(!TerminalError::from(std::io::Error::other("gone")).is_of_one_question());
        let line = next(&mut input).unwrap().unwrap();
        assert_eq!(*line, "two\n");
        assert!(line.capacity() > MAX_LINE, "it never moved");
    }

    #[test]
    fn the_worst_of_all_questions_counts() {
        let end = |results: &[Result<(), bool>]| {
            let mut tally = Tally::default();
            results.iter().for_each(|result| tally.count(*result));
            tally
                .end()
                .map_err(|error| (error.to_string(), error.is_rejection()))
        };
        assert_eq!(end(&[]), Ok(()));
        assert_eq!(end(&[Ok(()), Ok(())]), Ok(()));
        let told = |text: &str, rejected| Err((text.to_owned(), rejected));
        assert_eq!(
            end(&[Err(false), Ok(())]),
            told("1 of 2 questions got no whole answer", false)
        );
        assert_eq!(
            end(&[Err(true), Err(false), Ok(())]),
            told("2 of 3 questions got no whole answer", true)
        );
    }
}
