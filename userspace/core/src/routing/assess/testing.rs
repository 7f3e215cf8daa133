//! Small configurations for the tests of this crate.

use std::time::{Duration, SystemTime};

use weir_model::{Failover, FailoverScope, Name, Snapshot, SourceFile, Timestamp};

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Zones a, b, c with `servers` servers each (a0, a1, …) in one checked pool "web".
pub(crate) fn three_zones(servers: usize) -> Snapshot {
    zones(&["a", "b", "c"], servers)
}

pub(crate) fn zones(names: &[&str], servers: usize) -> Snapshot {
    let mut text = "[pool.web]\ncheck = { kind = \"tcp\" }\n".to_owned();
    for (z, zone) in names.iter().enumerate() {
        text += &format!("[zone.{zone}]\n");
        for s in 0..servers {
            text += &format!(
                "[server.{zone}{s}]\npools = [\"web\"]\naddress = \"10.{z}.0.{}:80\"\nzone = \"{zone}\"\n",
                s + 1
            );
        }
    }
    Snapshot::read(&[SourceFile { path: "t.toml".into(), text }]).unwrap()
}

pub(crate) fn failover(zone: &str, percent: &str) -> Failover {
    Failover {
        zone: name(zone),
        scope: FailoverScope::Everything,
        percent: percent.parse().unwrap(),
        created: Timestamp(SystemTime::UNIX_EPOCH),
        expires: Timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(3600)),
        reason: String::new(),
        author: String::new(),
    }
}
