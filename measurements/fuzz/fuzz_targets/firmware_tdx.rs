//! libFuzzer on [`cocoon_fuzz`]'s target `firmware_tdx`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_fuzz::run("firmware_tdx", data));
