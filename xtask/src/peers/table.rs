//! What a comparison prints: medians, ratios, memory. Text from numbers, nothing else.

use super::Figure;
use std::fmt::Write;

/// One side of the comparison.
pub struct Column<'a> {
    /// Its name in the tables.
    pub title: &'a str,
    /// Our device that it is compared with; `None` for ours.
    pub beside: Option<&'a str>,
}

/// Median of the numbers that are there.
pub fn median(numbers: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut numbers: Vec<f64> = numbers.into_iter().filter(|number| number.is_finite()).collect();
    numbers.sort_by(f64::total_cmp);
    match (numbers.len() / 2, numbers.len() % 2) {
        (_, _) if numbers.is_empty() => None,
        (middle, 1) => Some(numbers[middle]),
        (middle, _) => Some((numbers[middle - 1] + numbers[middle]) / 2.0),
    }
}

/// Ours over a peer's: ratio of the medians, least and most of the rounds in which both have a figure.
pub fn ratio(ours: &[Option<f64>], peers: &[Option<f64>]) -> Option<[f64; 3]> {
    let both: Vec<(f64, f64)> = ours.iter().zip(peers).filter_map(|(ours, peer)| Some(((*ours)?, (*peer)?))).collect();
    let of_medians = median(both.iter().map(|pair| pair.0))? / median(both.iter().map(|pair| pair.1))?;
    let each = both.iter().map(|(ours, peer)| ours / peer);
    let (least, most) = each.fold((f64::INFINITY, 0.0f64), |(least, most), ratio| (least.min(ratio), most.max(ratio)));
    Some([of_medians, least, most])
}

/// All tables of `rounds[round][model][column]`.
pub fn report(columns: &[Column], models: &[String], rounds: &[Vec<Vec<Option<Figure>>>]) -> String {
    let mut text = String::new();
    for (m, model) in models.iter().enumerate() {
        let of = |c: usize, name: &str| -> Vec<Option<f64>> {
            rounds.iter().map(|models| models[m][c].as_ref().and_then(|figure| figure.number(name))).collect()
        };
        let median_of = |c: usize, name: &str| median(of(c, name).into_iter().flatten());
        let is_product = model.starts_with("matmul-");
        let rate = if is_product { "GFLOP/s" } else { "samples/s" };
        let _ = writeln!(
            text,
            "\n{model:<14} {:>10} {:>11} {:>11} {:>12} {:>12} {:>9}   ours / theirs in samples a second (least..most of a round)",
            "ms/step", rate, "parameters", "tensors MiB", "process MiB", "first s"
        );
        for (c, column) in columns.iter().enumerate() {
            let Some(ms) = median_of(c, "ms_per_step") else { continue };
            let shown = |value: Option<f64>, digits: usize| value.map_or("-".into(), |value| format!("{value:.digits$}"));
            let rate = median_of(c, if is_product { "gflops_per_sec" } else { "samples_per_sec" });
            let ours =
                columns.iter().position(|ours| ours.beside.is_none() && column.beside.is_some_and(|device| ours.title.ends_with(device)));
            let ratio = ours.and_then(|ours| ratio(&of(ours, "samples_per_sec"), &of(c, "samples_per_sec")));
            let ratio = ratio.map_or(String::new(), |[ratio, least, most]| format!("{ratio:.2} ({least:.2}..{most:.2})"));
            let _ = writeln!(
                text,
                "{:<14} {ms:>10.2} {:>11} {:>11} {:>12} {:>12} {:>9}   {ratio}",
                column.title,
                shown(rate, if is_product { 1 } else { 0 }),
                shown(median_of(c, "parameters").filter(|_| !is_product), 0),
                shown(median_of(c, "device_memory_mib"), 1),
                shown(median_of(c, "peak_memory_mib").filter(|mib| *mib > 0.0), 0),
                shown(median_of(c, "first_step_secs"), 2),
            );
        }
        if let Some(sentence) = differing_parameters(columns, m, rounds) {
            let _ = writeln!(text, "NOT THE SAME MODEL: {sentence}");
        }
    }
    let adapters = (0..columns.len()).filter_map(|c| {
        let figure = rounds.iter().flatten().find_map(|figures| figures[c].as_ref())?;
        Some(format!("{}: {}", columns[c].title, figure.0["adapter"].as_str().unwrap_or("-")))
    });
    let _ = writeln!(text, "\n{}", adapters.collect::<Vec<_>>().join("\n"));
    text
}

