//! `solstice devices`: what can train here.

use crate::cli::DevicesArgs;
use serde_json::json;
use solstice_engine::device;

/// Prints each device.
pub fn run(args: &DevicesArgs) {
    if args.json {
        for info in device::devices() {
            let line = json!({
                "name": info.name, "backend": info.backend, "type": info.device_type, "driver": info.driver, "is_software": info.is_software,
            });
            println!("{line}");
        }
        return;
    }
    for info in device::devices() {
        let driver = if info.driver.is_empty() { String::new() } else { format!(", {}", info.driver) };
        println!("{:<14} {} ({}{driver})\n               {}", info.device_type, info.name, info.backend, info.limits);
    }
    println!("\nChoose with `--device cpu`, `--device gpu` or part of a name; `auto` takes a hardware GPU, else the CPU.");
}
