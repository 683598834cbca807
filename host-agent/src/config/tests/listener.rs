//! Limits of the public listener.

use super::*;

/// Limits in the file reach the relay unchanged; the relay derives what the file leaves out.
#[test]
fn the_listener_has_the_limits_of_the_file() {
    let limits = |lines: &str| {
        let text = format!("{MINIMAL}[appliance.listener]\n{lines}");
        HostConfig::parse(&text, "f", &large()).unwrap().appliances[0].limits
    };
    let usual = Limits::default();
    assert_eq!((limits(""), usual.per_address), (usual, None));
    let named = Limits {
        connections: 100,
        per_address: Some(7),
        ..usual
    };
    let lines = "connections = 100\nconnections_per_address = 7";
    assert_eq!(limits(lines), named);
}