/// A sentence when the sides of a model do not train the same number of parameters.
fn differing_parameters(columns: &[Column], model: usize, rounds: &[Vec<Vec<Option<Figure>>>]) -> Option<String> {
    let count = |c: usize| rounds.iter().find_map(|models| models[model][c].as_ref()?.number("parameters"));
    let counts: Vec<(&str, f64)> = (0..columns.len()).filter_map(|c| Some((columns[c].title, count(c)?))).collect();
    let differ = counts.iter().any(|(_, count)| *count != counts[0].1);
    differ.then(|| counts.iter().map(|(title, count)| format!("{title} has {count} parameters")).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn figure(samples_per_sec: f64, parameters: u64) -> Option<Figure> {
        Some(Figure(json!({
            "samples_per_sec": samples_per_sec, "ms_per_step": 1e5 / samples_per_sec, "parameters": parameters, "adapter": "two threads",
        })))
    }

    #[test]
    fn a_median_stands_in_the_middle() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median([f64::NAN, 5.0]), Some(5.0));
    }

    #[test]
    fn a_ratio_is_of_medians_and_knows_its_spread() {
        let of = |numbers: &[f64]| numbers.iter().map(|number| Some(*number)).collect::<Vec<_>>();
        assert_eq!(ratio(&of(&[10.0, 20.0, 30.0]), &of(&[5.0, 20.0, 10.0])), Some([2.0, 1.0, 3.0]));
        // A round that one side has not finished counts for neither.
        assert_eq!(ratio(&[Some(10.0), None, Some(1000.0)], &[Some(5.0), Some(1.0), None]), Some([2.0, 2.0, 2.0]));
        assert_eq!(ratio(&[None], &of(&[1.0])), None);
    }

    #[test]
    fn each_peer_stands_beside_our_device_of_its_kind() {
        let columns = [
            Column { title: "ours-cpu", beside: None },
            Column { title: "ours-gpu", beside: None },
            Column { title: "torch", beside: Some("cpu") },
            Column { title: "burn-wgpu", beside: Some("gpu") },
        ];
        let round = |factor: f64| vec![vec![figure(100.0 * factor, 10), figure(9.0 * factor, 10), figure(50.0, 10), figure(3.0, 10)]];
        let text = report(&columns, &["mlp".into()], &[round(1.0), round(2.0), round(1.5)]);
        let line =
            |title: &str| text.lines().find(|line| line.starts_with(title)).unwrap_or_else(|| panic!("no {title} in\n{text}")).to_owned();
        assert!(line("torch").ends_with("3.00 (2.00..4.00)"), "{text}");
        assert!(line("burn-wgpu").ends_with("4.50 (3.00..6.00)"), "{text}");
        assert!(line("ours-cpu").contains("150") && !text.contains("NOT THE SAME MODEL"), "{text}");
    }

    #[test]
    fn another_number_of_parameters_is_cried_out() {
        let columns = [Column { title: "ours-cpu", beside: None }, Column { title: "torch", beside: Some("cpu") }];
        let text = report(&columns, &["gpt".into()], &[vec![vec![figure(1.0, 804_096), figure(1.0, 812_416)]]]);
        assert!(text.contains("NOT THE SAME MODEL: ours-cpu has 804096 parameters, torch has 812416 parameters"), "{text}");
    }
}
