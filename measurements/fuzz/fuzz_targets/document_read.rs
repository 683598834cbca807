//! libFuzzer on [`cocoon_fuzz`]'s target `document_read`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_fuzz::run("document_read", data));
