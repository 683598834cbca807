//! libFuzzer on [`cocoon_fuzz`]'s target `document_batched`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_fuzz::run("document_batched", data));
