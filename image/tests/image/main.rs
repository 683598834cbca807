//! What an image promises, tested from outside: it is reproducible, its volume is what other readers take it for,
//! and each command refuses bad input in so many words.

mod commands;
mod driver;
mod ending;
mod gpus;
mod guest;
mod hostile;
mod kept;
mod kernels;
mod platform;
mod reproducible;
#[path = "../../../tests/src/skip.rs"]
mod skip;
mod spent;
mod verified;
mod volume;
mod world;
