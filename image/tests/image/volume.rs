//! Tests the model volume with readers that were written from the formats' specifications only. `tests/predictions` tests it
//! with other people's programs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::world::firmware::noise;
use crate::world::gguf;
use cocoon_image::model::{Source, Volume, write};
use cocoon_inputs::report::Silent;
use sha2::{Digest as _, Sha256};

const BLOCK: usize = 4096;

/// Verifies like the kernel: from each data block up to the root, with offsets that follow from the sizes only.
fn check_verity(
    volume: &[u8],
    root: &[u8; 32],
    salt: &[u8; 32],
    data_blocks: usize,
) -> Result<(), String> {
    let mut counts = vec![data_blocks.div_ceil(128)];
    while *counts.last().unwrap() > 1 {
        counts.push(counts.last().unwrap().div_ceil(128));
    }
    // Level 0 has the digests of the data, and comes last.
    let start = |level: usize| data_blocks + counts[level + 1..].iter().sum::<usize>();
    let total = data_blocks + counts.iter().sum::<usize>();
    if volume.len() != total * BLOCK {
        return Err(format!(
            "{} bytes, expected {}",
            volume.len(),
            total * BLOCK
        ));
    }
    let hash = |block: usize| {
        let bytes = [&salt[..], &volume[block * BLOCK..(block + 1) * BLOCK]].concat();
        <[u8; 32]>::from(Sha256::digest(bytes))
    };
    for data in 0..data_blocks {
        let (mut block, mut index) = (data, data);
        for level in 0..counts.len() {
            let parent = start(level) + index / 128;
            let place = parent * BLOCK + index % 128 * 32;
            if volume[place..place + 32] != hash(block) {
                return Err(format!("block {block} does not match level {level}"));
            }
            (block, index) = (parent, index / 128);
        }
    }
    if hash(start(counts.len() - 1)) == *root {
        Ok(())
    } else {
        Err("the root does not match".to_owned())
    }
}

/// Reads all files of a flat EROFS without compression.
fn read_erofs(volume: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let number = |at: usize, size: usize| {
        volume[at..at + size]
            .iter()
            .rev()
            .fold(0_usize, |value, byte| value << 8 | usize::from(*byte))
    };
    assert_eq!(number(1024, 4), 0xe0f5_e1e2);
    assert_eq!(
        (number(1036, 1), number(1064, 4)),
        (12, 0),
        "4096-byte blocks, metadata from block 0"
    );
    let inode = |nid: usize| {
        let at = nid * 32;
        assert_eq!(number(at, 2), 1, "extended inode, plain data");
        let (size, block) = (number(at + 8, 8), number(at + 16, 4));
        (
            number(at + 4, 2),
            &volume[block * BLOCK..block * BLOCK + size],
        )
    };
    let (mode, folder) = inode(number(1038, 2));
    assert_eq!(mode, 0o040_555);
    let mut files = BTreeMap::new();
    for block in folder.chunks(BLOCK) {
        let entry = |at: usize, size: usize| {
            block[at..at + size]
                .iter()
                .rev()
                .fold(0_usize, |value, byte| value << 8 | usize::from(*byte))
        };
        let count = entry(8, 2) / 12;
        for index in 0..count {
            let name_at = entry(index * 12 + 8, 2);
            let name_end = if index + 1 < count {
                entry(index * 12 + 20, 2)
            } else {
                block.len()
            };
            let name = &block[name_at..name_end];
            let name = name.split(|byte| *byte == 0).next().unwrap();
            let name = String::from_utf8(name.to_vec()).unwrap();
            if entry(index * 12 + 10, 1) == 1 {
                let (mode, data) = inode(entry(index * 12, 8));
                assert_eq!(mode, 0o100_444);
                files.insert(name, data.to_vec());
            }
        }
    }
    files
}

