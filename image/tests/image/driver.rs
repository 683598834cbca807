//! Tests that NVIDIA's kernel modules are identical wherever they are built.

use std::fs;
use std::path::Path;

use cocoon_image::build;
use cocoon_image::driver::{Ingredients, MODULES};
use cocoon_image::foreign::Foreign;
use cocoon_image::guest::find_source;
use cocoon_image::kernel::modinfo;
use cocoon_inputs::{Cache, Fetcher, Options, report};

#[test]
#[ignore = "fetches 140 MB and compiles NVIDIA's modules twice, which takes ten minutes"]
fn the_modules_built_twice_from_two_folders_are_identical() {
    let source = find_source(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
    let (lock, _) = build::lock(&source).unwrap();
    let cache = Cache::open(Cache::default_root().unwrap()).unwrap();
    let mirrors = build::mirrors(&[]).unwrap();
    let reporter = report::stderr();
    let fetcher = Fetcher::new(lock, cache, mirrors, Options::default(), reporter.clone());
    let kernel = Foreign::new(&fetcher, &*reporter).kernel(&[]).unwrap();
    let ingredients = Ingredients::fetch(&fetcher, &kernel.release).unwrap();

    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let longer = folders[1].path().join("a/longer/path/to the/cache");
    fs::create_dir_all(&longer).unwrap();
    let [one, other] = [folders[0].path(), &longer]
        .map(|folder| ingredients.compile_anew(folder, &*reporter).unwrap());
    for (((name, _), one), other) in MODULES.iter().zip(&one).zip(&other) {
        assert!(one == other, "two builds of {name}.ko differ");
        let info = modinfo::parse(one).unwrap();
        assert!(!info.signed, "{name}.ko is signed by nobody");
        assert!(
            info.vermagic.starts_with(&kernel.release),
            "{name}.ko: {info:?}"
        );
        let inside = Path::new("/build/nvidia-open-kernel");
        for folder in [folders[0].path(), longer.as_path(), inside] {
            let path = folder.to_str().unwrap().as_bytes();
            let found = one.windows(path.len()).any(|window| window == path);
            assert!(!found, "{} is in {name}.ko", folder.display());
        }
    }
}
