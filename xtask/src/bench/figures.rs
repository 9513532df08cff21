//! Medians, their extremes, and the limits they are held against.

/// One figure of the results.
#[derive(Debug, Clone)]
pub(super) struct Figure {
    /// Stable, as in `start.smolvm`.
    pub(super) id: &'static str,
    /// For people.
    pub(super) what: String,
    /// `ms`, `MiB` or `x`.
    pub(super) unit: &'static str,
    pub(super) runs: usize,
    pub(super) p50: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    /// The most it may be.
    pub(super) limit: Option<f64>,
}

impl Figure {
    /// The median of what was measured.
    pub(super) fn of(id: &'static str, what: impl Into<String>, unit: &'static str, values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |i: usize| sorted.get(i).copied().unwrap_or(f64::NAN);
        let last = sorted.len().saturating_sub(1);
        // Of an even number of runs the two in the middle count alike.
        let p50 = f64::midpoint(at(last / 2), at(sorted.len() / 2));
        Self { id, what: what.into(), unit, runs: values.len(), p50, min: at(0), max: at(last), limit: None }
    }

    /// How many times as long one took as the other: of the medians; the extremes are those of runs that were neighbours.
    pub(super) fn ratio(id: &'static str, what: impl Into<String>, over: &[f64], under: &[f64]) -> Self {
        let pairs: Vec<f64> = over.iter().zip(under).map(|(a, b)| a / b).collect();
        let p50 = Self::of(id, "", "", over).p50 / Self::of(id, "", "", under).p50;
        Self { p50, ..Self::of(id, what, "x", &pairs) }
    }

    /// Holds it against a limit.
    pub(super) fn at_most(self, limit: f64) -> Self {
        Self { limit: Some(limit), ..self }
    }

    /// Whether it keeps its limit, if it has one.
    pub(super) fn verdict(&self) -> &'static str {
        match self.limit {
            None => "",
            Some(limit) if self.p50 <= limit => "met",
            Some(_) => "missed",
        }
    }
}

/// Milliseconds with their fractions.
pub(super) fn ms(duration: std::time::Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios() {
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        let odd = Figure::of("a", "", "ms", &[3.0, 1.0, 2.0]);
        assert!(near(odd.p50, 2.0) && near(odd.min, 1.0) && near(odd.max, 3.0) && odd.runs == 3);
        assert!(near(Figure::of("a", "", "ms", &[4.0, 1.0, 2.0, 3.0]).p50, 2.5));
        assert!(Figure::of("a", "", "ms", &[]).p50.is_nan());
        let ratio = Figure::ratio("a", "", &[2.0, 4.0, 6.0], &[2.0, 2.0, 2.0]).at_most(1.5);
        assert!(near(ratio.p50, 2.0) && near(ratio.max, 3.0));
        assert_eq!(ratio.verdict(), "missed");
    }
}
