//! libFuzzer on [`cocoon_fuzz`]'s target `engine_frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cocoon_fuzz::run("engine_frames", data));
