//! Damaged configurations: whatever the text, reading it ends, and says which file and line it does not like.

use weir_model::{Problem, Snapshot, SourceFile};

const EXAMPLE: [(&str, &str); 4] = [
    ("peers.toml", include_str!("../../../config/examples/cluster/peers.toml")),
    ("pools.toml", include_str!("../../../config/examples/cluster/pools.toml")),
    ("vips.toml", include_str!("../../../config/examples/cluster/vips.toml")),
    ("zones.toml", include_str!("../../../config/examples/cluster/zones.toml")),
];

/// Damaged texts per file; all cuts come on top of them.
const INJURIES: u64 = 1_500;

fn example() -> Vec<SourceFile> {
    EXAMPLE.map(|(path, text)| SourceFile { path: path.into(), text: text.into() }).into()
}

/// Reads the example with one file replaced; every problem must name a file that is there and a line it has.
fn read_with(files: &mut [SourceFile], at: usize, text: String) -> Vec<Problem> {
    let whole = std::mem::replace(&mut files[at].text, text);
    let problems = Snapshot::read(files).map_or_else(|problems| problems.0, |_| Vec::new());
    for problem in &problems {
        let file = files.iter().find(|file| file.path == problem.file);
        let file = file.unwrap_or_else(|| panic!("{problem:?} names no file of the configuration"));
        let lines = file.text.split('\n').count();
        // The parser does not say where it met its limit of nesting; 0 is the whole file.
        let first = if problem.what == "recursion limit" { 0 } else { 1 };
        assert!((first..=lines).contains(&problem.line), "{problem:?}, but the file has {lines} lines");
        assert!(!problem.what.is_empty(), "{problem:?}");
    }
    files[at].text = whole;
    problems
}

/// SplitMix64: the same damage in every run.
fn random(state: &mut u64) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) as usize
}

#[test]
fn the_example_is_whole() {
    let mut files = example();
    let text = files[0].text.clone();
    assert_eq!(read_with(&mut files, 0, text), []);
}

#[test]
fn a_file_cut_anywhere_is_read_or_refused_with_its_place() {
    let mut files = example();
    let mut refused = 0;
    for (at, (path, text)) in EXAMPLE.iter().enumerate() {
        for (end, _) in text.char_indices() {
            let problems = read_with(&mut files, at, text[..end].to_owned());
            refused += usize::from(problems.iter().any(|problem| problem.file == *path));
        }
    }
    assert!(refused > 100, "only {refused} cuts were noticed in the file that was cut");
}

#[test]
fn a_damaged_file_is_read_or_refused_with_its_place() {
    const ALPHABET: &[u8] = b"[]{}\"'=.,#\n\r\t -_09aZ\\/:\0\x7f";
    let mut files = example();
    let mut state = 0x7765_6972;
    let mut refused = 0;
    for (at, (_, text)) in EXAMPLE.iter().enumerate() {
        for _ in 0..INJURIES {
            let mut bytes = text.as_bytes().to_vec();
            for _ in 0..=random(&mut state) % 3 {
                let place = random(&mut state) % bytes.len();
                let byte = ALPHABET[random(&mut state) % ALPHABET.len()];
                let end = (place + random(&mut state) % 60).min(bytes.len());
                match random(&mut state) % 5 {
                    0 => bytes[place] = byte,
                    1 => bytes.insert(place, byte),
                    2 => bytes[place] ^= 1 << (random(&mut state) % 8),
                    3 if end - place < bytes.len() => drop(bytes.drain(place..end)),
                    _ => {
                        let again = bytes[place..end].to_vec();
                        bytes.splice(place..place, again);
                    }
                }
            }
            // Files that are not UTF-8 are refused by whoever reads them; damage beyond that is shown as U+FFFD here.
            let text = String::from_utf8_lossy(&bytes).into_owned();
            refused += usize::from(!read_with(&mut files, at, text).is_empty());
        }
    }
    assert!(refused > 1_000, "only {refused} injuries were noticed");
}

#[test]
fn nesting_without_end_does_not_end_the_stack() {
    let mut files = example();
    for (open, close) in [("[", "]"), ("{a=", "}")] {
        let deep = format!("[zone.az1]\nx = {}1{}\n", open.repeat(100_000), close.repeat(100_000));
        assert!(!read_with(&mut files, 3, deep).is_empty());
    }
    let dotted = format!("[zone.az1]\n{}x = 1\n", "a.".repeat(100_000));
    assert!(!read_with(&mut files, 3, dotted).is_empty());
    let header = format!("[{}x]\n", "a.".repeat(100_000));
    assert!(!read_with(&mut files, 3, header).is_empty());
}
