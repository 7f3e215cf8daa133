//! Figures beside a reference of the same run, as every benchmark prints them: a table for people, a list for programs.
//!
//! What is measured, and what its reference is, says each benchmark.

use serde::Serialize;

/// One figure beside its reference. Small is good.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// What was measured.
    pub case: &'static str,
    /// Of both figures.
    pub unit: &'static str,
    /// The figure.
    pub ours: f64,
    /// The same work by what cannot do less, or by somebody else.
    pub reference: f64,
}

impl Case {
    /// How many times the reference.
    pub fn ratio(&self) -> f64 {
        self.ours / self.reference
    }
}

/// What the command line of a benchmark asks for: `[--only CASE] [--json]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    only: String,
    json: bool,
}

impl Asked {
    /// Reads the arguments after the program's name; those it does not know are the benchmark's own, or cargo's.
    pub fn read(arguments: &[String]) -> Self {
        let only = arguments.iter().position(|argument| argument == "--only");
        let only = only.and_then(|at| arguments.get(at + 1)).cloned().unwrap_or_default();
        Self { only, json: arguments.iter().any(|argument| argument == "--json") }
    }

    /// Whether a case shall be measured: all, or those whose names contain what was asked for.
    pub fn wants(&self, case: &str) -> bool {
        case.contains(&self.only)
    }

    /// Whether nothing is left out.
    pub fn wants_all(&self) -> bool {
        self.only.is_empty()
    }

    /// The cases as they were asked for.
    pub fn render(&self, cases: &[Case]) -> String {
        if self.json { list(cases) } else { table(cases) }
    }
}

/// The value below which the share `q` of the values lies (0.5: the median), by nearest rank; `NaN` of none.
pub fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (q * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// The middle one.
pub fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

fn table(cases: &[Case]) -> String {
    let mut text =
        format!("{:<24} {:>6} {:>12} {:>12} {:>8}\n", "case", "unit", "ours", "reference", "ratio");
    for case in cases {
        let Case { case: name, unit, ours, reference } = case;
        text += &format!("{name:<24} {unit:>6} {ours:>12.3} {reference:>12.3} {:>8.2}\n", case.ratio());
    }
    text
}

fn list(cases: &[Case]) -> String {
    #[derive(Serialize)]
    struct Line {
        case: &'static str,
        unit: &'static str,
        ours: f64,
        reference: f64,
        ratio: f64,
    }
    let lines: Vec<Line> = cases
        .iter()
        .map(|c| Line { case: c.case, unit: c.unit, ours: c.ours, reference: c.reference, ratio: c.ratio() })
        .collect();
    // Strings and numbers: nothing in it can fail to become JSON.
    serde_json::to_string_pretty(&lines).unwrap_or_default() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Asked {
        Asked::read(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn a_case_is_asked_for_by_a_part_of_its_name() {
        assert!(asked("l4 --json").wants_all() && asked("--json").wants("anything"));
        let only = asked("--bench --only v4_tcp");
        assert!(only.wants("v4_tcp_ack_1") && !only.wants("v6_tcp_ack_1") && !only.wants_all());
        assert!(asked("--only").wants_all(), "nothing after it asks for nothing in particular");
    }

    #[test]
    fn both_forms_say_the_same() {
        let cases = [Case { case: "one", unit: "ms", ours: 3.0, reference: 2.0 }];
        let json: serde_json::Value = serde_json::from_str(&asked("--json").render(&cases)).unwrap();
        let expected = serde_json::json!([
            { "case": "one", "unit": "ms", "ours": 3.0, "reference": 2.0, "ratio": 1.5 }
        ]);
        assert_eq!(json, expected);
        let table = asked("").render(&cases);
        let last: Vec<&str> = table.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(last, ["one", "ms", "3.000", "2.000", "1.50"]);
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!((median(&mut values), quantile(&mut values, 0.99)), (50.0, 99.0));
        assert_eq!(quantile(&mut [7.0], 0.99), 7.0);
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert!(median(&mut []).is_nan());
    }
}
