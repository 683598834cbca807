//! libFuzzer on [`cocoon_fuzz`]'s target `configuration`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_fuzz::run("configuration", data));
