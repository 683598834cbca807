//! The sentences that the script translates, read from the same file.

use cocoon_tests::image::workspace;

/// Languages of the columns.
pub const LANGUAGES: [&str; 5] = ["en", "fr", "de", "es", "ru"];

/// Returns one row per sentence, with one column per language.
pub fn sentences() -> Vec<[String; 5]> {
    let path = workspace().join("tests/evaluation/sentences.tsv");
    let text = std::fs::read_to_string(path).unwrap();
    let mut rows = text.lines().map(|line| {
        let columns: Vec<_> = line.split('\t').map(str::to_owned).collect();
        <[String; 5]>::try_from(columns).expect("five columns")
    });
    assert_eq!(rows.next().expect("a head"), LANGUAGES);
    rows.collect()
}
