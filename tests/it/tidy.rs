//! What people would otherwise have to watch for: imports point one way, files stay short, nothing is dead or undocumented.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

/// Lines of one source file at most.
const LINES_MAX: usize = 400;

/// Which modules a module may import, beside itself. `docs/architecture.md` says what each is for.
const IMPORTS: &[(&str, &str)] = &[
    ("clock", ""),
    ("cache", ""),
    ("digest", ""),
    ("event", ""),
    ("error", ""),
    ("shutdown", ""),
    ("config", ""),
    ("jobs", "event"),
    ("telemetry", "config"),
    ("limits", "event config error"),
    ("inspect", "event telemetry"),
    ("spans", "event config telemetry"),
    ("store", "event config telemetry jobs"),
    ("auth", "event config telemetry store error cache digest"),
    ("broker", "event config telemetry jobs auth"),
    ("hub", "event config telemetry error auth inspect spans"), // error: for the code of a close reason; auth: for `Grant`
    ("presence", "event config telemetry auth broker"),
    ("ingest", "event jobs config telemetry error auth broker store digest spans inspect"), // store: seeds a lost state, writes states back
    ("session", "event jobs config telemetry error auth hub presence broker store cache digest limits inspect"),
    ("transport", "error session hub telemetry limits"),
    (
        "http",
        "event jobs config telemetry error auth broker hub presence ingest session transport store limits inspect spans shutdown app",
    ),
    (
        "app",
        "event jobs config telemetry error auth broker hub presence ingest session transport store limits inspect spans shutdown cache http",
    ),
    (
        "cli",
        "event jobs config telemetry error auth broker hub presence ingest session transport store limits inspect spans shutdown http app",
    ),
];

/// What everybody may import.
const EVERYWHERE: &str = "clock";

/// Words that must not stand in the source, and why.
const FORBIDDEN: &[(&str, &str)] = &[
    ("todo!", "unfinished"),
    ("unbounded_channel", "every queue has a bound"),
    ("tokio::spawn(", "a task without an owner outlives shutdown"),
    ("use crate::{", "one line per import, so that the import map can be read"),
];

/// Files of `tests/it` that may sleep: they make the pauses, or play a part that has some.
const SLEEPERS: &[&str] =
    &["support/eventually.rs", "support/proxy.rs", "support/sse.rs", "support/follower.rs", "tidy.rs"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every file under a directory of the repository, named from there with `/`.
fn files(directory: &str) -> Vec<String> {
    let top = root().join(directory);
    let mut open = vec![top.clone()];
    let mut found = Vec::new();
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(&top).unwrap().to_str().unwrap().replace('\\', "/"));
            }
        }
    }
    found.sort();
    found
}

/// Rust files of `src` with their text.
fn sources() -> Vec<(String, String)> {
    let rust = files("src").into_iter().filter(|file| file.ends_with(".rs"));
    rust.map(|file| (file.clone(), read(format!("src/{file}")))).collect()
}

fn is_test(file: &str) -> bool {
    file.ends_with("tests.rs") || file.contains("/tests/")
}

/// Lines of code with their numbers; lines that are only a comment say nothing about what the code does.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
    lines.filter(|(_, line)| !line.starts_with("//"))
}

/// Words that follow `crate::` in a line.
fn imports(line: &str) -> impl Iterator<Item = &str> {
    let word_end = |text: &str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    line.split("crate::").skip(1).map(move |rest| &rest[..word_end(rest)])
}

fn assert_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn imports_point_one_way() {
    let map: BTreeMap<&str, BTreeSet<&str>> = IMPORTS
        .iter()
        .map(|(module, may)| (*module, may.split(' ').chain(EVERYWHERE.split(' ')).chain([*module]).collect()))
        .collect();
    let mut wrong = Vec::new();
    for (file, text) in sources().iter().filter(|(file, _)| !is_test(file)) {
        let module = file.split('/').next().unwrap().trim_end_matches(".rs");
        if matches!(module, "lib" | "main") {
            continue;
        }
        let Some(may) = map.get(module) else {
            wrong.push(format!("src/{file}: module {module} is not in the map of tests/it/tidy.rs"));
            continue;
        };
        for (number, line) in code(text) {
            let strange = imports(line).filter(|word| !may.contains(word));
            wrong.extend(strange.map(|word| format!("src/{file}:{number}: {module} may not import {word:?}")));
        }
    }
    assert_none("imports against the map", &wrong);
}

/// The map itself points one way: what a module may import may not import it, but for `http` and `app`, which are one shell.
#[test]
fn the_import_map_has_no_circle() {
    let map: BTreeMap<&str, &str> = IMPORTS.iter().copied().collect();
    let mut wrong = Vec::new();
    for (module, may) in IMPORTS {
        for imported in may.split(' ').filter(|word| !word.is_empty()) {
            let back = map.get(imported).unwrap_or_else(|| panic!("{imported} is not in the map"));
            let shell = matches!((*module, imported), ("http", "app") | ("app", "http"));
            if back.split(' ').any(|word| word == *module) && !shell {
                wrong.push(format!("{module} and {imported} import each other"));
            }
        }
    }
    assert_none("circles", &wrong);
}

