//! Index maps: which element of a node a kernel reads at each index of its iteration space, carried backwards through movement ops.

use solstice_ir::{Graph, Node, Op, element_count, strides_of};

/// `offset + sum(strides[axis] * i[axis])` over the axes of an iteration space.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Affine {
    pub(super) offset: isize,
    pub(super) strides: Vec<isize>,
}

/// For each axis of a node its index as a function of the iteration space.
pub(super) type IndexMap = Vec<Affine>;

impl Affine {
    pub(super) fn constant(offset: isize, rank: usize) -> Affine {
        Affine { offset, strides: vec![0; rank] }
    }

    pub(super) fn add_scaled(&mut self, other: &Affine, factor: isize) {
        self.offset += other.offset * factor;
        self.strides.iter_mut().zip(&other.strides).for_each(|(stride, more)| *stride += more * factor);
    }
}

pub(super) fn identity(shape: &[usize]) -> IndexMap {
    let unit = |axis: usize| Affine { offset: 0, strides: (0..shape.len()).map(|other| isize::from(other == axis)).collect() };
    (0..shape.len()).map(unit).collect()
}

/// Row-major position in a tensor of `shape` whose index is `map`.
pub(super) fn linear(shape: &[usize], map: &IndexMap, iteration: &[usize]) -> Affine {
    let mut position = Affine::constant(0, iteration.len());
    if element_count(iteration) == 0 {
        return position;
    }
    for (index, stride) in map.iter().zip(strides_of(shape)) {
        position.add_scaled(index, stride as isize);
    }
    // The stride of an axis of size 1 is never taken; 0 makes equal views look equal.
    position.strides.iter_mut().zip(iteration).filter(|(_, size)| **size <= 1).for_each(|(stride, _)| *stride = 0);
    position
}

/// The index of a movement op's operand, given the index of its result; `None` when a reshape cuts an axis that the map does not cut.
pub(super) fn through_movement(graph: &Graph, node: &Node, map: &IndexMap, iteration: &[usize]) -> Option<IndexMap> {
    let input_shape = &graph.ty(node.inputs[0]).shape;
    let rank = iteration.len();
    match &node.op {
        Op::Transpose { perm } => {
            let mut result = vec![Affine::constant(0, rank); perm.len()];
            perm.iter().zip(map).for_each(|(&axis, index)| result[axis] = index.clone());
            Some(result)
        }
        Op::BroadcastInDim { dims, .. } => {
            let source = |(axis, &dim): (usize, &usize)| if input_shape[axis] == 1 { Affine::constant(0, rank) } else { map[dim].clone() };
            Some(dims.iter().enumerate().map(source).collect())
        }
        Op::Slice { starts, strides, .. } => {
            let source = |(axis, index): (usize, &Affine)| {
                let mut moved = Affine::constant(starts[axis] as isize, rank);
                moved.add_scaled(index, strides[axis] as isize);
                moved
            };
            Some(map.iter().enumerate().map(source).collect())
        }
        Op::Reverse { axes } => {
            let source = |(axis, index): (usize, &Affine)| {
                if !axes.contains(&axis) {
                    return index.clone();
                }
                let mut turned = Affine::constant(input_shape[axis] as isize - 1, rank);
                turned.add_scaled(index, -1);
                turned
            };
            Some(map.iter().enumerate().map(source).collect())
        }
        Op::Reshape { shape } => through_reshape(input_shape, shape, map, iteration),
        _ => Some(map.clone()),
    }
}

/// Axes of both shapes fall into groups of equal products; within a group the position is linear, and is cut again along the input's axes where the
/// terms of the position divide without a carry.
pub(super) fn through_reshape(input_shape: &[usize], shape: &[usize], map: &IndexMap, iteration: &[usize]) -> Option<IndexMap> {
    let rank = iteration.len();
    if element_count(input_shape) == 0 || element_count(iteration) == 0 {
        return Some(vec![Affine::constant(0, rank); input_shape.len()]);
    }
    let mut result = Vec::with_capacity(input_shape.len());
    let (mut from, mut to) = (0, 0);
    while from < input_shape.len() || to < shape.len() {
        let (from_start, to_start) = (from, to);
        let (mut from_size, mut to_size) = (1, 1);
        if from < input_shape.len() {
            from_size = input_shape[from];
            from += 1;
        }
        if to < shape.len() {
            to_size = shape[to];
            to += 1;
        }
        while from_size != to_size {
            if from_size < to_size {
                from_size *= input_shape[from];
                from += 1;
            } else {
                to_size *= shape[to];
                to += 1;
            }
        }
        let mut rest = Affine::constant(0, rank);
        let to_strides = strides_of(&shape[to_start..to]);
        for (index, stride) in map[to_start..to].iter().zip(to_strides) {
            rest.add_scaled(index, stride as isize);
        }
        rest.strides.iter_mut().zip(iteration).filter(|(_, size)| **size <= 1).for_each(|(stride, _)| *stride = 0);
        for inner in strides_of(&input_shape[from_start..from]) {
            let inner = inner as isize;
            let cut =
                |value: isize| if value % inner == 0 { (value / inner, 0) } else { (value.div_euclid(inner), value.rem_euclid(inner)) };
            let mut quotient = Affine::constant(0, rank);
            let mut remainder = Affine::constant(0, rank);
            (quotient.offset, remainder.offset) = cut(rest.offset);
            let (mut least, mut most) = (remainder.offset, remainder.offset);
            for (axis, &size) in iteration.iter().enumerate() {
                let stride = rest.strides[axis];
                // A negative stride within the axis stays negative: the range check below sees whether it borrows.
                let (high, low) = if stride.abs() < inner { (0, stride) } else { cut(stride) };
                (quotient.strides[axis], remainder.strides[axis]) = (high, low);
                let reach = low * (size as isize - 1);
                least += reach.min(0);
                most += reach.max(0);
            }
            if least < 0 || most >= inner {
                return None;
            }
            result.push(quotient);
            rest = remainder;
        }
    }
    Some(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map_through(input: &[usize], output: &[usize], iteration: &[usize]) -> Option<Vec<isize>> {
        let map = through_reshape(input, output, &identity(iteration), iteration)?;
        Some(linear(input, &map, iteration).strides)
    }

    #[test]
    fn reshapes_that_merge_axes_keep_strides_and_those_that_cut_do_not() {
        assert_eq!(map_through(&[6], &[2, 3], &[2, 3]), Some(vec![3, 1]));
        assert_eq!(map_through(&[2, 1, 3], &[2, 3, 1], &[2, 3, 1]), Some(vec![3, 1, 0]));
        assert_eq!(map_through(&[2, 3], &[6], &[6]), None);
        assert_eq!(map_through(&[1, 1], &[], &[]), Some(vec![]));
        assert_eq!(map_through(&[4, 3, 2], &[2, 2, 6], &[2, 2, 6]), None);
        assert_eq!(map_through(&[4, 6], &[2, 2, 6], &[2, 2, 6]), Some(vec![12, 6, 1]));
    }

    #[test]
    fn a_reversed_axis_is_cut_where_the_pieces_are_whole() {
        // [2, 3] seen through [6] reversed and cut again: position 5 - 3i - j.
        let position = Affine { offset: 5, strides: vec![-3, -1] };
        let map = through_reshape(&[2, 3], &[6], &vec![position], &[2, 3]);
        assert_eq!(map.map(|map| linear(&[2, 3], &map, &[2, 3])), Some(Affine { offset: 5, strides: vec![-3, -1] }));
    }
}
