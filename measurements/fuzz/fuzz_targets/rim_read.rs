//! libFuzzer on [`cocoon_fuzz`]'s target `rim_read`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_fuzz::run("rim_read", data));
