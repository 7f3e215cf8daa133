//! Quantities with their units: `250ms`, `10%`, `2026-01-31T12:00:00Z`. A bare number is refused: its unit would be a guess.

use std::{fmt, str::FromStr, time::Duration, time::SystemTime};

use serde::{Deserialize, Serialize};

/// Durations as text, for `#[serde(with = "units::duration")]`: an integer followed by `us`, `ms`, `s`, `m`, `h` or `d`.
pub mod duration {
    use super::*;
    use serde::{Deserializer, Serializer, de::Error};

    /// Reads `250ms`; anything without a unit, with a sign, a fraction or blanks is refused.
    pub fn parse(text: &str) -> Result<Duration, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let hint = "write an integer and a unit (us, ms, s, m, h, d), as in \"250ms\"";
        let number: u64 = number.parse().map_err(|_| format!("{text:?} is not a duration: {hint}"))?;
        let per_unit_us: u64 = match unit {
            "us" => 1,
            "ms" => 1_000,
            "s" => 1_000_000,
            "m" => 60_000_000,
            "h" => 3_600_000_000,
            "d" => 86_400_000_000,
            "" => return Err(format!("duration {text:?} has no unit: {hint}")),
            _ => {
                return Err(format!("duration {text:?} has the unknown unit {unit:?}: {hint}"));
            }
        };
        // Ten years bounds every deadline arithmetic downstream.
        match number.checked_mul(per_unit_us) {
            Some(us) if us <= 3_650 * 86_400_000_000 => Ok(Duration::from_micros(us)),
            _ => Err(format!("duration {text:?} is longer than 3650d")),
        }
    }

    /// The shortest exact form with one unit.
    pub fn print(duration: Duration) -> String {
        let us = duration.as_micros();
        for (unit, per_unit_us) in
            [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000)]
        {
            if us != 0 && us.is_multiple_of(per_unit_us) {
                return format!("{}{unit}", us / per_unit_us);
            }
        }
        format!("{us}us")
    }

    /// Serde writer.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&print(*duration))
    }

    /// Serde reader.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// The same for durations that may be absent, for `#[serde(with = "units::optional_duration")]`.
pub mod optional_duration {
    use super::*;
    use serde::{Deserializer, Serializer};

    /// Serde writer.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => super::duration::serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Serde reader.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        super::duration::deserialize(deserializer).map(Some)
    }
}

/// A share or factor in hundredths of a percent: `10%` is 1,000, `140%` is 14,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Percent(u32);

impl Percent {
    /// 100 %.
    pub const FULL: Self = Self(10_000);

    /// `whole` percent.
    pub const fn whole(whole: u32) -> Self {
        Self(whole * 100)
    }

    /// The share as a factor: 1.0 for 100 %.
    pub fn as_factor(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a percentage: write it as in \"10%\" or \"12.5%\"");
        let number = text.strip_suffix('%').ok_or_else(bad)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |s: &str, max| !s.is_empty() && s.len() <= max && s.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole, 5) || !digits(fraction, 2) {
            return Err(bad());
        }
        let hundredths: u32 = format!("{fraction:0<2}").parse().map_err(|_| bad())?;
        Ok(Self(whole.parse::<u32>().map_err(|_| bad())? * 100 + hundredths))
    }
}

impl TryFrom<String> for Percent {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Percent> for String {
    fn from(percent: Percent) -> Self {
        percent.to_string()
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 100, self.0 % 100) {
            (whole, 0) => write!(f, "{whole}%"),
            (whole, hundredths) => write!(f, "{whole}.{hundredths:02}%"),
        }
    }
}

/// Events per second, written with their unit: `10000/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate(u32);

impl Rate {
    /// The largest: an event per nanosecond.
    const MAX: u32 = 1_000_000_000;

    /// `count` events per second, at least one and at most 10⁹.
    pub const fn per_second(count: u32) -> Self {
        Self(if count == 0 {
            1
        } else if count > Self::MAX {
            Self::MAX
        } else {
            count
        })
    }

    /// Nanoseconds from one event to the next.
    pub const fn interval_ns(self) -> u32 {
        Self::MAX / self.0
    }
}

impl TryFrom<String> for Rate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let count = text.strip_suffix("/s").and_then(|count| count.parse().ok());
        match count {
            Some(count @ 1..=Self::MAX) => Ok(Self(count)),
            _ => Err(format!(
                "{text:?} is not a rate: write an integer from 1 and the unit, as in \"10000/s\""
            )),
        }
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        format!("{}/s", rate.0)
    }
}

/// A moment in UTC, written in RFC 3339 form: `2026-01-31T12:00:00Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp(pub SystemTime);

impl TryFrom<String> for Timestamp {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        humantime::parse_rfc3339(&text)
            .map(Self)
            .map_err(|error| format!("{text:?} is not a time like \"2026-01-31T12:00:00Z\": {error}"))
    }
}

impl From<Timestamp> for String {
    fn from(timestamp: Timestamp) -> Self {
        timestamp.to_string()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_rfc3339_millis(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_need_a_known_unit() {
        assert_eq!(duration::parse("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration::parse("2m"), Ok(Duration::from_secs(120)));
        for bad in
            ["", "5", "ms", "-1s", "1.5s", "1 s", "5 parsecs", "99999999999999999999s", "999999999999d"]
        {
            assert!(duration::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn percentages_need_their_sign() {
        assert_eq!("12.5%".parse::<Percent>().unwrap().to_string(), "12.50%");
        assert_eq!("140%".parse::<Percent>().unwrap().as_factor(), 1.4);
        for bad in ["", "%", "10", "-1%", "1.234%", "1e3%", "999999%", ".5%"] {
            assert!(bad.parse::<Percent>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn rates_need_their_unit() {
        assert_eq!(Rate::try_from("10000/s".to_owned()).map(Rate::interval_ns), Ok(100_000));
        assert_eq!(String::from(Rate::per_second(7)), "7/s");
        for bad in ["", "/s", "10", "0/s", "-1/s", "10/m", "1.5/s", "1000000001/s"] {
            assert!(Rate::try_from(bad.to_owned()).is_err(), "{bad:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn printed_durations_read_back(us in 0u64..3_650 * 86_400_000_000) {
            let d = Duration::from_micros(us);
            prop_assert_eq!(duration::parse(&duration::print(d)), Ok(d));
        }
    }
}
