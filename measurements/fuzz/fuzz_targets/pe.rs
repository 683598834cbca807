//! libFuzzer on [`cocoon_fuzz`]'s target `pe`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_fuzz::run("pe", data));
