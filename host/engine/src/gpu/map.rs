//! `KernelOp::Map` as a launch of `shaders/map.wgsl`.

use crate::gpu::emit::{Emitter, Motion};
use crate::gpu::group;
use crate::gpu::launch::{Context, count_u32};
use crate::gpu::template::{Template, library};
use crate::kernel::{Body, Store, View};
use solstice_ir::DType;

/// Invocations a workgroup.
const LANES: usize = 64;

/// The same on software adapters, where each workgroup is a call with memory of its own, if the elements fill them.
const SOFTWARE_LANES: usize = 256;

/// Appends the launch of a map.
pub fn emit(context: &mut Context, label: &str, shape: &[usize], body: &Body, stores: &[Store]) -> Result<(), String> {
    let count = count_u32(shape)?;
    if count == 0 || stores.is_empty() {
        return Ok(());
    }
    let to: Vec<&View> = stores.iter().map(|store| &store.to).collect();
    let mut emitter = Emitter::new(context, shape, body, &to, &[("i", (0..shape.len()).collect())]);
    let width = if can_widen(context, &emitter, count, body, stores) { 4 } else { 1 };
    if width == 4 {
        emitter.widen(0);
    }
    emitter.run();
    for (index, store) in stores.iter().enumerate() {
        emitter.store(index, store.value);
    }
    let (bindings, declarations, elements) = (emitter.bindings(), emitter.bindings_text(), emitter.into_text());
    let is_filled = |lanes: usize| count.is_multiple_of(lanes * width);
    let lanes = if context.target.is_software && is_filled(SOFTWARE_LANES) && !group::is_small(count / (LANES * width)) {
        SOFTWARE_LANES
    } else {
        LANES
    };
    let groups = count.div_ceil(lanes * width);
    let sources = context.sources();
    context.launch(label, bindings, groups, |groups_x| {
        let template = Template::new(sources, "map");
        // Where no invocation is left over, llvmpipe reads what all have in common once instead of lane by lane: that needs code without branches.
        let template = if is_filled(lanes) && groups.is_multiple_of(groups_x) { template.region("bounds", "") } else { template };
        template
            .count("COUNT", count)
            .count("WIDTH", width)
            .count("LANES", lanes)
            .count("GROUPS_X", groups_x)
            .region("bindings", &declarations)
            .region("functions", &library(sources, &elements))
            .region("elements", &elements)
            .into_text()
    })
}

/// True when four neighbours at once pay and stay within the buffers.
fn can_widen(context: &Context, emitter: &Emitter, count: usize, body: &Body, stores: &[Store]) -> bool {
    let store_motions: Vec<Motion> = (0..stores.len()).map(|store| emitter.store_motion(store, 0)).collect();
    if !store_motions.contains(&Motion::Packed) {
        return false;
    }
    if emitter.inner_size(0).is_multiple_of(4) {
        return true;
    }
    // The last four reach over the end: harmless where that is the padding of a buffer (memory comes in multiples of 16 bytes).
    let ends_its_buffer = |store: &Store| store.to.offset + count == context.buffer(store.to.buffer).elements;
    let loads_stay = (0..body.loads.len()).all(|load| !matches!(emitter.load_motion(load, 0), Motion::Strided(_)));
    emitter.axis_count(0) == 1
        && loads_stay
        && store_motions.iter().all(|motion| *motion == Motion::Packed)
        && stores.iter().all(|store| ends_its_buffer(store) && context.buffer(store.to.buffer).dtype != DType::U8)
}
