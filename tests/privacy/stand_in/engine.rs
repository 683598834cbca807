//! A small stand-in engine for use inside a VM. It answers every question with one word. For a question that contains `abort`
//! or `fault`, it prints the whole question to standard error and dies: by `abort`, or by an invalid memory access.
//!
//! The test compiles this file as a program of its own, with the standard library alone, because it must be static and
//! must not be part of any other image.

use std::io::{Read, Result, Write};
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixStream;

/// Messages of the engine at its start and for every question, as JSON of the real message types, supplied by the test.
const READY: &str = env!("READY");
const ANSWER: &str = env!("ANSWER");
/// Placeholder in the messages for the id of the generation.
const ID: &str = env!("ID");

fn main() -> Result<()> {
    // SAFETY: the agent hands over descriptor 3 for this process alone, and this runs once.
    let mut agent = unsafe { UnixStream::from_raw_fd(3) };
    send(&mut agent, READY)?;
    loop {
        let mut length = [0; 4];
        agent.read_exact(&mut length)?;
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        agent.read_exact(&mut frame)?;
        let frame = String::from_utf8_lossy(&frame);
        // The id precedes anything that a client wrote.
        let Some((_, rest)) = frame.split_once(r#"{"type":"generate","id":"#) else {
            continue;
        };
        let id: String = rest.chars().take_while(char::is_ascii_digit).collect();
        if rest.contains("abort") {
            eprintln!("cannot answer {frame}");
            std::process::abort();
        }
        if rest.contains("fault") {
            eprintln!("cannot answer {frame}");
            // SAFETY: none. Nothing is mapped at this address, so the kernel ends this process with SIGSEGV, as intended.
            unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) };
        }
        for message in ANSWER.lines() {
            send(&mut agent, &message.replace(ID, &id))?;
        }
    }
}

fn send(agent: &mut UnixStream, message: &str) -> Result<()> {
    let length = u32::try_from(message.len()).expect("a short message");
    agent.write_all(&length.to_be_bytes())?;
    agent.write_all(message.as_bytes())
}
