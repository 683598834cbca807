//! Tests the promises of an image from outside: it is reproducible, other readers understand its volume, and each command
//! refuses bad input with an exact message.

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
