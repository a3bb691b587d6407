//! Holds the house to `ARCHITECTURE.md`: layers, where unsafe code may stand, sizes of files, words that must not
//! be in the tree. There is no list of exceptions.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms and what each may import, from the ground up.
const LAYERS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("clock", &[]),
    ("ring", &["base"]),
    ("log", &["base"]),
    ("engine", &["base", "ring", "log"]),
    ("embedded", &["base", "clock", "log", "engine"]),
    ("wire", &["base"]),
    ("client", &["base", "wire"]),
    ("server", &["base", "clock", "log", "engine", "wire"]),
    (
        "cli",
        &[
            "base", "clock", "log", "engine", "embedded", "wire", "client", "server",
        ],
    ),
];

/// The only files with unsafe code.
const UNSAFE_FILES: &[&str] = &["src/log/region.rs"];

/// Lines of a file up to its tests. The soft limit is 300; this is where a second noun must be found.
const FILE_LINES_MAX: usize = 500;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(folder) else {
            continue;
        };
        for entry in entries.map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() && path.file_name().unwrap() != "target" {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn name(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_string_lossy().into_owned()
}

/// The room that a source file belongs to; `None` for `lib.rs` and `main.rs`, which wire the rooms together.
fn room(path: &Path) -> Option<String> {
    let inside = path.strip_prefix(root().join("src")).unwrap();
    let first = inside
        .components()
        .next()
        .unwrap()
        .as_os_str()
        .to_string_lossy()
        .into_owned();
    let room = first.trim_end_matches(".rs").to_owned();
    (!["lib", "main"].contains(&room.as_str())).then_some(room)
}

/// The code of a file without comments and without what stands behind `#[cfg(test)]`-like modules at its end.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let end = text.find("\nmod tests {").unwrap_or(text.len());
    text[..end]
        .lines()
        .map(|line| line.split("//").next().unwrap())
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn imports_point_only_downward() {
    let mut wrong = Vec::new();
    for path in files("src", "rs") {
        let Some(room) = room(&path) else { continue };
        let Some((_, allowed)) = LAYERS.iter().find(|(layer, _)| *layer == room) else {
            panic!("{} is in no room of the house", name(&path));
        };
        for piece in code(&path).split("crate::").skip(1) {
            let target: String = piece
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            let is_room = LAYERS.iter().any(|(layer, _)| *layer == target);
            if is_room && target != room && !allowed.contains(&target.as_str()) {
                wrong.push(format!("{} imports {target}", name(&path)));
            }
            // Re-exports of the front door are for users; inside, a thing is named by its room.
            if !is_room && target.chars().next().is_some_and(char::is_uppercase) {
                wrong.push(format!("{} names crate::{target} without its room", name(&path)));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn unsafe_code_stands_only_where_the_architecture_says() {
    for path in files("src", "rs") {
        let code = code(&path);
        let has_unsafe =
            code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl");
        let may = UNSAFE_FILES.contains(&name(&path).as_str());
        assert!(!has_unsafe || may, "{} has unsafe code", name(&path));
        assert!(
            may || !code.contains("allow(unsafe_code"),
            "{} allows unsafe code",
            name(&path)
        );
    }
}

#[test]
fn no_file_has_outgrown_its_noun() {
    let long: Vec<String> = ["src", "clients", "benches"]
        .into_iter()
        .flat_map(|folder| files(folder, "rs"))
        .map(|path| (code(&path).lines().count(), name(&path)))
        .filter(|(lines, _)| *lines > FILE_LINES_MAX)
        .map(|(lines, name)| format!("{name}: {lines}"))
        .collect();
    assert!(long.is_empty(), "over {FILE_LINES_MAX} lines: {long:#?}");
}

#[test]
fn nothing_is_left_for_later_in_the_tree() {
    // Put together here so that this file does not find itself.
    let words = [
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["XX", "X"].concat(),
    ];
    for path in ["src", "tests", "benches", "clients", "examples"]
        .into_iter()
        .flat_map(|folder| files(folder, "rs"))
    {
        let text = fs::read_to_string(&path).unwrap();
        for word in &words {
            assert!(
                !text.contains(word.as_str()),
                "{} has {word}; what is open is in the issues",
                name(&path)
            );
        }
    }
}

#[test]
fn every_room_is_on_the_architecture_page() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for (layer, allowed) in LAYERS {
        let imports = if allowed.is_empty() {
            "nothing".to_owned()
        } else {
            allowed.join(", ")
        };
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{layer}` |")));
        let row = row.unwrap_or_else(|| panic!("{layer} has no row in the table of rooms"));
        assert!(
            row.contains(&format!("| {imports} |")),
            "row of {layer}: expected `{imports}` in {row}"
        );
    }
    for file in UNSAFE_FILES {
        assert!(page.contains(file), "{file} is not named");
    }
}

#[test]
fn every_test_that_the_reliability_page_names_is_there() {
    let page = fs::read_to_string(root().join("RELIABILITY.md")).unwrap();
    let sources: Vec<String> = ["tests", "src"]
        .iter()
        .flat_map(|folder| files(folder, "rs"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let mut tests = 0;
    let mut checks = 0;
    // What stands between single backticks; blocks of code have three, and an even number of them.
    for word in page.split('`').skip(1).step_by(2) {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if word.starts_with("tests/") && !word.contains(['*', ' ']) {
            assert!(root().join(word).exists(), "{word} is not there");
        } else if word.bytes().all(|byte| is_plain(byte) || byte == b'_') && word.matches('_').count() > 3 {
            let begin = format!("fn {word}(");
            assert!(
                sources.iter().any(|source| source.contains(&begin)),
                "no test is called {word}"
            );
            tests += 1;
        } else if word.bytes().all(|byte| is_plain(byte) || byte == b'-') && word.contains('-') {
            let check = format!("broken!(\"{word}\"");
            let alone = format!("\"{word}\"");
            let is_check = |source: &String| source.contains(&check) || source.contains(&alone);
            assert!(
                sources.iter().any(is_check),
                "the simulation has no check called {word}"
            );
            checks += 1;
        }
    }
    assert!(tests > 15 && checks > 15, "{tests} tests and {checks} checks");
}
