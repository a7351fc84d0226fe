//! Successive halving: which budgets there are, and who goes on to the next. Synchronous: a rung is decided when all of it has trained.
//!
//! Source: Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", AISTATS 2016.

use super::{Halving, Mode};
use solstice_plugin_abi::{Span, Unit};
use solstice_store::At;

/// The budgets, from `min` up to and with `max`; a sentence when they make no ladder.
pub fn rungs(halving: &Halving) -> Result<Vec<Span>, String> {
    let Halving { min, max, factor } = *halving;
    if min.unit != max.unit {
        return Err(format!("`min` and `max` must count the same, got {min} and {max}"));
    }
    if min.unit == Unit::Seconds {
        return Err(
            "wanted budgets in epochs, steps or samples: after a restart nobody knows what a trial was worth at a given second".into()
        );
    }
    if factor < 2 {
        return Err(format!("`factor` must be at least 2, got {factor}"));
    }
    if min.amount >= max.amount {
        return Err(format!("`min` must be below `max`, got {min} and {max}"));
    }
    let mut rungs = vec![min];
    let mut amount = min.amount;
    while amount < max.amount {
        amount = (amount * f64::from(factor)).min(max.amount);
        rungs.push(Span { amount, unit: min.unit });
    }
    Ok(rungs)
}

/// True when a run at `at` has trained for `budget`; the rule of the training loop.
pub fn has_reached(at: At, budget: Span) -> bool {
    let position = match budget.unit {
        Unit::Epochs => at.epoch,
        Unit::Steps => at.step as f64,
        Unit::Samples => at.samples as f64,
        Unit::Seconds => return false,
    };
    position / budget.amount >= 1.0 - 1e-12
}

/// The best 1/`factor` of a rung, rounded up and at least one, in the order of their numbers. A trial without a value, or with one that is no number,
/// takes its part in the count but never goes on. Of equals the earlier trial wins.
pub fn keep_best(rung: &[(usize, Option<f64>)], factor: u32, mode: Mode) -> Vec<usize> {
    let mut scored: Vec<(usize, f64)> =
        rung.iter().filter_map(|(trial, value)| value.filter(|value| !value.is_nan()).map(|value| (*trial, value))).collect();
    scored.sort_by(|a, b| mode.compare(a.1, b.1).then(a.0.cmp(&b.0)));
    scored.truncate(rung.len().div_ceil(factor as usize).max(1));
    let mut kept: Vec<usize> = scored.into_iter().map(|(trial, _)| trial).collect();
    kept.sort_unstable();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ladder(min: &str, max: &str, factor: u32) -> Result<Vec<String>, String> {
        let halving = Halving { min: min.parse().unwrap(), max: max.parse().unwrap(), factor };
        Ok(rungs(&halving)?.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn rungs_multiply_and_end_at_the_top() {
        assert_eq!(ladder("1ep", "9ep", 3).unwrap(), ["1ep", "3ep", "9ep"]);
        assert_eq!(ladder("1ep", "10ep", 3).unwrap(), ["1ep", "3ep", "9ep", "10ep"]);
        assert_eq!(ladder("0.5ep", "1.5ep", 2).unwrap(), ["0.5ep", "1ep", "1.5ep"]);
        assert_eq!(ladder("100st", "101st", 4).unwrap(), ["100st", "101st"]);
        assert_eq!(ladder("1e3samples", "4e3samples", 2).unwrap(), ["1000samples", "2000samples", "4000samples"]);
    }

    #[test]
    fn ladders_that_are_none_are_refused() {
        for (min, max, factor, part) in [
            ("1ep", "100st", 3, "count the same, got 1ep and 100st"),
            ("1ep", "9ep", 1, "at least 2, got 1"),
            ("9ep", "1ep", 3, "below `max`, got 9ep and 1ep"),
            ("1min", "9min", 3, "epochs, steps or samples"),
        ] {
            let message = ladder(min, max, factor).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn the_best_third_rounded_up_goes_on() {
        // Worked by hand: losses of seven trials, 7 / 3 rounds up to 3: the least are 0.1 (4), 0.2 (1) and 0.3 (6).
        let rung: Vec<_> = [0.9, 0.2, 0.8, 0.7, 0.1, 0.6, 0.3].into_iter().enumerate().map(|(trial, loss)| (trial, Some(loss))).collect();
        assert_eq!(keep_best(&rung, 3, Mode::Min), [1, 4, 6]);
        assert_eq!(keep_best(&rung, 3, Mode::Max), [0, 2, 3]);
        // Then 3 / 3: one.
        let rung = [(1, Some(0.15)), (4, Some(0.12)), (6, Some(0.12))];
        assert_eq!(keep_best(&rung, 3, Mode::Min), [4]);
        assert_eq!(keep_best(&rung[..1], 3, Mode::Min), [1]);
    }

    #[test]
    fn trials_without_a_number_never_go_on() {
        let rung = [(0, None), (1, Some(f64::NAN)), (2, Some(f64::INFINITY)), (3, Some(1.0))];
        assert_eq!(keep_best(&rung, 2, Mode::Min), [2, 3]);
        assert_eq!(keep_best(&rung, 4, Mode::Min), [3]);
        assert_eq!(keep_best(&[(0, None), (1, None)], 2, Mode::Max), [0usize; 0]);
    }

    #[test]
    fn a_rung_ends_where_training_ends() {
        let at = |step: u64, epoch: f64, samples: u64| At { step, epoch, samples };
        let reached = |at: At, budget: &str| has_reached(at, budget.parse().unwrap());
        assert!(reached(at(30, 3.0, 1920), "3ep") && !reached(at(29, 2.9, 1856), "3ep"));
        assert!(reached(at(30, 3.0, 1920), "30st") && !reached(at(29, 2.9, 1856), "30st"));
        assert!(reached(at(30, 3.0, 1920), "1900samples") && !reached(at(29, 2.9, 1856), "1900samples"));
    }
}
