//! Tests that a build reports how long its parts took, as text and as JSON.

use serde_json::Value;

use crate::world::{World, succeed};

#[test]
fn a_build_says_where_its_time_went() {
    let world = World::new();
    let text = succeed(&mut world.build(&world.path("one"))).stdout;
    let text = String::from_utf8(text).unwrap();
    let line = text.lines().last().unwrap();
    let said = line.strip_prefix("assembled in ");
    let said = said.and_then(|line| line.strip_suffix(" s for the executables"));
    let (assembling, compiling) = said.and_then(|said| said.split_once(" s, and ")).unwrap();
    let [assembling, compiling] = [assembling, compiling].map(|time| time.parse::<f64>().unwrap());
    // The executables were only read. Rounded to a tenth of a second, both times may be 0.
    assert!(compiling <= assembling, "{line}");
    let json = succeed(world.build(&world.path("two")).arg("--json")).stdout;
    let said: Value = serde_json::from_slice(&json).unwrap();
    let [assembling, compiling] =
        ["assembling", "compiling"].map(|part| said["seconds"][part].as_f64().unwrap());
    assert!(0.0 < compiling && compiling < assembling, "{said}");
}