fn made(model: &Path, out: &Path, jobs: usize) -> (Volume, Vec<u8>) {
    let source = Source::open(model, Some("m")).unwrap();
    let volume = write(&source, out, "model.img", jobs, &Silent).unwrap();
    let bytes = fs::read(out.join("model.img")).unwrap();
    assert_eq!(bytes.len() as u64, volume.artefact.size);
    assert_eq!(
        volume.artefact.sha256.0,
        <[u8; 32]>::from(Sha256::digest(&bytes))
    );
    (volume, bytes)
}

#[test]
fn every_size_is_verified_by_an_independent_reader() {
    let folder = tempfile::tempdir().unwrap();
    // One data block, a full hash block and its neighbouring sizes, and two levels. Most lengths are odd.
    for (size, jobs) in [
        (1, 1),
        (126 * BLOCK - 8, 3),
        (126 * BLOCK - 7, 2),
        (130 * BLOCK + 13, 5),
        (3_000_001, 2),
    ] {
        let model = folder.path().join("x.gguf");
        fs::write(&model, gguf(1, size)).unwrap();
        let (volume, bytes) = made(&model, folder.path(), jobs);
        let blocks = usize::try_from(volume.model.verity_data_blocks).unwrap();
        let (root, salt) = (&volume.model.verity_root.0, &volume.model.verity_salt.0);
        assert_eq!(
            check_verity(&bytes, root, salt, blocks),
            Ok(()),
            "{size} bytes"
        );
        assert_eq!(
            read_erofs(&bytes)["x.gguf"],
            fs::read(&model).unwrap(),
            "{size} bytes"
        );
    }
}

#[test]
fn three_levels_are_verified_too() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("x.gguf");
    fs::write(&model, gguf(2, 128 * 128 * BLOCK + 5)).unwrap();
    let (volume, bytes) = made(&model, folder.path(), 2);
    let blocks = usize::try_from(volume.model.verity_data_blocks).unwrap();
    assert_eq!(
        check_verity(
            &bytes,
            &volume.model.verity_root.0,
            &volume.model.verity_salt.0,
            blocks
        ),
        Ok(())
    );
}

#[test]
fn one_changed_byte_anywhere_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("x.gguf");
    fs::write(&model, gguf(3, 600_000)).unwrap();
    let (volume, bytes) = made(&model, folder.path(), 2);
    let blocks = usize::try_from(volume.model.verity_data_blocks).unwrap();
    let check = |bytes: &[u8]| {
        check_verity(
            bytes,
            &volume.model.verity_root.0,
            &volume.model.verity_salt.0,
            blocks,
        )
    };
    assert_eq!(check(&bytes), Ok(()));
    let top = blocks * BLOCK;
    for (at, expected) in [
        (1030, "block 0 does not match level 0".to_owned()),
        (
            top - 1,
            format!("block {} does not match level 0", blocks - 1),
        ),
        (top, format!("block {} does not match level 1", blocks + 1)),
        (top + 3000, "the root does not match".to_owned()),
        (
            bytes.len() - 1,
            format!("block {} does not match level 1", bytes.len() / BLOCK - 1),
        ),
    ] {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert_eq!(check(&changed), Err(expected), "byte {at}");
    }
}

#[test]
fn a_folder_of_many_files_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    fs::create_dir(&model).unwrap();
    fs::write(model.join("config.json"), "{}").unwrap();
    for number in 0..200_u64 {
        let header = [&2_u64.to_le_bytes()[..], b"{}"].concat();
        let bytes = [
            header,
            noise(number + 1, usize::try_from(number * 37).unwrap()),
        ]
        .concat();
        fs::write(
            model.join(format!(
                "model-{number:05}-of-00200-with-a-rather-long-name.safetensors"
            )),
            bytes,
        )
        .unwrap();
    }
    let (volume, bytes) = made(&model, folder.path(), 2);
    let files = read_erofs(&bytes);
    assert_eq!(files.len(), 201);
    for (name, data) in &files {
        assert_eq!(*data, fs::read(model.join(name)).unwrap(), "{name}");
        assert_eq!(volume.model.files[name].size, data.len() as u64);
    }
}
