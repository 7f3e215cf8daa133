//! Which servers of a pool are taken out because of what became of requests, and how many may be.
//!
//! Each server has a [`Circuit`](super::circuit::Circuit), which says when; what a pool can spare is decided here.

use weir_model::{Ejection, Name};

/// What a server answered within an interval.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// The server.
    pub server: &'a Name,
    /// Requests it got.
    pub requests: u64,
    /// Those that went wrong.
    pub bad: u64,
}

impl Sample<'_> {
    /// The share of good answers.
    pub fn success_rate(&self) -> f64 {
        1.0 - self.bad as f64 / self.requests.max(1) as f64
    }
}

/// Whether one more of `usable` servers may be taken out when `out` of them are.
pub fn may_eject(spec: &Ejection, usable: usize, out: usize) -> bool {
    let most = ((usable as f64 * spec.max_ejected.as_factor()).floor() as usize).max(1);
    // The last one stays: a bad answer is better than none.
    out < most.min(usable.saturating_sub(1))
}

/// The servers whose share of good answers is too small, the worst first; `out` of `usable` servers are out already.
pub fn outliers<'a>(
    spec: &Ejection,
    samples: impl Iterator<Item = Sample<'a>>,
    usable: usize,
    out: usize,
) -> Vec<Sample<'a>> {
    let Some(least) = spec.success_rate else { return Vec::new() };
    let mut bad: Vec<Sample<'a>> = samples
        .filter(|sample| sample.requests >= u64::from(spec.min_requests))
        .filter(|sample| sample.success_rate() < least.as_factor())
        .collect();
    bad.sort_by(|a, b| a.success_rate().total_cmp(&b.success_rate()).then(a.server.cmp(b.server)));
    let room = (0..bad.len()).take_while(|more| may_eject(spec, usable, out + more)).count();
    bad.truncate(room);
    bad
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use weir_model::Percent;

    fn spec(max_ejected: &str) -> Ejection {
        let text = format!(
            "[pool.p]\neject = {{ success_rate = \"90%\", min_requests = 10, max_ejected = \"{max_ejected}\" }}"
        );
        let file = weir_model::SourceFile { path: "t.toml".into(), text };
        weir_model::Snapshot::read(&[file]).unwrap().pools["p"].eject.clone().unwrap()
    }

    #[test]
    fn a_pool_spares_its_share_and_one_at_least_and_never_its_last() {
        for (max, usable, most) in [
            ("50%", 10, 5),
            ("50%", 3, 1),
            ("10%", 3, 1),
            ("100%", 4, 3),
            ("100%", 1, 0),
            ("0%", 2, 1),
            ("50%", 0, 0),
        ] {
            let spec = spec(max);
            let out = (0..usable).take_while(|out| may_eject(&spec, usable, *out)).count();
            assert_eq!(out, most, "{max} of {usable}");
        }
    }

    #[test]
    fn the_worst_go_first_and_few_requests_prove_nothing() {
        let names: Vec<Name> = ["a", "b", "c", "d"].iter().map(|name| name.parse().unwrap()).collect();
        let answers = [(100, 20), (100, 50), (9, 9), (100, 10)];
        let samples =
            || names.iter().zip(answers).map(|(server, (requests, bad))| Sample { server, requests, bad });
        let out = |max, already| {
            let outliers = outliers(&spec(max), samples(), 4, already);
            outliers.iter().map(|sample| sample.server.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(out("100%", 0), ["b", "a"]);
        assert_eq!(out("25%", 0), ["b"]);
        assert_eq!(out("50%", 1), ["b"]);
        assert!(out("50%", 2).is_empty());
    }

    proptest! {
        #[test]
        fn somebody_is_always_left(max in 0u32..=100, usable in 0usize..50, bad in 0usize..60) {
            let spec = Ejection { max_ejected: Percent::whole(max), ..spec("50%") };
            let out = (0..bad).fold(0, |out, _| out + usize::from(may_eject(&spec, usable, out)));
            prop_assert!(out < usable.max(1));
            prop_assert!(out <= (usable * max as usize / 100).max(1));
        }
    }
}
