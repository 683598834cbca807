//! Tests which files and folders are models, and the exact messages for those that are not.

use super::super::gguf;
use super::*;

fn written(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_gguf_file_names_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(
        folder.path(),
        "Tiny Model-Q4_1.gguf",
        &gguf::tests::file(&[]),
    );
    let source = Source::open(&path, None).unwrap();
    let size = fs::metadata(&path).unwrap().len();
    assert_eq!(
        (source.id.as_str(), source.files[0].size),
        ("tiny-model-q4_1", size)
    );
    assert_eq!(Source::open(&path, Some("mine")).unwrap().id, "mine");
}

#[test]
fn a_file_with_slow_tensors_is_another_in_the_volume() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = gguf::tests::file(&[("slow", 32, 3, &[0; 20])]);
    let path = written(folder.path(), "Tiny.Q4_1.gguf", &bytes);
    let source = Source::open(&path, None).unwrap();
    let file = &source.files[0];
    assert_eq!(
        (source.id.as_str(), file.name.as_str()),
        ("tiny.q4_1", "Tiny.Q4_1+Q8_0.gguf")
    );
    assert_eq!(file.size, bytes.len() as u64 + 14 + 30);
}

fn refused(path: &Path) -> String {
    Source::open(path, Some("m")).unwrap_err().to_string()
}

#[test]
fn what_is_not_gguf_or_not_all_of_it_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let whole = gguf::tests::file(&[("a", 8, 0, &[1; 32])]);
    let (length, cut) = (whole.len(), &whole[..whole.len() - 1]);
    let cases: [(&[u8], String); 4] = [
        (
            b"PK\x03\x04",
            "is not a GGUF file: it begins with [50, 4b, 03, 04], expected [47, 47, 55, 46] (\"GGUF\")".into(),
        ),
        (
            b"GGUF\x01\0\0\0",
            "has GGUF version 1, the engine reads 2 and 3".into(),
        ),
        (
            b"GGUF\x03\0\0\0rest",
            "cannot be loaded: its header is cut short or contradicts itself: fetch or convert it again".into(),
        ),
        (
            cut,
            format!(
                "cannot be loaded: it is cut short: its tensors end at byte {length}, the file at byte {}: fetch or \
                 convert it again",
                cut.len()
            ),
        ),
    ];
    for (bytes, text) in cases {
        let path = written(folder.path(), "x.gguf", bytes);
        assert_eq!(refused(&path), format!("{} {text}", path.display()));
    }
}

#[test]
fn an_unreadable_model_names_the_file() {
    let path = Path::new("/nowhere/model.gguf");
    let error = Source::open(path, None).unwrap_err();
    let reason = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(
        (error.to_string().as_str(), reason.as_str()),
        ("cannot read the model", "cannot read /nowhere/model.gguf")
    );
}

#[test]
fn a_folder_takes_what_an_engine_reads() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().display();
    let told = |text: &str| assert_eq!(refused(folder.path()), text);
    told(&format!(
        "{place} is not a model folder: it has no config.json"
    ));
    written(folder.path(), "config.json", b"{}");
    told(&format!(
        "{place} is not a model folder: it has no *.safetensors file"
    ));
    let weights = written(folder.path(), "model.safetensors", b"\x02\0\0\0\0\0\0\0[]");
    let odd = format!("{} is not a safetensors file:", weights.display());
    told(&format!("{odd} its header is not a JSON object"));
    written(folder.path(), "model.safetensors", b"\x03\0\0\0\0\0\0\0{}");
    told(&format!(
        "{odd} its header is longer than the file or than any header"
    ));
    let header = br#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header].concat();
    written(folder.path(), "model.safetensors", &bytes);
    told(&format!(
        "{odd} it is cut short: its tensors end at byte {}, the file at byte {}",
        bytes.len() + 1,
        bytes.len()
    ));
    written(folder.path(), "model.safetensors", b"\x02\0\0\0\0\0\0\0{}");
    written(folder.path(), "README.md", b"");
    fs::create_dir(folder.path().join("onnx.json")).unwrap();
    let source = Source::open(folder.path(), Some("m")).unwrap();
    let names: Vec<_> = source.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["config.json", "model.safetensors"]);
}
