//! libFuzzer on [`cocoon_fuzz`]'s target `collateral_read`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_fuzz::run("collateral_read", data));
