//! `solstice devices`: what can train here.

use solstice_engine::device;

/// Prints a line a device.
pub fn run() {
    for info in device::devices() {
        let driver = if info.driver.is_empty() { String::new() } else { format!(", {}", info.driver) };
        println!("{:<14} {} ({}{driver})\n               {}", info.device_type, info.name, info.backend, info.limits);
    }
    println!("\nChoose with `--device cpu`, `--device gpu` or part of a name; `auto` takes a hardware GPU, else the CPU.");
}
