//! A VM's folder is accessible to its owner only, whatever the umask. This test has its own executable, because the umask
//! belongs to the whole process.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use cocoon_host_agent::state::VmFolder;
use nix::sys::stat::{Mode, umask};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn whatever_the_umask_a_vms_folder_is_its_owners() {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().join("state");
    umask(Mode::empty());
    let vm = VmFolder::take(&root, "first").unwrap();
    let _listener = vm.listen("ctl").unwrap();
    vm.write("phases.json", b"[]").unwrap();
    drop(vm.create("serial.log").unwrap());
    let folder = root.join("vms/first");
    for folder in [&root, &root.join("vms"), &folder] {
        assert_eq!(mode(folder), 0o700, "{folder:?}");
    }
    for name in ["ctl", "lock", "host.pid", "phases.json", "serial.log"] {
        assert_eq!(mode(&folder.join(name)), 0o600, "{name}");
    }
    drop(vm);

    // Folders of an earlier release with open modes, under a umask that removes every permission.
    for folder in [&root.join("vms"), &folder] {
        fs::set_permissions(folder, Permissions::from_mode(0o777)).unwrap();
    }
    umask(Mode::from_bits_truncate(0o777));
    let vm = VmFolder::take(&root, "first").unwrap();
    let _listener = vm.listen("ctl").unwrap();
    let second = VmFolder::take(&root, "second").unwrap();
    for folder in [&root.join("vms"), &folder, &root.join("vms/second")] {
        assert_eq!(mode(folder), 0o700, "{folder:?}");
    }
    assert_eq!(mode(&folder.join("ctl")), 0o600);
    drop(second);
    umask(Mode::from_bits_truncate(0o022));

    // A link that somebody else may have put there is refused.
    symlink("/nonexistent", root.join("vms/third")).unwrap();
    let error = VmFolder::take(&root, "third").unwrap_err().to_string();
    assert_eq!(error, format!("cannot create {:?}", root.join("vms/third")));
}
