//! Writes the seeds of one target into a folder, for libFuzzer to begin with.

use std::process::ExitCode;
use std::{env, fs, path::Path};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [folder, name] = &arguments[..] else {
        eprintln!("usage: seeds FOLDER TARGET");
        return ExitCode::from(2);
    };
    let Some(target) = cocoon_fuzz::TARGETS
        .iter()
        .find(|target| target.name == name)
    else {
        eprintln!("{name} is none of the targets");
        return ExitCode::from(2);
    };
    for (number, seed) in (target.seeds)().iter().enumerate() {
        let path = Path::new(folder).join(format!("seed-{number:02}"));
        if let Err(error) = fs::write(&path, seed) {
            eprintln!("cannot write {}: {error}", path.display());
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
