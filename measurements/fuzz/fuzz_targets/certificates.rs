//! libFuzzer on [`cocoon_fuzz`]'s target `certificates`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_fuzz::run("certificates", data));
