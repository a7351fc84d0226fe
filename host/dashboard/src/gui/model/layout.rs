//! Where the boxes of a graph go: layers from top to bottom, few crossings, long edges in lanes of their own. Numbers in, numbers out; draws nothing.
//!
//! The steps are those of Sugiyama, Tagawa and Toda, "Methods for visual understanding of hierarchical system structures", 1981: longest-path layers,
//! order within a layer by barycenters, then places across by least squares under the order (pooled adjacent violators).

/// Between neighbours in a layer.
const GAP_X: f32 = 16.0;
/// Between layers.
const GAP_Y: f32 = 24.0;
/// Width of the lane of an edge that passes a layer.
const LANE: f32 = 10.0;
/// How often layers are ordered again, and placed again.
const SWEEPS: usize = 12;
/// After these, lanes are held straight, and so is what follows one another.
const STRAIGHT_SWEEPS: usize = 16;

/// A graph with places, in points; the origin is the upper left corner.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layout {
    /// Middle of each box.
    pub centers: Vec<(f32, f32)>,
    /// For each edge the points that it passes, from the lower side of its first box to the upper side of its last one.
    pub routes: Vec<Vec<(f32, f32)>>,
    /// Width and height of everything.
    pub size: (f32, f32),
}

/// Places boxes of these sizes. Edges may form cycles: some then run upwards.
pub fn layout(sizes: &[(f32, f32)], edges: &[[usize; 2]]) -> Layout {
    let forward = without_cycles(sizes.len(), edges);
    let layer_of = layers(sizes.len(), &forward);
    let layer_count = layer_of.iter().map(|layer| layer + 1).max().unwrap_or(0);

    // Boxes, and after them one item for each layer that an edge passes.
    let mut widths: Vec<f32> = sizes.iter().map(|size| size.0).collect();
    let mut rows: Vec<Vec<usize>> = vec![vec![]; layer_count];
    layer_of.iter().enumerate().for_each(|(item, layer)| rows[*layer].push(item));
    let mut links: Vec<(usize, usize)> = vec![];
    let chains: Vec<Vec<usize>> = forward
        .iter()
        .map(|[from, to]| {
            let mut chain = vec![*from];
            for row in &mut rows[layer_of[*from] + 1..layer_of[*to].max(layer_of[*from] + 1)] {
                row.push(widths.len());
                chain.push(widths.len());
                widths.push(LANE);
            }
            chain.push(*to);
            links.extend(chain.windows(2).map(|pair| (pair[0], pair[1])));
            chain
        })
        .collect();
    let (mut above, mut below) = (vec![vec![]; widths.len()], vec![vec![]; widths.len()]);
    for (from, to) in links {
        below[from].push(to);
        above[to].push(from);
    }
    order(&mut rows, &above, &below);
    let x = across(&rows, &widths, &above, &below, &chains, sizes.len());

    let mut tops = vec![0.0f32; layer_count + 1];
    let heights: Vec<f32> = (0..layer_count)
        .map(|layer| rows[layer].iter().filter_map(|item| sizes.get(*item)).map(|size| size.1).fold(0.0, f32::max))
        .collect();
    for layer in 0..layer_count {
        tops[layer + 1] = tops[layer] + heights[layer] + GAP_Y;
    }
    let middle = |item: usize| tops[layer_of[item]] + heights[layer_of[item]] / 2.0;
    let centers: Vec<(f32, f32)> = (0..sizes.len()).map(|item| (x[item], middle(item))).collect();
    let route = |(chain, [from, to]): (&Vec<usize>, &[usize; 2])| {
        let (first, last) = (chain[0], chain[chain.len() - 1]);
        let mut points = vec![(x[first], middle(first) + sizes[first].1 / 2.0)];
        for (passed, item) in chain[1..chain.len() - 1].iter().enumerate() {
            let layer = layer_of[first] + 1 + passed;
            points.extend([(x[*item], tops[layer]), (x[*item], tops[layer] + heights[layer])]);
        }
        points.push((x[last], middle(last) - sizes[last].1 / 2.0));
        // An edge that was turned round runs from its first box again.
        if (first, last) != (*from, *to) {
            points.reverse();
        }
        points
    };
    let routes = chains.iter().zip(edges).map(route).collect();
    let right = rows.iter().flatten().map(|item| x[*item] + widths[*item] / 2.0).fold(0.0, f32::max);
    Layout { centers, routes, size: (right, (tops[layer_count] - GAP_Y).max(0.0)) }
}

