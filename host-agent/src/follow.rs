//! Reads a file that another process writes, to its end and then as it grows.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

/// How often a followed file is checked.
const LOOK: Duration = Duration::from_millis(200);
/// Maximum length of a piece in bytes.
const PIECE: usize = 64 * 1024;

/// Sends the file's contents and, with `follow`, what is added to it, until the receiver is dropped. A new run of the VM
/// starts a new file, which is sent from its beginning. `path` returns its current path, because an update moves the VM to
/// another folder.
pub async fn send(
    mut file: File,
    path: impl Fn() -> PathBuf,
    follow: bool,
    to: mpsc::Sender<Bytes>,
) {
    let mut newer = None;
    loop {
        match read(&mut file) {
            Ok(piece) if !piece.is_empty() => {
                if to.send(piece).await.is_err() {
                    return;
                }
                continue;
            }
            Ok(_) if follow => {}
            _ => return,
        }
        // The newer file was found before the last read of the old one, which is at its end now.
        if let Some(newer) = newer.take() {
            file = newer;
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = to.closed() => return,
        }
        newer = replaced(&mut file, &path()).ok().flatten();
    }
}

fn read(file: &mut File) -> io::Result<Bytes> {
    let mut piece = Vec::with_capacity(PIECE);
    file.take(PIECE as u64).read_to_end(&mut piece)?;
    Ok(piece.into())
}

/// Returns the file that is now at `path`, if it is another one. Rewinds `file` if it was truncated.
fn replaced(file: &mut File, path: &Path) -> io::Result<Option<File>> {
    let newer = File::open(path)?;
    let (old, new) = (file.metadata()?, newer.metadata()?);
    if (old.dev(), old.ino()) != (new.dev(), new.ino()) {
        return Ok(Some(newer));
    }
    if new.len() < file.stream_position()? {
        file.seek(SeekFrom::Start(0))?;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test]
    async fn a_file_is_followed_through_truncation_replacement_and_to_another_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "one\n").unwrap();
        let (sender, mut lines) = mpsc::channel(1);
        let (moved, place) = (path.with_file_name("moved"), Mutex::new(path.clone()));
        let place = Arc::new(place);
        let now = Arc::clone(&place);
        let now = move || now.lock().unwrap().clone();
        let following = tokio::spawn(send(File::open(&path).unwrap(), now, true, sender));
        assert_eq!(lines.recv().await.unwrap(), "one\n");
        std::fs::write(&path, "2\n").unwrap();
        assert_eq!(lines.recv().await.unwrap(), "2\n");
        std::fs::write(folder.path().join("other"), "three\n").unwrap();
        std::fs::rename(folder.path().join("other"), &path).unwrap();
        assert_eq!(lines.recv().await.unwrap(), "three\n");
        // The file moves; what was last written to the old one is not lost.
        std::fs::write(&moved, "five\n").unwrap();
        let mut old = File::options().append(true).open(&path).unwrap();
        old.write_all(b"four\n").unwrap();
        *place.lock().unwrap() = moved.clone();
        assert_eq!(lines.recv().await.unwrap(), "four\n");
        assert_eq!(lines.recv().await.unwrap(), "five\n");
        drop(lines);
        following.await.unwrap();

        let (sender, mut lines) = mpsc::channel(1);
        send(File::open(&moved).unwrap(), || moved.clone(), false, sender).await;
        assert_eq!(lines.recv().await.unwrap(), "five\n");
        assert_eq!(lines.recv().await, None);
    }
}
