//! Text of a configuration directory → objects, with the line of every field, and every mistake of form at once.
//!
//! A file holds tables `[kind.name]`; how objects are spread over files is the operator's choice.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use toml::{Spanned, de::DeTable, de::DeValue};

use crate::{AccessList, Failover, Group, Listener, Name, Node, Peer, Pool, Problem, Server, Vip, Zone};

/// The largest file read, in bytes: the text, its lines and its objects are held in memory at once.
pub const FILE_LEN_MAX: usize = 16 << 20;

/// One file of the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Path relative to the directory, for messages.
    pub path: String,
    /// Its content.
    pub text: String,
}

/// Where an object and its fields stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) file: String,
    /// Field path → line; the empty path is the object itself.
    lines: BTreeMap<String, usize>,
}

impl Origin {
    /// The line of `field`, or of the closest thing that contains it.
    pub(crate) fn line(&self, field: &str) -> usize {
        let mut path = field;
        loop {
            if let Some(&line) = self.lines.get(path) {
                return line;
            }
            match path.rfind('.') {
                Some(dot) => path = &path[..dot],
                None if path.is_empty() => return 0,
                None => path = "",
            }
        }
    }
}

/// All objects of a configuration, by kind and name, not yet checked against each other.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Objects {
    /// Zones.
    pub zone: BTreeMap<Name, Zone>,
    /// Load balancers.
    pub node: BTreeMap<Name, Node>,
    /// Groups of them.
    pub group: BTreeMap<Name, Group>,
    /// Virtual addresses.
    pub vip: BTreeMap<Name, Vip>,
    /// Listeners.
    pub listener: BTreeMap<Name, Listener>,
    /// Pools.
    pub pool: BTreeMap<Name, Pool>,
    /// Backends.
    pub server: BTreeMap<Name, Server>,
    /// BGP peers.
    pub peer: BTreeMap<Name, Peer>,
    /// Failovers.
    pub failover: BTreeMap<Name, Failover>,
    /// Access lists.
    pub access: BTreeMap<Name, AccessList>,
    #[serde(skip)]
    pub(crate) origins: BTreeMap<(&'static str, Name), Origin>,
}

impl Objects {
    /// Reads every file; returns what could be read and every mistake of form.
    pub fn parse(files: &[SourceFile]) -> (Self, Vec<Problem>) {
        let mut reader = Reader { lines: Lines::of(""), objects: Self::default(), problems: Vec::new() };
        for file in files {
            reader.file(file);
        }
        (reader.objects, reader.problems)
    }
}

struct Reader {
    /// Of the file that is being read.
    lines: Lines,
    objects: Objects,
    problems: Vec<Problem>,
}

const KINDS: [&str; 10] =
    ["zone", "node", "group", "vip", "listener", "pool", "server", "peer", "access", "failover"];

impl Reader {
    fn file(&mut self, file: &SourceFile) {
        if file.text.len() > FILE_LEN_MAX {
            self.problem(file, None, "", format!("file is larger than {FILE_LEN_MAX} bytes"), "split it");
            return;
        }
        self.lines = Lines::of(&file.text);
        let (table, errors) = DeTable::parse_recoverable(&file.text);
        for error in &errors {
            self.problem(file, error.span(), "", error.message().to_owned(), "this is not TOML");
        }
        if !errors.is_empty() {
            // What the parser salvaged from a damaged file may be less than what the operator meant.
            return;
        }
        for (kind, objects) in table.into_inner() {
            let kind_span = kind.span();
            let kind = kind.into_inner();
            let Some(&kind) = KINDS.iter().find(|known| **known == kind) else {
                let hint = crate::validate::did_you_mean(&kind, KINDS.iter().copied());
                self.problem(file, Some(kind_span), &kind, "unknown kind of object".into(), &hint);
                continue;
            };
            let span = objects.span();
            let DeValue::Table(objects) = objects.into_inner() else {
                let hint = format!("write [{kind}.NAME]");
                self.problem(file, Some(span), kind, "is not a table of objects".into(), &hint);
                continue;
            };
            for (name, value) in objects {
                self.object(file, kind, name.span(), name.get_ref(), value);
            }
        }
    }

