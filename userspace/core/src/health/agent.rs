//! What a host says of itself in an agent check: a line of words, as HAProxy's agent check has them (its manual, `agent-check`).
//!
//! An answer says only what changes: `drain`, then `50%`, is half the weight and still draining, until `ready`.

use super::Outcome;

/// The largest share of its weight a host may ask for, in hundredths, as in HAProxy.
const WEIGHT_PERCENT_MAX: u32 = 256;
/// Bytes of an answer that are looked at.
pub const ANSWER_LEN_MAX: usize = 1 << 10;

/// What one answer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// `ready`, `drain` or `maint`.
    pub wish: Option<Wish>,
    /// `75%`: its share of its weight, in hundredths.
    pub weight_percent: Option<u32>,
    /// `up`, or `down`, `fail`, `stopped` and why.
    pub up: Option<Result<(), String>>,
}

/// What the host wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// Its share of the traffic.
    #[default]
    Ready,
    /// No new flows.
    Drain,
    /// Nothing at all.
    Maint,
}

impl Said {
    /// Reads the first line of an answer. Words that mean nothing here are passed over, as HAProxy does.
    ///
    /// # Errors
    ///
    /// When no word is understood.
    pub fn read(answer: &[u8]) -> Result<Self, String> {
        let answer = &answer[..answer.len().min(ANSWER_LEN_MAX)];
        let line = answer.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let (words, reason) = line.split_once('#').map_or((&*line, ""), |(words, why)| (words, why.trim()));
        let mut said = Self::default();
        for word in words.split([' ', '\t', ',']).filter(|word| !word.is_empty()) {
            match word.to_ascii_lowercase().as_str() {
                "ready" => said.wish = Some(Wish::Ready),
                "drain" => said.wish = Some(Wish::Drain),
                "maint" => said.wish = Some(Wish::Maint),
                "up" => said.up = Some(Ok(())),
                down @ ("down" | "fail" | "failed" | "stopped") => {
                    let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
                    said.up = Some(Err(format!("agent says {down}{why}")));
                }
                word => {
                    let percent = word.strip_suffix('%').and_then(|number| number.parse().ok());
                    said.weight_percent =
                        percent.map(|p: u32| p.min(WEIGHT_PERCENT_MAX)).or(said.weight_percent);
                }
            }
        }
        if said == Self::default() {
            return Err(format!("agent says nothing that is understood: {:?}", line.trim()));
        }
        Ok(said)
    }
}

/// What all answers so far say.
#[derive(Clone, Debug, Default)]
pub(super) struct Agent {
    wish: Wish,
    weight_percent: Option<u32>,
    down: Option<String>,
}

impl Agent {
    /// Its share of its weight, in hundredths.
    pub(super) fn weight_percent(&self) -> u32 {
        self.weight_percent.unwrap_or(100)
    }

    /// Adds an answer; what all of them mean.
    pub(super) fn hear(&mut self, said: Said) -> Outcome {
        self.wish = said.wish.unwrap_or(self.wish);
        self.weight_percent = said.weight_percent.or(self.weight_percent);
        if let Some(up) = said.up {
            self.down = up.err();
        }
        match (&self.down, self.wish) {
            (Some(reason), _) => Outcome::Stop(reason.clone()),
            (None, Wish::Maint) => Outcome::Stop("agent says maint".into()),
            (None, Wish::Drain) => Outcome::Drain,
            (None, Wish::Ready) if self.weight_percent() == 0 => Outcome::Drain,
            (None, Wish::Ready) => Outcome::Pass,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_an_agent_mean_what_they_mean_to_haproxy() {
        let down = |text: &str| Some(Err(text.to_owned()));
        for (answer, wish, weight_percent, up) in [
            ("up 75%\n", None, Some(75), Some(Ok(()))),
            ("drain\r\n", Some(Wish::Drain), None, None),
            ("ready up 100%", Some(Wish::Ready), Some(100), Some(Ok(()))),
            ("MAINT", Some(Wish::Maint), None, None),
            ("down # disk full\n", None, None, down("agent says down: disk full")),
            ("down#disk full", None, None, down("agent says down: disk full")),
            ("stopped", None, None, down("agent says stopped")),
            ("maxconn:30, 999%", None, Some(256), None),
            ("0%", None, Some(0), None),
        ] {
            let said = Said { wish, weight_percent, up };
            assert_eq!(Said::read(answer.as_bytes()), Ok(said), "{answer:?}");
        }
        for nothing in ["", "\nup", "hello", "-5%", "# up", "\u{0}\u{ff}"] {
            assert!(Said::read(nothing.as_bytes()).is_err(), "{nothing:?}");
        }
        assert!(Said::read(&vec![b'x'; 1 << 20]).is_err());
    }

    #[test]
    fn what_an_agent_does_not_say_stays_as_it_said_before() {
        let mut agent = Agent::default();
        let mut hear = |answer: &str| {
            let outcome = agent.hear(Said::read(answer.as_bytes()).unwrap());
            (outcome, agent.weight_percent())
        };
        let stop = |why: &str| Outcome::Stop(why.into());
        assert_eq!(hear("up"), (Outcome::Pass, 100));
        assert_eq!(hear("drain 50%"), (Outcome::Drain, 50));
        assert_eq!(hear("up"), (Outcome::Drain, 50));
        assert_eq!(hear("down"), (stop("agent says down"), 50));
        assert_eq!(hear("ready"), (stop("agent says down"), 50));
        assert_eq!(hear("up 80%"), (Outcome::Pass, 80));
        assert_eq!(hear("maint"), (stop("agent says maint"), 80));
        assert_eq!(hear("ready 0%"), (Outcome::Drain, 0));
    }
}