/// The edges, those turned round that close a cycle.
fn without_cycles(count: usize, edges: &[[usize; 2]]) -> Vec<[usize; 2]> {
    let mut next: Vec<Vec<(usize, usize)>> = vec![vec![]; count];
    for (index, [from, to]) in edges.iter().enumerate() {
        next[*from].push((*to, index));
    }
    let mut turned = edges.to_vec();
    // 0: not met, 1: on the way, 2: done.
    let mut met = vec![0u8; count];
    for start in 0..count {
        let mut way = if met[start] == 0 { vec![(start, 0)] } else { vec![] };
        while let Some((node, at)) = way.last_mut() {
            met[*node] = 1;
            let Some(&(to, index)) = next[*node].get(*at) else {
                met[*node] = 2;
                way.pop();
                continue;
            };
            *at += 1;
            match met[to] {
                0 => way.push((to, 0)),
                1 => turned[index].reverse(),
                _ => {}
            }
        }
    }
    turned
}

/// Longest path from the sources; a source stands just above what it feeds.
fn layers(count: usize, edges: &[[usize; 2]]) -> Vec<usize> {
    let (mut next, mut waits_for) = (vec![vec![]; count], vec![0usize; count]);
    for [from, to] in edges.iter().filter(|[from, to]| from != to) {
        next[*from].push(*to);
        waits_for[*to] += 1;
    }
    let mut layer = vec![0; count];
    let mut ready: Vec<usize> = (0..count).filter(|node| waits_for[*node] == 0).collect();
    let sources = ready.clone();
    while let Some(node) = ready.pop() {
        for &to in &next[node] {
            layer[to] = layer[to].max(layer[node] + 1);
            waits_for[to] -= 1;
            if waits_for[to] == 0 {
                ready.push(to);
            }
        }
    }
    for source in sources {
        if let Some(first) = next[source].iter().map(|to| layer[*to]).min() {
            layer[source] = first - 1;
        }
    }
    layer
}

/// Orders every layer by the mean place of its neighbours, downwards and upwards in turn, and keeps the order with the fewest crossings.
fn order(rows: &mut Vec<Vec<usize>>, above: &[Vec<usize>], below: &[Vec<usize>]) {
    let mut place = vec![0.0f32; above.len()];
    let mut best = (crossings(rows, below), rows.clone());
    for sweep in 0..SWEEPS {
        let is_down = sweep % 2 == 0;
        let neighbours = if is_down { above } else { below };
        let mut layers: Vec<usize> = (0..rows.len()).collect();
        if !is_down {
            layers.reverse();
        }
        for layer in layers {
            for (index, item) in rows[layer].iter().enumerate() {
                let count = neighbours[*item].len();
                let mean = neighbours[*item].iter().map(|other| place[*other]).sum::<f32>() / count as f32;
                place[*item] = if count > 0 { mean } else { index as f32 };
            }
            rows[layer].sort_by(|a, b| place[*a].total_cmp(&place[*b]));
            rows[layer].iter().enumerate().for_each(|(index, item)| place[*item] = index as f32);
        }
        let count = crossings(rows, below);
        if count < best.0 {
            best = (count, rows.clone());
        }
    }
    *rows = best.1;
}

fn crossings(rows: &[Vec<usize>], below: &[Vec<usize>]) -> usize {
    let mut place = vec![0; below.len()];
    rows.iter().for_each(|row| row.iter().enumerate().for_each(|(index, item)| place[*item] = index));
    let count_in = |row: &Vec<usize>| {
        let ends: Vec<(usize, usize)> = row.iter().flat_map(|item| below[*item].iter().map(|to| (place[*item], place[*to]))).collect();
        let crosses = |a: &(usize, usize), b: &(usize, usize)| (a.0 < b.0 && a.1 > b.1) || (a.0 > b.0 && a.1 < b.1);
        ends.iter().enumerate().map(|(index, a)| ends[..index].iter().filter(|b| crosses(a, b)).count()).sum::<usize>()
    };
    rows.iter().map(count_in).sum()
}

