//! A plan's shaders without a device: for `solstice inspect` and `solstice check`.

use super::Sources;
use super::launch::{Step, Target, launches};
use crate::Plan;
use wgpu::naga;

/// Label and text of every launch of a plan, for a GPU with WebGPU's smallest limits, and with f16 where the plan wants it.
///
/// Errors: one sentence when a kernel wants more than that.
pub fn shaders(plan: &Plan, sources: &Sources) -> Result<Vec<(String, String)>, String> {
    let target = Target { has_f16: plan.is_mixed(), ..Target::smallest(sources) };
    let steps = launches(plan, &target)?.steps.into_iter();
    Ok(steps
        .filter_map(|step| match step {
            Step::Launch { label, wgsl, .. } => Some((label, wgsl)),
            Step::Copy { .. } => None,
        })
        .collect())
}

/// Parses and validates a shader as the device would.
///
/// Errors: the compiler's message with line and column.
pub fn validate(wgsl: &str) -> Result<(), String> {
    let module = naga::front::wgsl::parse_str(wgsl).map_err(|error| error.emit_to_string(wgsl))?;
    let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all());
    validator.validate(&module).map(|_| ()).map_err(|error| error.emit_to_string(wgsl))
}
