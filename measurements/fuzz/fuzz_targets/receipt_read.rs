//! libFuzzer on [`cocoon_fuzz`]'s target `receipt_read`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_fuzz::run("receipt_read", data));
