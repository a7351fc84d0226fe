//! `solstice devices`: what can train here, and with `--measure` what one adapter reaches.

use crate::cli::DevicesArgs;
use crate::outcome::{Exit, OrExit, exit};
use serde_json::{Map, Value, json};
use solstice_engine::device;
use solstice_engine::gpu::check;

/// Prints each device, or the measured one.
pub fn run(args: &DevicesArgs) -> Result<(), Exit> {
    if let Some(name) = &args.measure {
        return measure(name, args.json);
    }
    if args.json {
        for info in device::devices() {
            let line = json!({
                "name": info.name, "backend": info.backend, "type": info.device_type, "driver": info.driver, "is_software": info.is_software,
            });
            println!("{line}");
        }
        return Ok(());
    }
    for info in device::devices() {
        let driver = if info.driver.is_empty() { String::new() } else { format!(", {}", info.driver) };
        println!("{:<14} {} ({}{driver})\n               {}", info.device_type, info.name, info.backend, info.limits);
    }
    println!("\nChoose with `--device cpu`, `--device gpu` or part of a name; `auto` takes a hardware GPU, else the CPU.");
    Ok(())
}

fn measure(name: &str, as_json: bool) -> Result<(), Exit> {
    let (adapter, info) = device::adapter(&name.parse().expect("any text is a request")).or_exit(exit::USAGE)?;
    let (features, limits, tensor_cores) = (check::features(&adapter), check::limits(&adapter), check::tensor_cores(&adapter));
    let reach = check::reach(&adapter).or_exit(exit::FAILED)?;
    let self_test = check::tensor_core_test(&adapter).or_exit(exit::FAILED)?.to_string();
    if as_json {
        let features: Map<String, Value> = features.into_iter().map(|(name, has)| (name.into(), has.into())).collect();
        let limits: Map<String, Value> = limits.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        let line = json!({
            "name": info.name, "backend": info.backend, "type": info.device_type, "driver": info.driver, "is_software": info.is_software,
            "features": features, "limits": limits, "tensor_cores": tensor_cores, "tensor_core_test": self_test,
            "f32_flops": reach.f32_flops, "f16_flops": reach.f16_flops, "memory_bytes_per_sec": reach.memory_bytes_per_sec,
            "chained_dispatch_secs": reach.chained_dispatch_secs, "independent_dispatch_secs": reach.independent_dispatch_secs,
            "encode_secs": reach.encode_secs, "round_trip_secs": reach.round_trip_secs,
        });
        println!("{line}");
        return Ok(());
    }
    println!("{} ({}, {}, {})\n", info.name, info.device_type, info.backend, info.driver);
    for (name, has) in features {
        println!("{name:<34} {}", if has { "yes" } else { "no" });
    }
    for (name, value) in limits {
        println!("{name:<34} {value}");
    }
    println!("{:<34} {}", "tensor cores", if tensor_cores.is_empty() { "none".to_owned() } else { tensor_cores.join(", ") });
    println!("{:<34} {self_test}", "mixed precision");
    let flops = |value: f64| format!("{:.1} GFLOP/s", value / 1e9);
    let micros = |secs: f64| format!("{:.2} us", secs * 1e6);
    println!("{:<34} {}", "f32 multiply-adds", flops(reach.f32_flops));
    println!("{:<34} {}", "f16 multiply-adds", reach.f16_flops.map_or("no f16".into(), flops));
    println!("{:<34} {:.1} GB/s", "memory, two reads to a write", reach.memory_bytes_per_sec / 1e9);
    println!("{:<34} {}", "a dispatch that waits for another", micros(reach.chained_dispatch_secs));
    println!("{:<34} {}", "a dispatch that waits for none", micros(reach.independent_dispatch_secs));
    println!("{:<34} {}", "host time of a dispatch", micros(reach.encode_secs));
    println!("{:<34} {}", "empty submission and back", micros(reach.round_trip_secs));
    Ok(())
}
