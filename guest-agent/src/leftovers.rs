//! What is in the agent's memory after a conversation: nothing of it, whichever library read or wrote it.

#[path = "../tests/common/mod.rs"]
mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use cocoon_guest_agent::api::Limits;
use common::client::read;
use common::{Client, FakeEngine, machine};

/// Bytes of the text, and of the pieces of it that are looked for: so many are nowhere by chance.
const WHOLE: usize = 96;
const PIECE: usize = 16;

/// A letter of the text, which is nowhere but where it was put: neither this program nor the search has it in one piece.
fn letter(at: usize) -> u8 {
    let at = u8::try_from(at).unwrap();
    b'a' + at.wrapping_mul(151).wrapping_add(7).rotate_left(3) % 26
}

fn secret() -> String {
    (0..WHOLE).map(|at| char::from(letter(at))).collect()
}

/// How many pieces of it are in what this process can write to.
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
            // A mapping may be gone by now, or be one that cannot be read.
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
        // With an escape: its reader has a buffer of its own.
        let prompt = format!("\\n{}", secret());
        for extra in ["", ",\"stream\":true"] {
            let answer = client.chat(&prompt, extra).await;
            assert_eq!(read(answer).await.0, 200);
        }
        drop((client, prompt));
        machine.drain.send_replace(true);
        machine.server.await.unwrap();
        // Its buffers are as large as they will ever be, and stay for as long as it lives.
        assert!(machine.engine.model().is_some(), "the engine lives");
        assert_eq!(found(), 0, "while the engine lives");
    });
    drop(runtime);
    assert_eq!(found(), 0);
}
