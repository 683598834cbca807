//! libFuzzer on [`cocoon_fuzz`]'s target `policy_applied`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_fuzz::run("policy_applied", data));
