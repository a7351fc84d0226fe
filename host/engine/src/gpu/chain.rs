//! Tiny launches that follow each other become one, whose only workgroup does their work in turn.
//!
//! The sum of a long reduction's parts, the check of all gradients, a metric: each is less work than the launch and the barrier before it cost (2 to 5 us on
//! hardware, about 50 us on llvmpipe). Launches wait for each other only across workgroups, so within one a barrier will do.

use crate::Plan;
use crate::gpu::group::{Joined, has_usual_lanes};
use crate::gpu::launch::{Launches, Step, Target, enabled};
use crate::gpu::template::library_names;
use crate::kernel::{Kernel, KernelOp};
use solstice_ir::element_count;

/// Workgroups of one launch, and of all that are joined, at most: they would run beside each other otherwise.
const GROUPS_MAX: [usize; 2] = [4, 8];

/// Elements that a kernel goes through at most; the launches that add up the parts of a longer one are tiny by their number of workgroups.
const ELEMENTS_MAX: usize = 16_384;

/// Joins what follows each other. A joined launch counts to the last of its kernels.
pub fn join(plan: &Plan, target: &Target, launches: Launches) -> Launches {
    let shared = library_names(&target.sources);
    let Launches { steps, kernel_of, temporaries } = launches;
    let mut joined = Launches { temporaries, ..Launches::default() };
    // The last of `joined.steps` as a chain that may go on, and its workgroups.
    let mut open: Option<(Joined, usize)> = None;
    for (index, (step, &kernel)) in steps.iter().zip(&kernel_of).enumerate() {
        let is_first = index == 0 || kernel_of[index - 1] != kernel;
        let (Some(groups), Step::Launch { label, wgsl, bindings, .. }) = (tiny_groups(&plan.kernels[kernel], is_first, step), step) else {
            open = None;
            joined.push(step.clone(), kernel);
            continue;
        };
        let with = |chain: &Joined| chain.with(wgsl, bindings, groups, target.storage_buffers_max, &shared);
        let longer =
            open.take().and_then(|(chain, before)| Some((with(&chain).filter(|_| before + groups <= GROUPS_MAX[1])?, before + groups)));
        if let Some((chain, all)) = longer {
            let Some(Step::Launch { label: before, .. }) = joined.steps.pop() else { unreachable!("a chain ends with a launch") };
            joined.kernel_of.pop();
            let label = if before == *label { before } else { format!("{before}, {label}") };
            joined.push(Step::Launch { label, wgsl: enabled(chain.text_in_turn()), bindings: chain.bindings(), grid: [1, 1] }, kernel);
            open = Some((chain, all));
        } else {
            joined.push(step.clone(), kernel);
            open = with(&Joined::default()).map(|chain| (chain, groups));
        }
    }
    joined
}

/// Workgroups of a launch that is little work.
fn tiny_groups(kernel: &Kernel, is_first: bool, step: &Step) -> Option<usize> {
    let Step::Launch { wgsl, grid, .. } = step else { return None };
    let elements = |op: &KernelOp| match op {
        KernelOp::Map { shape, .. } | KernelOp::Reduce { shape, .. } | KernelOp::Rows { shape, .. } => element_count(shape),
        _ => usize::MAX,
    };
    let all = match &kernel.op {
        KernelOp::Group { members } => members.iter().map(|member| elements(&member.op)).fold(0, usize::saturating_add),
        op => elements(op),
    };
    let groups = grid[0] as usize * grid[1] as usize;
    let is_tiny = groups <= GROUPS_MAX[0] && (all <= ELEMENTS_MAX || (!is_first && all < usize::MAX)) && has_usual_lanes(wgsl);
    is_tiny.then_some(groups)
}
