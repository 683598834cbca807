//! An engine of a few lines for the inside of a VM: it answers every question with one word, and the
//! ones with the words `abort` and `fault` by telling the whole question on standard error and dying, of
//! its own will or of an access to memory that is not there.
//!
//! A program of its own, compiled by the test with nothing but the standard library: it must be static,
//! and no image that is built for anybody else may know of it.

use std::io::{Read, Result, Write};
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixStream;

/// What an engine says first, and to every question: JSON of the real messages, from the test.
const READY: &str = env!("READY");
const ANSWER: &str = env!("ANSWER");
/// Stands in them for the number of the question.
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
        // The number stands before anything that a client has written.
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
            // SAFETY: none. Nothing is mapped there: the kernel ends this process with SIGSEGV, which is wanted.
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
