//! The built programs under test.

use std::path::PathBuf;

/// Where a program is: in `WEIR_BIN_DIR`, else beside the test programs' folder.
pub fn path(name: &str) -> PathBuf {
    let dir = std::env::var_os("WEIR_BIN_DIR").map(PathBuf::from).unwrap_or_else(|| {
        let mut dir = std::env::current_exe().expect("own path");
        // target/debug/deps/test-0123 → target/debug
        dir.pop();
        dir.pop();
        dir
    });
    dir.join(name)
}
