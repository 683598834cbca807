//! libFuzzer on [`cocoon_fuzz`]'s target `document_bound`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_fuzz::run("document_bound", data));
