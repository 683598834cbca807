//! libFuzzer on [`cocoon_fuzz`]'s target `event_log`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_fuzz::run("event_log", data));