    fn object(
        &mut self,
        file: &SourceFile,
        kind: &'static str,
        key_span: std::ops::Range<usize>,
        name: &str,
        value: Spanned<DeValue<'_>>,
    ) {
        let path = format!("{kind}.{name}");
        let name: Name = match name.parse() {
            Ok(name) => name,
            Err(error) => {
                return self.problem(file, Some(key_span), &path, format!("{error}"), "rename the object");
            }
        };
        let mut origin = Origin { file: file.path.clone(), lines: BTreeMap::new() };
        origin.lines.insert(String::new(), self.lines.line_of(key_span.start));
        if let DeValue::Table(table) = value.get_ref() {
            record_lines(&self.lines, table, "", &mut origin.lines);
        }
        if let Some(first) = self.objects.origins.get(&(kind, name.clone())) {
            let hint = format!("the first is in {}:{}", first.file, first.line(""));
            return self.problem(file, Some(key_span), &path, "is defined twice".into(), &hint);
        }
        let objects = &mut self.objects;
        let read = match kind {
            "zone" => read(&mut objects.zone, &name, value),
            "node" => read(&mut objects.node, &name, value),
            "group" => read(&mut objects.group, &name, value),
            "vip" => read(&mut objects.vip, &name, value),
            "listener" => read(&mut objects.listener, &name, value),
            "pool" => read(&mut objects.pool, &name, value),
            "server" => read(&mut objects.server, &name, value),
            "peer" => read(&mut objects.peer, &name, value),
            "access" => read(&mut objects.access, &name, value),
            _ => read(&mut objects.failover, &name, value),
        };
        match read {
            Ok(()) => {
                objects.origins.insert((kind, name), origin);
            }
            Err(error) => {
                let span = error.span().filter(|span| !span.is_empty()).unwrap_or(key_span);
                // The message already quotes the field or value; the path narrows it to the object's field by line.
                let line = self.lines.line_of(span.start);
                let field = origin.lines.iter().find(|(field, at)| **at == line && !field.is_empty());
                let path = field.map_or(path.clone(), |(field, _)| format!("{path}.{field}"));
                self.problem(file, Some(span), &path, error.message().to_owned(), "");
            }
        }
    }

    fn problem(
        &mut self,
        file: &SourceFile,
        span: Option<std::ops::Range<usize>>,
        path: &str,
        what: String,
        hint: &str,
    ) {
        self.problems.push(Problem {
            file: file.path.clone(),
            line: span.map_or(0, |span| self.lines.line_of(span.start)),
            path: path.to_owned(),
            what,
            hint: hint.to_owned(),
        });
    }
}

fn read<T: DeserializeOwned>(
    into: &mut BTreeMap<Name, T>,
    name: &Name,
    value: Spanned<DeValue<'_>>,
) -> Result<(), toml::de::Error> {
    into.insert(name.clone(), T::deserialize(toml::de::ValueDeserializer::from(value))?);
    Ok(())
}

fn record_lines(places: &Lines, table: &DeTable<'_>, prefix: &str, lines: &mut BTreeMap<String, usize>) {
    for (key, value) in table {
        let path =
            if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
        lines.insert(path.clone(), places.line_of(key.span().start));
        match value.get_ref() {
            DeValue::Table(inner) => record_lines(places, inner, &path, lines),
            DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    let path = format!("{path}.{index}");
                    lines.insert(path.clone(), places.line_of(item.span().start));
                    if let DeValue::Table(inner) = item.get_ref() {
                        record_lines(places, inner, &path, lines);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Where the lines of a text end: lists have a hundred thousand entries, and each says its line.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect())
    }

    fn line_of(&self, offset: usize) -> usize {
        1 + self.0.partition_point(|end| *end < offset)
    }
}
