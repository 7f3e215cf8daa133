//! Objects taken out of the text of a file, and nothing else of it changed.

use anyhow::{Result, bail};
use weir_model::{Name, Objects, SourceFile};

/// The text of a file without these objects of a kind, `None` when it has none of them.
///
/// Cuts the lines from `[KIND.NAME]` to the next table. Whether that left the rest as it was is checked by reading both texts;
/// what is written in another form is left to its author.
pub(crate) fn without(file: &SourceFile, kind: &str, names: &[Name]) -> Result<Option<String>> {
    let (objects, _) = Objects::parse(std::slice::from_ref(file));
    let mut wanted = serde_json::to_value(&objects)?;
    let mut found = false;
    if let Some(objects) = wanted.get_mut(kind).and_then(|objects| objects.as_object_mut()) {
        for name in names {
            found |= objects.remove(name.as_str()).is_some();
        }
    }
    if !found {
        return Ok(None);
    }
    let mut cutting = false;
    let mut text = String::new();
    for line in file.text.lines() {
        if line.trim_start().starts_with('[') {
            cutting = names.iter().any(|name| is_table_of(line, kind, name));
        }
        if !cutting {
            text.push_str(line);
            text.push('\n');
        }
    }
    let rest = SourceFile { path: file.path.clone(), text };
    let (objects, problems) = Objects::parse(std::slice::from_ref(&rest));
    if !problems.is_empty() || serde_json::to_value(&objects)? != wanted {
        let names = names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ");
        bail!("{} holds {kind} {names} in a form that is not [{kind}.NAME]: remove it there", file.path);
    }
    Ok(Some(rest.text))
}

/// Whether a line begins `[KIND.NAME]` or a table below it.
fn is_table_of(line: &str, kind: &str, name: &Name) -> bool {
    let header = line.split('#').next().unwrap_or_default().trim();
    let keys = header.trim_matches(|c| c == '[' || c == ']');
    let rest = keys.trim().strip_prefix(kind).and_then(|rest| rest.strip_prefix('.'));
    let Some(rest) = rest else { return false };
    let quoted = format!("\"{name}\"");
    [name.as_str(), &quoted]
        .iter()
        .filter_map(|form| rest.strip_prefix(*form))
        .any(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILOVER: &str =
        "zone = \"a\"\ncreated = \"2026-01-31T12:00:00Z\"\nexpires = \"2026-01-31T13:00:00Z\"\n";

    fn cut(text: &str) -> Result<Option<String>> {
        let file = SourceFile { path: "t.toml".into(), text: text.into() };
        without(&file, "failover", &["a".parse().unwrap()])
    }

    #[test]
    fn a_failover_is_cut_out_and_its_neighbours_stay() {
        let text = format!(
            "[zone.a]\n[failover.a] # now\n{FAILOVER}[failover.ab]\n{FAILOVER}[failover.a.scope]\npool = \"w\"\n"
        );
        let expected = format!("[zone.a]\n[failover.ab]\n{FAILOVER}");
        assert_eq!(cut(&text).unwrap(), Some(expected));
        assert_eq!(cut("[zone.a]\n").unwrap(), None);
        assert_eq!(cut(&format!("[failover.\"a\"]\n{FAILOVER}")).unwrap(), Some(String::new()));
    }

    #[test]
    fn another_form_is_left_to_its_author() {
        let inline = FAILOVER.trim().replace('\n', ", ");
        assert!(cut(&format!("failover = {{ a = {{ {inline} }} }}\n")).is_err());
        assert!(cut(&format!("[failover]\na = {{ {inline} }}\n")).is_err());
    }
}
