//! libFuzzer on [`cocoon_fuzz`]'s target `quote_signed`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_fuzz::run("quote_signed", data));
