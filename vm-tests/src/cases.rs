//! What runs in the guest, and how its output is counted.

/// Where the guest has what `target/` has here: the programs look for each other at fixed distances.
pub(crate) const DIR: &str = "/target";

/// A program that must end well.
#[derive(Debug)]
pub(crate) struct Case {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it shows.
    pub(crate) about: &'static str,
    /// The file of `tests/tests` whose program it runs.
    pub(crate) test_program: Option<&'static str>,
    /// Seconds until it is killed; emulation takes about ten times as long as the machine itself.
    limit_s: u32,
    command: &'static str,
}

/// All cases, in the order they run.
pub(crate) const CASES: &[Case] = &[
    Case {
        name: "packets",
        about: "the kernel programs load, and the packet tables hold",
        test_program: Some("packets"),
        limit_s: 720,
        command: "WEIR_EBPF=/target/ebpf/weir /target/debug/deps/packets --test-threads=1",
    },
    Case {
        name: "lab",
        about: "a laboratory of one zone: BGP, XDP, GUE, TLS, HTTP over IPv4 and IPv6",
        test_program: None,
        limit_s: 420,
        command: "sh /lab.sh",
    },
];

impl Case {
    /// The file the guest reads: name, limit, command.
    pub(crate) fn table(cases: &[&Self]) -> String {
        cases.iter().map(|case| format!("{} {} {}\n", case.name, case.limit_s, case.command)).collect()
    }
}

/// Passed and failed tests, counted from what the guest prints.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
    /// What the case at hand has said about its own tests: passed, failed, ignored.
    inner: [u64; 3],
    /// Cases that have ended.
    pub(crate) ended: usize,
}

impl Tally {
    /// Takes a line of the guest's.
    ///
    /// A case that counts its own tests, as libtest does, is worth that many; another is worth one.
    pub(crate) fn line(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            for part in result.split([';', '.']) {
                let mut words = part.split_whitespace();
                let (Some(number), Some(what)) = (words.next(), words.next()) else { continue };
                let Ok(number) = number.parse::<u64>() else { continue };
                let kinds = ["passed", "failed", "ignored"];
                if let Some(kind) = kinds.iter().position(|kind| *kind == what) {
                    self.inner[kind] += number;
                }
            }
        }
        let mut words = line.split_whitespace();
        if words.next() != Some("CASE") {
            return;
        }
        let well = match words.nth(1) {
            Some("begins") => {
                self.inner = [0; 3];
                return;
            }
            Some("ok") => true,
            Some("FAILED") => false,
            _ => return,
        };
        self.ended += 1;
        let [passed, failed, ignored] = std::mem::take(&mut self.inner);
        self.passed += if passed + failed + ignored == 0 && well { 1 } else { passed };
        // A program that died has not counted its failure.
        self.failed += if well { failed } else { failed.max(1) };
        self.ignored += ignored;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(lines: &[&str]) -> Tally {
        let mut tally = Tally::default();
        lines.iter().for_each(|line| tally.line(line));
        tally
    }

    #[test]
    fn tests_of_a_case_are_counted_and_a_case_without_tests_is_one() {
        let result =
            "test result: ok. 9 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 2.00s";
        let seen =
            tally(&["CASE packets begins", result, "CASE packets ok", "CASE lab begins", "CASE lab ok"]);
        assert_eq!((seen.passed, seen.failed, seen.ignored, seen.ended), (10, 0, 1, 2));
    }

    #[test]
    fn a_case_that_dies_is_a_failure() {
        let seen = tally(&["CASE packets begins", "CASE packets FAILED (139)", "CASE lab begins"]);
        assert_eq!((seen.passed, seen.failed, seen.ended), (0, 1, 1));
        let result = "test result: FAILED. 7 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";
        let seen = tally(&["CASE packets begins", result, "CASE packets FAILED (101)"]);
        assert_eq!((seen.passed, seen.failed), (7, 2));
    }
}