/// Middle of every item: as near to its neighbours as the order allows. In the last sweeps every lane is
/// drawn straight, as is what follows one another, and other boxes make room.
fn across(
    rows: &[Vec<usize>],
    widths: &[f32],
    above: &[Vec<usize>],
    below: &[Vec<usize>],
    chains: &[Vec<usize>],
    box_count: usize,
) -> Vec<f32> {
    let mut x = vec![0.0; widths.len()];
    for row in rows {
        let mut right = -row.iter().map(|item| widths[*item] + GAP_X).sum::<f32>() / 2.0;
        for item in row {
            x[*item] = right + (widths[*item] + GAP_X) / 2.0;
            right += widths[*item] + GAP_X;
        }
    }
    // What is to stand in line: the pieces of a lane, and boxes that follow one another without a fork.
    let is_lane = |item: usize| item >= box_count;
    let mut line_of: Vec<Option<usize>> = vec![None; widths.len()];
    let mut lines: Vec<Vec<usize>> = chains.iter().map(|chain| chain[1..chain.len() - 1].to_vec()).collect();
    for (line, pieces) in lines.iter().enumerate() {
        pieces.iter().for_each(|item| line_of[*item] = Some(line));
    }
    for &item in rows.iter().flatten().filter(|item| !is_lane(**item)) {
        let before = match above[item][..] {
            [before] if !is_lane(before) && below[before].len() == 1 => line_of[before],
            _ => None,
        };
        let line = before.unwrap_or(lines.len());
        if line == lines.len() {
            lines.push(vec![]);
        }
        lines[line].push(item);
        line_of[item] = Some(line);
    }
    for sweep in 0..SWEEPS + STRAIGHT_SWEEPS {
        let is_last = sweep >= SWEEPS;
        let mut layers: Vec<usize> = (0..rows.len()).collect();
        if sweep % 2 == 1 {
            layers.reverse();
        }
        let means: Vec<f32> =
            lines.iter().map(|items| items.iter().map(|item| x[*item]).sum::<f32>() / items.len().max(1) as f32).collect();
        for layer in layers {
            let row = &rows[layer];
            let wanted = |item: usize| {
                if let Some(line) = line_of[item].filter(|line| is_last && (is_lane(item) || lines[*line].len() > 1)) {
                    return (means[line], if is_lane(item) { 1000.0 } else { 30.0 });
                }
                let sides: [&[usize]; 2] = match (is_last, sweep % 2 == 0) {
                    (true, _) => [&above[item], &below[item]],
                    (_, true) => [&above[item], &[]],
                    (_, false) => [&below[item], &[]],
                };
                // Boxes count more than lanes: what follows one another stands below one another.
                let (mut sum, mut total) = (0.0, 0.0);
                for other in sides.into_iter().flatten() {
                    let weight = if is_lane(*other) { 0.25 } else { 1.0 };
                    sum += weight * x[*other];
                    total += weight;
                }
                let weight = if is_lane(item) { 0.5 } else { 1.0 };
                (if total > 0.0 { sum / total } else { x[item] }, weight)
            };
            let wanted: Vec<(f32, f32)> = row.iter().map(|item| wanted(*item)).collect();
            let gaps: Vec<f32> = row.windows(2).map(|pair| (widths[pair[0]] + widths[pair[1]]) / 2.0 + GAP_X).collect();
            for (item, at) in row.iter().zip(spread(&wanted, &gaps)) {
                x[*item] = at;
            }
        }
    }
    let left = rows.iter().flatten().map(|item| x[*item] - widths[*item] / 2.0).fold(f32::INFINITY, f32::min);
    x.into_iter().map(|x| if left.is_finite() { x - left } else { x }).collect()
}

