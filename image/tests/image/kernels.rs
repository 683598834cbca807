//! Tests the GPU kernels: the locked compiler's output is the same everywhere, equals the pinned digests, and has the
//! properties that the sources intend. Needs the packages for compiling and inspecting (223 MB), but no GPU.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cocoon_image::cuda::{Release, Workshop, nvcc12, toolkit};
use cocoon_image::{build, guest};
use cocoon_inputs::{Cache, Fetcher, Options, report};

use crate::skip::skipped;
use crate::world::program;

fn source() -> PathBuf {
    guest::find_source(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Returns a fetcher, or reports a skipped test if the packages of these groups cannot be fetched.
fn fetcher(groups: &[&str]) -> Option<Fetcher> {
    let (lock, _) = build::lock(&source()).unwrap();
    let cache = Cache::open(Cache::default_root().unwrap()).unwrap();
    let mirrors = build::mirrors(&[]).unwrap();
    let fetcher = Fetcher::new(lock, cache, mirrors, Options::default(), report::stderr());
    for group in groups {
        if let Err(error) = fetcher.fetch_group(group) {
            skipped(format!(
                "the packages of {group} cannot be fetched: {error}"
            ));
            return None;
        }
    }
    Some(fetcher)
}

#[test]
fn kernels_built_in_two_folders_are_identical_and_the_pinned_ones() {
    built_twice(Release::Cuda13, toolkit::COMPILER);
}

#[test]
fn and_so_are_those_of_the_image() {
    built_twice(Release::Cuda12, nvcc12::GROUP);
}

fn built_twice(release: Release, group: &str) {
    let Some(fetcher) = fetcher(&[group]) else {
        return;
    };
    let (elsewhere, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let other = elsewhere.path().join("a/longer/path with blanks");
    for (name, text) in sources() {
        let path = other.join("kernels").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let reporter = &*report::stderr();
    let [(_, one), (workshop, two)] = [&source(), &other].map(|source| {
        let workshop = Workshop::open(&fetcher, release, reporter).unwrap();
        let folder = out.path().join(source.file_name().unwrap());
        let built = workshop.build(source, &folder, false, reporter).unwrap();
        (workshop, built)
    });
    let names: Vec<&String> = one.files.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["sm90_blake3.cubin", "sm90_scrub.cubin"]);
    assert!(one.files == two.files, "two builds of the kernels differ");
    assert_eq!((one.differences, two.differences), (vec![], vec![]));

    // A changed source gives another cubin, and both are reported.
    let kernel = other.join("kernels/cuda/sm90_scrub.cu");
    let changed = fs::read_to_string(&kernel)
        .unwrap()
        .replace("64 * 1024", "32 * 1024");
    fs::write(&kernel, changed).unwrap();
    let three = workshop.build(&other, out.path(), false, reporter).unwrap();
    let different: Vec<&str> = three.differences.iter().map(|d| d.file.as_str()).collect();
    assert_eq!(different, ["sm90_scrub.cubin", "cuda/sm90_scrub.cu"]);

    fs::write(&kernel, "KERNEL(").unwrap();
    let refused = workshop.build(&other, out.path(), false, reporter);
    let causes = std::error::Error::source(&refused.unwrap_err())
        .unwrap()
        .to_string();
    assert!(
        causes.starts_with("nvcc cannot compile sm90_scrub.cu (it needs gcc"),
        "{causes}"
    );
}

/// Returns the files of the kernels that a build reads.
fn sources() -> Vec<(String, Vec<u8>)> {
    let folder = source().join("kernels");
    let lists = [Release::Cuda13, Release::Cuda12];
    let mut names = lists.map(|release| release.list().to_owned()).to_vec();
    for entry in fs::read_dir(folder.join("cuda")).unwrap() {
        names.push(format!(
            "cuda/{}",
            entry.unwrap().file_name().to_str().unwrap()
        ));
    }
    let read = |name: String| (name.clone(), fs::read(folder.join(name)).unwrap());
    names.into_iter().map(read).collect()
}

/// The machine code must have what the sources intend: all values in registers, few enough registers for the intended number of
/// blocks at once, and memory access in vectors of 128 bits.
#[test]
fn machine_code_spills_nothing_and_moves_vectors() {
    inspected(Release::Cuda13, toolkit::COMPILER);
}

#[test]
fn the_images_machine_code_spills_nothing_either() {
    inspected(Release::Cuda12, nvcc12::GROUP);
}

fn inspected(release: Release, group: &str) {
    let Some(fetcher) = fetcher(&[group, toolkit::INSPECT]) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let tools = folder.path().join("tools");
    let reporter = &*report::stderr();
    toolkit::unpack(
        &fetcher,
        &[toolkit::INSPECT],
        toolkit::ALL,
        &tools,
        reporter,
    )
    .unwrap();
    let workshop = Workshop::open(&fetcher, release, reporter).unwrap();
    workshop
        .build(&source(), folder.path(), false, reporter)
        .unwrap();
    let said = |tool: &str, arguments: &[&str], cubin: &str| {
        let path = folder.path().join(cubin);
        let mut command = Command::new(tools.join("bin").join(tool));
        let output = command.args(arguments).arg(path).output().unwrap();
        assert!(output.status.success(), "{tool} {cubin}");
        String::from_utf8(output.stdout).unwrap()
    };
    // A multiprocessor has 65536 registers, which all its resident threads share.
    let kernels = [
        ("sm90_scrub.cubin", "sm90_scrub_fill", 65_536 / (8 * 256), 0),
        (
            "sm90_scrub.cubin",
            "sm90_scrub_count",
            65_536 / (4 * 256),
            0,
        ),
        (
            "sm90_blake3.cubin",
            "sm90_blake3_leaves",
            65_536 / (6 * 128),
            38_912,
        ),
        (
            "sm90_blake3.cubin",
            "sm90_blake3_join",
            65_536 / (8 * 128),
            9216,
        ),
    ];
    for (cubin, kernel, registers, shared) in kernels {
        let usage = usage(&said("cuobjdump", &["-res-usage"], cubin), kernel);
        assert_eq!(
            (usage["STACK"], usage["LOCAL"]),
            (0, 0),
            "{kernel}: {usage:?}"
        );
        assert!(usage["REG"] <= registers, "{kernel}: {usage:?}");
        assert!(usage["SHARED"] <= shared, "{kernel}: {usage:?}");
        let code = said("nvdisasm", &[], cubin);
        assert!(!code.contains("LDL") && !code.contains("STL"));
        let code = section(&code, kernel);
        let wanted: &[&str] = match kernel {
            "sm90_scrub_fill" => &["STG.E.EF.128"],
            "sm90_scrub_count" => &["LDG.E.EF.128"],
            "sm90_blake3_leaves" => &["LDGSTS.E.BYPASS.128", "LDS.128"],
            "sm90_blake3_join" => &["LDS.128"],
            other => panic!("{other} is not looked at"),
        };
        for instruction in wanted {
            assert!(code.contains(instruction), "{kernel} has no {instruction}");
        }
    }
}

/// Returns the machine code of one kernel, from its heading to the next.
fn section<'a>(code: &'a str, kernel: &str) -> &'a str {
    let heading = format!(".section\t.text.{kernel},");
    let (_, code) = code.split_once(&heading).expect("the kernel's section");
    code.split_once("\n//-----").map_or(code, |(own, _)| own)
}

/// Returns the `NAME:NUMBER` pairs on the line after the one with the kernel's name.
fn usage(text: &str, kernel: &str) -> BTreeMap<String, u64> {
    let mut lines = text.lines().skip_while(|line| !line.contains(kernel));
    let words = lines
        .nth(1)
        .expect("a line behind the kernel's name")
        .split_whitespace();
    words
        .filter_map(|word| word.split_once(':'))
        .filter_map(|(name, number)| Some((name.to_owned(), number.parse().ok()?)))
        .collect()
}

#[test]
fn tools_are_never_mixed_with_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = program();
    command
        .args(["kernels", "toolkit", "--tool", "inspect", "--out"])
        .arg(folder.path())
        .arg("--source")
        .arg(source());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        format!(
            "error: {} exists: name a folder that does not, for the tools to be all that is in it\n",
            folder.path().display()
        )
    );
}
