//! Implements `manifest platform`.

use cocoon_image::platform::{self, Change, Shape};
use cocoon_image::reference::Size;
use cocoon_inputs::report;
use cocoon_measurements::tdx::smbios::ProcessorId;
use serde_json::json;

use super::args::PlatformArguments;
use super::{Outcome, Output};

pub(super) fn add(arguments: &PlatformArguments, output: Output) -> anyhow::Result<Outcome> {
    let shape = Shape {
        name: &arguments.name,
        size: Size {
            memory_mib: arguments.memory,
            vcpus: Some(arguments.vcpus),
            mmio64_mib: arguments.mmio64_mib,
        },
        tables: &arguments.tables,
        processor: ProcessorId {
            signature: arguments.cpu_signature,
            features: arguments.cpu_features,
        },
    };
    let done = platform::add(&arguments.manifest, &shape, &*report::stderr())?;
    let path = arguments.manifest.display();
    let change = match done.change {
        Change::Added => "added to",
        Change::Replaced => "replaced in",
        Change::Unchanged => "is so already in",
    };
    let mut text = format!(
        "machine shape {:?} {change} {path}\n  RTMR0 {}\nmanifest {}",
        shape.name, done.rtmr0, done.manifest_id
    );
    if done.change != Change::Unchanged {
        let removed = if done.signatures_removed {
            "its signatures were over other bytes and are removed; "
        } else {
            ""
        };
        let advice =
            format!("\n{removed}sign it with `cocoon-image manifest sign {path} --key FILE`");
        text.push_str(&advice);
    }
    let mut value = serde_json::to_value(&done)?;
    value["manifest"] = json!(arguments.manifest);
    value["name"] = json!(shape.name);
    output.print(&value, text)?;
    Ok(Outcome::Done)
}
