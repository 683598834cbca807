//! libFuzzer on [`cocoon_fuzz`]'s target `collector_frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_fuzz::run("collector_frames", data));
