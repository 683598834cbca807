//! Shows that a conversation leaves no text in the agent's memory, whichever library read or wrote it.

#[path = "../tests/common/mod.rs"]
mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use cocoon_guest_agent::api::Limits;
use common::client::read;
use common::{Client, FakeEngine, machine};

/// Length in bytes of the secret text, and of the pieces that are searched for, which are too long to match by chance.
const WHOLE: usize = 96;
const PIECE: usize = 16;

/// Returns one letter of the secret. Letters are computed, so that neither the program nor the search contains the text.
fn letter(at: usize) -> u8 {
    let at = u8::try_from(at).unwrap();
    b'a' + at.wrapping_mul(151).wrapping_add(7).rotate_left(3) % 26
}

fn secret() -> String {
    (0..WHOLE).map(|at| char::from(letter(at))).collect()
}

/// Counts the pieces of the secret in this process's writable memory.
fn found() -> usize {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let memory = File::open("/proc/self/mem").unwrap();
    let mut page = [0; 4096];
    let mut count = 0;
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (range, _) = line.split_once(' ').unwrap();
        let (from, to) = range.split_once('-').unwrap();
        let parse = |text| u64::from_str_radix(text, 16).unwrap();
        for at in (parse(from)..parse(to)).step_by(page.len()) {
            // The mapping may be gone by now or may not be readable.
            if memory.read_exact_at(&mut page, at).is_ok() {
                count += page.windows(PIECE).filter(|bytes| is_piece(bytes)).count();
            }
            page.fill(0);
        }
    }
    count
}

fn is_piece(bytes: &[u8]) -> bool {
    let is_from = |from| (0..PIECE).all(|at| bytes[at] == letter(from + at));
    (0..WHOLE).step_by(PIECE).any(is_from)
}

#[test]
fn a_conversation_leaves_nothing_in_memory() {
    let kept = secret();
    assert!(found() > 0, "what is there is found");
    drop(kept);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let machine = machine(FakeEngine::new().0, 1, Limits::default()).await;
        let mut client = Client::attested(machine.address).await;
        // The escape sequence makes the JSON reader use a buffer of its own.
        let prompt = format!("\\n{}", secret());
        for extra in ["", ",\"stream\":true"] {
            let answer = client.chat(&prompt, extra).await;
            assert_eq!(read(answer).await.0, 200);
        }
        drop((client, prompt));
        machine.drain.send_replace(true);
        machine.server.await.unwrap();
        // The engine's buffers have reached their full size and live as long as the engine.
        assert!(machine.engine.model().is_some(), "the engine lives");
        assert_eq!(found(), 0, "while the engine lives");
    });
    drop(runtime);
    assert_eq!(found(), 0);
}