#[test]
fn source_files_are_short() {
    let long = |(file, text): &(String, String)| {
        let lines = text.lines().count();
        (lines > LINES_MAX).then(|| format!("src/{file}: {lines} lines"))
    };
    assert_none(&format!("over {LINES_MAX} lines"), &sources().iter().filter_map(long).collect::<Vec<_>>());
}

#[test]
fn nothing_forbidden_stands_in_the_source() {
    let mut wrong = Vec::new();
    for (file, text) in &sources() {
        for (number, line) in code(text) {
            let found = FORBIDDEN.iter().filter(|(word, _)| line.contains(word));
            wrong.extend(found.map(|(word, why)| format!("src/{file}:{number}: {word} ({why})")));
        }
    }
    assert_none("forbidden", &wrong);
}

/// Whether `name` stands in the text as a word of its own, so that a longer name doesn't stand for it.
fn names(text: &str, name: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    text.match_indices(name)
        .any(|(at, _)| !part(text[..at].chars().next_back()) && !part(text[at + name.len()..].chars().next()))
}

#[test]
fn every_metric_is_documented() {
    let docs = read("docs/operations.md");
    let source = read("src/telemetry/metrics.rs");
    let quoted = source.split('"').skip(1).step_by(2).filter(|text| text.starts_with("realtime_"));
    let metrics: BTreeSet<&str> = quoted.collect();
    assert!(metrics.len() > 10, "the metrics are no longer found: {metrics:?}");
    let missing: Vec<String> = metrics.iter().filter(|name| !names(&docs, name)).map(ToString::to_string).collect();
    assert_none("metrics that docs/operations.md doesn't name", &missing);
}

#[test]
fn every_setting_is_documented() {
    let docs = read("docs/operations.md");
    let settings: toml::Table = read("src/config/config.default.toml").parse().unwrap();
    let missing: Vec<String> =
        settings.keys().map(|key| key.to_uppercase()).filter(|name| !names(&docs, name)).collect();
    assert_none("settings that docs/operations.md doesn't name", &missing);
}

/// The modules that a file declares in files of their own.
fn declared(text: &str) -> impl Iterator<Item = &str> {
    code(text).filter_map(|(_, line)| {
        let line = line.strip_prefix("pub(crate) ").or_else(|| line.strip_prefix("pub ")).unwrap_or(line);
        line.strip_prefix("mod ")?.strip_suffix(';')
    })
}

#[test]
fn no_source_file_is_dead() {
    let sources: BTreeMap<String, String> = sources().into_iter().collect();
    let mut reached: BTreeSet<String> = BTreeSet::new();
    let mut open = vec!["lib.rs".to_owned(), "main.rs".to_owned()];
    while let Some(file) = open.pop() {
        let Some(text) = sources.get(&file) else { continue };
        let (directory, name) =
            file.rsplit_once('/').map_or(("", file.as_str()), |(directory, name)| (directory, name));
        let beside = matches!(name, "lib.rs" | "main.rs" | "mod.rs");
        let base = if beside { directory.to_owned() } else { file.trim_end_matches(".rs").to_owned() };
        let base = if base.is_empty() { base } else { base + "/" };
        open.extend(declared(text).flat_map(|module| [format!("{base}{module}.rs"), format!("{base}{module}/mod.rs")]));
        reached.insert(file);
    }
    let dead = sources.keys().filter(|file| !reached.contains(*file)).map(|file| format!("src/{file}"));
    assert_none("files that no `mod` reaches", &dead.collect::<Vec<_>>());
}

/// Scripts, statements and pages are compiled in by name.
#[test]
fn no_other_file_of_the_source_is_dead() {
    let sources = sources();
    let included = |file: &String| {
        let name = file.rsplit('/').next().unwrap();
        sources.iter().any(|(_, text)| names(text, name))
    };
    let read_otherwise = |file: &String| file.ends_with(".rs") || file.ends_with(".md");
    let dead = files("src").into_iter().filter(|file| !read_otherwise(file) && !included(file));
    assert_none("files that no Rust file names", &dead.map(|file| format!("src/{file}")).collect::<Vec<_>>());
}

#[test]
fn tests_wait_for_what_they_want() {
    let mut wrong = Vec::new();
    for file in files("tests/it").iter().filter(|file| file.ends_with(".rs") && !SLEEPERS.contains(&file.as_str())) {
        let text = read(format!("tests/it/{file}"));
        let bare = code(&text).filter(|(_, line)| line.contains("sleep("));
        wrong.extend(bare.map(|(number, _)| format!("tests/it/{file}:{number}: use `eventually`")));
    }
    assert_none("sleeps", &wrong);
}

/// The finders of this file find: without this, an empty list would prove nothing.
#[test]
fn tidy_itself_sees() {
    assert_eq!(imports("use crate::hub::Frame; fn f(x: crate::error::E)").collect::<Vec<_>>(), ["hub", "error"]);
    assert_eq!(
        declared("pub mod a;\n// mod b;\nmod c;\npub(crate) mod d;\nmod e {").collect::<Vec<_>>(),
        ["a", "c", "d"]
    );
    assert!(
        names("`LOG_LEVEL`", "LOG_LEVEL") && !names("LOG_LEVELS", "LOG_LEVEL") && !names("A_LOG_LEVEL", "LOG_LEVEL")
    );
    assert!(is_test("hub/tests.rs") && !is_test("hub/lane.rs"));
}
