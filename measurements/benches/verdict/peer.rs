//! Runs NVIDIA's own verifier as one process for all verdicts, so that its start is not measured.
//!
//! `COCOON_NVIDIA_PYTHON` names a Python that has the package `nv-local-gpu-verifier` 2.7.3, such as that of a virtual
//! environment. Without it, this comparison is reported as SKIPPED.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::vectors::{path_of, variable};

/// The running verifier process.
pub struct Peer {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts the verifier with these vectors, and has it make one verdict.
    #[expect(
        clippy::disallowed_methods,
        reason = "a benchmark runs what it compares with; the crate itself asks no other program"
    )]
    pub fn start(vectors: [&str; 3]) -> Option<Self> {
        let Some(python) = variable("COCOON_NVIDIA_PYTHON") else {
            println!(
                "SKIPPED: NVIDIA's verifier is needed: set COCOON_NVIDIA_PYTHON to a Python that has it"
            );
            return None;
        };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/verdict/peer.py");
        let mut child = Command::new(python)
            .arg(script)
            .args(vectors.map(|vector| std::path::absolute(path_of(vector)).unwrap()))
            // The verifier leaves a log in its working directory.
            .current_dir(std::env::temp_dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("NVIDIA's verifier starts");
        let questions = child.stdin.take().expect("its input is piped");
        let answers = BufReader::new(child.stdout.take().expect("its output is piped"));
        let mut peer = Self {
            child,
            questions,
            answers,
        };
        peer.verdicts(1);
        Some(peer)
    }

    /// Returns how long the verifier takes for `count` verdicts.
    pub fn verdicts(&mut self, count: u64) -> Duration {
        writeln!(self.questions, "{count}").expect("NVIDIA's verifier reads");
        let mut seconds = String::new();
        let read = self.answers.read_line(&mut seconds);
        read.expect("NVIDIA's verifier answers");
        let seconds = seconds.trim().parse();
        Duration::from_secs_f64(seconds.expect("NVIDIA's verifier accepts what ours does"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
