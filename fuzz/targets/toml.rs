//! Any text as a configuration: it is read, or refused with problems that name the file and a line it has.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_model::{Snapshot, SourceFile};

fuzz_target!(|text: &str| {
    let files = [SourceFile { path: "a.toml".into(), text: text.into() }];
    let lines = text.split('\n').count();
    match Snapshot::read(&files) {
        Ok(snapshot) => {
            let again = Snapshot::read(&files).expect("what was read once is read again");
            assert_eq!(snapshot.generation, again.generation);
        }
        Err(problems) => {
            assert!(!problems.0.is_empty());
            for problem in problems.0 {
                assert!(problem.file == "a.toml" && problem.line <= lines, "{problem:?}");
            }
        }
    }
});
