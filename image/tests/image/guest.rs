//! Tests that the agent is identical wherever it is built.

use std::fs;
use std::path::Path;

use cocoon_image::guest::{build_agent, find_source};
use cocoon_inputs::report;

#[test]
#[ignore = "compiles the agent twice from nothing, which takes minutes"]
fn the_agent_built_twice_from_two_folders_is_identical() {
    let source = find_source(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let longer = folders[1].path().join("a/longer/path/to/the/cache");
    fs::create_dir_all(&longer).unwrap();
    let [one, other] = [folders[0].path(), &longer]
        .map(|cache| build_agent(&source, cache, &*report::stderr()).unwrap());
    assert!(one == other, "two builds of the agent differ");
    for folder in [
        folders[0].path(),
        &longer,
        Path::new(env!("CARGO_MANIFEST_DIR")),
    ] {
        let name = folder.to_str().unwrap().as_bytes();
        assert!(
            !one.windows(name.len()).any(|window| window == name),
            "{} is in the agent",
            folder.display()
        );
    }
}
