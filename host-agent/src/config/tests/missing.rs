//! Images and manifests that are missing when the file is read.

use super::*;

#[test]
fn the_image_of_one_appliance_is_no_other_ones_affair() {
    let machine = Machine {
        has_folder: |_| false,
        has_file: |_| false,
        ..large()
    };
    let text = format!("{MINIMAL}manifest = \"/m\"\n");
    let config = HostConfig::parse(&text, "f", &machine).unwrap();
    let warnings: Vec<String> = config.warnings.iter().map(Problem::to_string).collect();
    let expected = [
        "4:9: appliance.image: there is no folder /image: `cocoon-image build --variant cpu --out FOLDER` makes one",
        "9:12: appliance.manifest: there is no file /m",
    ];
    assert_eq!(warnings, expected);
    // If the file itself has a problem, warnings are reported with it.
    assert_eq!(problems(&format!("{text}cpus = 1\n"), &machine).len(), 3);
    let config = HostConfig::parse(&text, "f", &large()).unwrap();
    assert_eq!(config.warnings, []);
}
