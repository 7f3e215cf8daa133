use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::run::root;

/// Which of our crates each may import; design: contracts ← decisions ← shell libraries ← programs ← proof. An edge that is
/// not here deserves more thought than a thousand lines.
const EDGES: [(&str, &[&str]); 15] = [
    ("ebpf/abi", &[]),
    ("ebpf/programs", &["weir-abi"]),
    ("userspace/model", &[]),
    ("userspace/core", &["weir-abi", "weir-model"]),
    ("userspace/runtime", &["weir-core", "weir-model"]),
    ("userspace/lab", &["weir-core", "weir-model", "weir-runtime"]),
    ("userspace/l4", &["weir-abi", "weir-core", "weir-model", "weir-runtime"]),
    ("userspace/proxy", &["weir-core", "weir-model", "weir-runtime"]),
    ("userspace/cli", &["weir-core", "weir-lab", "weir-model", "weir-runtime"]),
    ("bgp-agent/bgp", &[]),
    ("bgp-agent/bfd", &[]),
    ("bgp-agent/agent", &["weir-bfd", "weir-bgp", "weir-core", "weir-model", "weir-runtime"]),
    ("xtask", &[]),
    ("tests", &["weir-abi", "weir-core", "weir-l4", "weir-lab", "weir-model", "weir-runtime"]),
    ("vm-tests", &[]),
];

/// Crates that know no clock, network, file system or runtime.
const PURE: [&str; 5] = ["ebpf/abi", "userspace/model", "userspace/core", "bgp-agent/bgp", "bgp-agent/bfd"];

/// Only these may use aya: the kernel shell, the ABI (whose structs travel through maps) and the packet tests.
const AYA: [&str; 3] = ["ebpf/abi", "userspace/l4", "tests"];

fn manifest(path: &str) -> toml::Table {
    let text = fs::read_to_string(root().join(path).join("Cargo.toml")).expect("manifest");
    text.parse().expect("manifest is TOML")
}

fn dependencies(manifest: &toml::Table) -> BTreeSet<String> {
    let table = |name: &str| manifest.get(name).and_then(|table| table.as_table());
    table("dependencies").into_iter().flat_map(|table| table.keys().cloned()).collect()
}

fn rust_files(below: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(below).expect("directory") {
        let path = entry.expect("entry").path();
        let name = path.file_name().expect("name").to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

fn tracked(extensions: &[&str]) -> Vec<(PathBuf, String)> {
    let output = std::process::Command::new("git").arg("ls-files").current_dir(root()).output().expect("git");
    let files = String::from_utf8(output.stdout).expect("names");
    files
        .lines()
        .map(|line| root().join(line))
        .filter(|path| {
            extensions.is_empty() || path.extension().is_some_and(|e| extensions.iter().any(|x| e == *x))
        })
        .filter_map(|path| fs::read_to_string(&path).ok().map(|text| (path, text)))
        .collect()
}

#[test]
fn crates_import_only_from_floors_above_them() {
    let members = manifest(".")["workspace"]["members"].as_array().expect("members").len();
    assert_eq!(members, EDGES.len(), "every crate has a line in EDGES");
    for (path, allowed) in EDGES {
        let ours: BTreeSet<String> =
            dependencies(&manifest(path)).into_iter().filter(|name| name.starts_with("weir")).collect();
        let allowed: BTreeSet<String> = allowed.iter().map(|name| (*name).to_owned()).collect();
        assert!(ours.is_subset(&allowed), "{path} imports {:?}", ours.difference(&allowed));
    }
}

#[test]
fn only_the_kernel_shell_and_its_proof_know_aya() {
    for (path, _) in EDGES {
        let uses = dependencies(&manifest(path)).contains("aya");
        assert!(!uses || AYA.contains(&path), "{path} imports aya");
    }
}

#[test]
fn pure_crates_know_no_clock_network_file_or_runtime() {
    const BANNED: [&str; 9] = [
        "Instant::now",
        "SystemTime::now",
        "std::fs",
        "std::net::Tcp",
        "std::net::Udp",
        "std::process",
        "std::thread",
        "std::env",
        "rand::",
    ];
    for path in PURE {
        for dependency in ["tokio", "hyper", "socket2", "nix", "rand"] {
            assert!(!dependencies(&manifest(path)).contains(dependency), "{path} imports {dependency}");
        }
        let mut files = Vec::new();
        rust_files(&root().join(path).join("src"), &mut files);
        for file in files
            .iter()
            .filter(|file| !file.ends_with("tests.rs") && !file.to_string_lossy().contains("/tests/"))
        {
            let text = fs::read_to_string(file).expect("source");
            let code = text.split("#[cfg(test)]").next().expect("code before tests");
            for banned in BANNED {
                assert!(!code.contains(banned), "{} uses {banned}", file.display());
            }
        }
    }
}

#[test]
fn every_file_says_what_it_is() {
    for (path, _) in EDGES {
        let mut files = Vec::new();
        rust_files(&root().join(path).join("src"), &mut files);
        for file in files.iter().filter(|file| !file.ends_with("tests.rs") && !file.ends_with("rules.rs")) {
            let text = fs::read_to_string(file).expect("source");
            assert!(text.starts_with("//!"), "{} does not begin with what it is", file.display());
        }
    }
}

#[test]
fn no_file_names_a_place_on_somebodys_machine() {
    let needle = |parts: [&str; 2]| parts.concat();
    let banned = [needle(["/wo", "rk/"]), needle(["/ro", "ot/"]), needle(["../sha", "red"])];
    for (path, text) in tracked(&["rs", "toml", "md", "sh", "service"]) {
        for banned in &banned {
            assert!(!text.contains(banned.as_str()), "{} contains {banned}", path.display());
        }
    }
}

#[test]
fn every_feature_names_a_test_that_exists() {
    let features = fs::read_to_string(root().join("docs/features.md")).expect("docs/features.md");
    let sources: String = tracked(&["rs"]).into_iter().map(|(_, text)| text).collect();
    let mut proven = 0;
    for line in features.lines().filter(|line| line.starts_with("- ")) {
        let name = line.rsplit('`').nth(1).unwrap_or_else(|| panic!("no test is named in: {line}"));
        let last = name.rsplit("::").next().expect("name");
        assert!(sources.contains(last), "{name} proves nothing, it does not exist: {line}");
        proven += 1;
    }
    assert!(proven > 0, "docs/features.md lists nothing");
}

#[test]
fn unsafe_code_stays_at_its_marked_edges() {
    for (path, text) in tracked(&["rs"]) {
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let opens = code.contains("unsafe {") || code.contains("unsafe impl");
            if opens && !path.ends_with("rules.rs") {
                let before = &lines[index.saturating_sub(6)..=index];
                assert!(
                    before.iter().any(|line| line.contains("SAFETY:")),
                    "{}:{} is unsafe without a reason",
                    path.display(),
                    index + 1
                );
            }
        }
    }
}
