//! Figures beside a reference of the same run, as every benchmark prints them: a table for people, a list for programs.
//!
//! What is measured, and what its reference is, says each benchmark.

use serde::{Serialize, Serializer};

/// A line of what a benchmark prints. Every line of one benchmark has the same columns.
pub trait Figure {
    /// Names of columns, and what stands there.
    fn cells(&self) -> Vec<(&'static str, Cell)>;
}

/// What stands in one column of a line.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Cell {
    /// What was measured.
    Case(&'static str),
    /// Of every figure in the line.
    Unit(&'static str),
    /// A figure; none where it could not be had.
    Figure(Option<f64>),
    /// Of two figures.
    Ratio(f64),
}

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

impl Figure for Case {
    fn cells(&self) -> Vec<(&'static str, Cell)> {
        vec![
            ("case", Cell::Case(self.case)),
            ("unit", Cell::Unit(self.unit)),
            ("ours", Cell::Figure(Some(self.ours))),
            ("reference", Cell::Figure(Some(self.reference))),
            ("ratio", Cell::Ratio(self.ratio())),
        ]
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
    pub fn render(&self, cases: &[impl Figure]) -> String {
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

fn table(cases: &[impl Figure]) -> String {
    let mut text = String::new();
    for (index, case) in cases.iter().enumerate() {
        let cells = case.cells();
        if index == 0 {
            text += &line(cells.iter().map(|(name, cell)| cell.padded(name)));
        }
        text += &line(cells.iter().map(|(_, cell)| cell.padded(&cell.text())));
    }
    text
}

fn line(cells: impl Iterator<Item = String>) -> String {
    cells.collect::<Vec<_>>().join(" ") + "\n"
}

impl Cell {
    fn text(&self) -> String {
        match self {
            Self::Case(text) | Self::Unit(text) => (*text).to_owned(),
            Self::Figure(Some(figure)) => format!("{figure:.3}"),
            Self::Figure(None) => "–".to_owned(),
            Self::Ratio(ratio) => format!("{ratio:.2}"),
        }
    }

    /// A text in a column of such cells.
    fn padded(&self, text: &str) -> String {
        match self {
            Self::Case(_) => format!("{text:<24}"),
            Self::Unit(_) => format!("{text:>6}"),
            Self::Figure(_) => format!("{text:>12}"),
            Self::Ratio(_) => format!("{text:>8}"),
        }
    }
}

fn list(cases: &[impl Figure]) -> String {
    /// An object whose members stand in the order of the columns.
    struct Object(Vec<(&'static str, Cell)>);

    impl Serialize for Object {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_map(self.0.iter().map(|(name, cell)| (name, cell)))
        }
    }

    let lines: Vec<Object> = cases.iter().map(|case| Object(case.cells())).collect();
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
    fn what_could_not_be_had_is_no_number() {
        struct Rivals;
        impl Figure for Rivals {
            fn cells(&self) -> Vec<(&'static str, Cell)> {
                vec![("case", Cell::Case("one")), ("theirs", Cell::Figure(None))]
            }
        }
        assert_eq!(asked("").render(&[Rivals]).split_whitespace().last(), Some("–"));
        let json: serde_json::Value = serde_json::from_str(&asked("--json").render(&[Rivals])).unwrap();
        assert_eq!(json, serde_json::json!([{ "case": "one", "theirs": null }]));
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
