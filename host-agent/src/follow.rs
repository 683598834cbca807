//! A file that another process writes, read to its end and then as it grows.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

/// How often a file is looked at that somebody follows.
const LOOK: Duration = Duration::from_millis(200);
/// Read at once, in bytes.
const PIECE: usize = 64 * 1024;

/// Sends what is in the file and, when `follow`, what comes, until the receiver is gone. A new run begins a file of its own,
/// and with it what is sent; `path` says where that is now: an update moves the VM to another folder.
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
        // Found before the last look at the old one, which has been read to its end by now.
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

/// The file under that name now, if it is another one; one that was emptied is read from its beginning.
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
        // Elsewhere, and what was written last where it was is not lost.
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