/// Places nearest to those wanted (place and weight) of which neighbours are at least `gaps` apart: least squares by pooling.
fn spread(wanted: &[(f32, f32)], gaps: &[f32]) -> Vec<f32> {
    let mut offsets = vec![0.0; wanted.len()];
    for (index, gap) in gaps.iter().enumerate() {
        offsets[index + 1] = offsets[index] + gap;
    }
    // Blocks of items that touch: mean, weight, number.
    let mut blocks: Vec<(f32, f32, usize)> = vec![];
    for ((place, weight), offset) in wanted.iter().zip(&offsets) {
        blocks.push((place - offset, *weight, 1));
        while let [.., before, last] = &mut blocks[..]
            && before.0 > last.0
        {
            let weight = before.1 + last.1;
            *before = ((before.0 * before.1 + last.0 * last.1) / weight, weight, before.2 + last.2);
            blocks.pop();
        }
    }
    let means = blocks.into_iter().flat_map(|(mean, _, count)| std::iter::repeat_n(mean, count));
    means.zip(offsets).map(|(mean, offset)| mean + offset).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOX: (f32, f32) = (80.0, 30.0);

    #[test]
    fn a_chain_is_a_straight_line_downwards() {
        let got = layout(&[BOX; 4], &[[0, 1], [1, 2], [2, 3]]);
        assert_eq!(got.centers.iter().map(|at| at.0).collect::<Vec<_>>(), [40.0; 4]);
        assert!(got.centers.windows(2).all(|pair| pair[1].1 - pair[0].1 == BOX.1 + GAP_Y));
        assert_eq!(got.size, (80.0, 4.0 * BOX.1 + 3.0 * GAP_Y));
        assert_eq!(got.routes[0], [(40.0, 30.0), (40.0, 30.0 + GAP_Y)]);
    }

    #[test]
    fn a_skip_runs_beside_what_it_skips() {
        // 0 -> 1 -> 2 -> 3, and 0 -> 3 past two layers.
        let got = layout(&[BOX; 4], &[[0, 1], [1, 2], [2, 3], [0, 3]]);
        let skip = &got.routes[3];
        assert_eq!(skip.len(), 6);
        let lane = skip[1].0;
        // Half a point cannot be seen.
        assert!(skip[1..5].iter().all(|point| (point.0 - lane).abs() < 0.5), "{skip:?}");
        assert!((got.centers[1].0 - got.centers[2].0).abs() < 0.5, "{:?}", got.centers);
        assert!((lane - got.centers[1].0).abs() >= BOX.0 / 2.0 + LANE / 2.0 - 0.5, "{lane} runs through {:?}", got.centers[1]);
    }

    #[test]
    fn boxes_never_overlap_and_a_cycle_is_no_trouble() {
        // A wheel with chords, from a fixed sequence.
        let edges: Vec<[usize; 2]> =
            (0..60).map(|index| [(index * 7) % 23, (index * 11 + 3) % 23]).filter(|[from, to]| from != to).collect();
        let sizes: Vec<(f32, f32)> = (0..23).map(|index| (40.0 + 9.0 * (index % 5) as f32, 20.0 + (index % 3) as f32 * 8.0)).collect();
        let got = layout(&sizes, &edges);
        for (a, one) in got.centers.iter().enumerate() {
            assert!(one.0 - sizes[a].0 / 2.0 >= -0.01 && one.0 + sizes[a].0 / 2.0 <= got.size.0 + 0.01);
            for (b, other) in got.centers.iter().enumerate().take(a) {
                let (x, y) = ((one.0 - other.0).abs(), (one.1 - other.1).abs());
                let clear = x >= (sizes[a].0 + sizes[b].0) / 2.0 || y >= (sizes[a].1 + sizes[b].1) / 2.0;
                assert!(clear, "{a} at {one:?} lies on {b} at {other:?}");
            }
        }
        assert_eq!(got.routes.len(), edges.len());
    }

    #[test]
    fn nothing_is_a_layout_too_and_a_second_input_stands_by_its_use() {
        assert_eq!(layout(&[], &[]), Layout::default());
        // 0 -> 1 -> 2 -> 3 and 4 -> 3.
        let got = layout(&[BOX; 5], &[[0, 1], [1, 2], [2, 3], [4, 3]]);
        assert_eq!(got.centers[4].1, got.centers[2].1);
    }

    #[test]
    fn places_are_the_nearest_that_keep_the_order() {
        assert_eq!(spread(&[(0.0, 1.0), (0.0, 1.0)], &[10.0]), [-5.0, 5.0]);
        assert_eq!(spread(&[(0.0, 3.0), (0.0, 1.0)], &[10.0]), [-2.5, 7.5]);
        assert_eq!(spread(&[(0.0, 1.0), (30.0, 1.0)], &[10.0]), [0.0, 30.0]);
    }
}
