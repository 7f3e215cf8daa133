//! The TOML files of a directory, or everything that keeps them from being read.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use weir_model::{Problem, SourceFile};

/// Files read from one directory; with more the configuration is refused.
pub const FILES_MAX: usize = 4_096;
/// Bytes of one file; a larger one is refused.
pub const FILE_LEN_MAX_BYTES: u64 = 16 << 20;
/// Bytes of all files together, held in memory while they are parsed.
pub const TOTAL_LEN_MAX_BYTES: u64 = 64 << 20;
/// Nesting of directories; deeper ones are refused, which also ends loops of symbolic links.
pub const DEPTH_MAX: usize = 8;

/// Every `*.toml` below `dir`, sorted by path; names that begin with a dot are skipped. Or everything that is wrong.
pub fn read_directory(dir: &Path) -> Result<Vec<SourceFile>, Vec<Problem>> {
    let mut paths = Vec::new();
    let mut problems = Vec::new();
    collect(dir, Path::new(""), 0, &mut paths, &mut problems);
    paths.sort();
    let mut files = Vec::new();
    let mut total = 0;
    for relative in paths {
        match read_file(&dir.join(&relative)) {
            Ok(text) => {
                total += text.len() as u64;
                files.push(SourceFile { path: relative.to_string_lossy().into_owned(), text });
            }
            Err(what) => problems.push(problem(&relative, what)),
        }
        if total > TOTAL_LEN_MAX_BYTES {
            problems.push(problem(
                Path::new(""),
                format!("files are larger than {TOTAL_LEN_MAX_BYTES} bytes together"),
            ));
            break;
        }
    }
    if problems.is_empty() { Ok(files) } else { Err(problems) }
}

fn collect(dir: &Path, relative: &Path, depth: usize, paths: &mut Vec<PathBuf>, problems: &mut Vec<Problem>) {
    if depth > DEPTH_MAX {
        return problems.push(problem(relative, format!("is nested deeper than {DEPTH_MAX} directories")));
    }
    let entries = match std::fs::read_dir(dir.join(relative)) {
        Ok(entries) => entries,
        Err(error) => {
            let shown = if relative.as_os_str().is_empty() { dir } else { relative };
            return problems.push(problem(shown, format!("directory cannot be read: {error}")));
        }
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = relative.join(&name);
        // Follows symbolic links; a dangling one named *.toml is an error when it is read.
        let is_dir = std::fs::metadata(dir.join(&path)).is_ok_and(|metadata| metadata.is_dir());
        if is_dir {
            collect(dir, &path, depth + 1, paths, problems);
        } else if path.extension().is_some_and(|extension| extension == "toml") {
            if paths.len() == FILES_MAX {
                return problems.push(problem(relative, format!("holds more than {FILES_MAX} files")));
            }
            paths.push(path);
        }
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    let metadata = std::fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?;
    if !metadata.is_file() {
        // A named pipe would block for ever.
        return Err("is not a regular file".into());
    }
    let mut text = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_LEN_MAX_BYTES + 1).read_to_end(&mut text))
        .map_err(|error| format!("cannot be read: {error}"))?;
    if text.len() as u64 > FILE_LEN_MAX_BYTES {
        return Err(format!("is larger than {FILE_LEN_MAX_BYTES} bytes"));
    }
    String::from_utf8(text).map_err(|error| format!("is not UTF-8: {error}"))
}

pub(super) fn problem(path: &Path, what: String) -> Problem {
    Problem {
        file: path.to_string_lossy().into_owned(),
        line: 0,
        path: String::new(),
        what,
        hint: String::new(),
    }
}
