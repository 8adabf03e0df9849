//! The laws of the layout (ARCHITECTURE.md). Each is about what is *absent*, so each can be proven by looking; a failure says what to do.
#![allow(clippy::unwrap_used, missing_docs)]

use serde_json::Value;
use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Packages of the workspace, by their folders.
const PACKAGES: [&str; 5] = [".", "schemas", "processors", "connectors", "xtask"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Files below `folder` with this extension, as paths from the workspace's folder; none where there is no such folder.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// The modules of every package: what is compiled into the product and its chores.
fn modules() -> Vec<PathBuf> {
    PACKAGES.iter().flat_map(|package| files(&format!("{package}/src"), "rs")).collect()
}

/// Every Rust file, tests and examples too.
fn sources() -> Vec<PathBuf> {
    let folders =
        PACKAGES.iter().flat_map(|package| ["tests", "examples", "benches"].map(|f| format!("{package}/{f}")));
    modules().into_iter().chain(folders.flat_map(|folder| files(&folder, "rs"))).chain(files("fuzz", "rs")).collect()
}

/// The line without its comment. A `//` within a string cuts it short, which can only hide what a reader would take for a comment too.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// Each line of `paths` for which `wrong` holds, as `path:line: text`; `wrong` sees the line without its comment.
fn offences(paths: &[PathBuf], wrong: impl Fn(&str) -> bool) -> String {
    let mut list = String::new();
    for path in paths {
        for (number, line) in read(path).lines().enumerate() {
            if wrong(code(line)) {
                writeln!(list, "{}:{}: {}", path.display(), number + 1, line.trim()).unwrap();
            }
        }
    }
    list
}

/// Whether `text` has `word` with no letter, digit or underscore around it.
fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(part) && !text[at + word.len()..].chars().next().is_some_and(part)
    })
}

/// Names of all packages that `package` depends on, by these kinds of edges.
fn dependencies(package: &str, edges: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--package", package, "--edges", edges, "--prefix", "none", "--format", "{p}"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let names: BTreeSet<String> = tree.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    assert!(names.contains(package), "cargo tree says nothing of {package}");
    names
}

#[test]
fn processors_have_no_runtime_clock_randomness_or_io() {
    const ABSENT: [&str; 19] = [
        // async runtimes
        "tokio",
        "async-std",
        "smol",
        "async-io",
        "futures-executor",
        "mio",
        // randomness
        "rand",
        "rand_core",
        "getrandom",
        "fastrand",
        // the clock and its zone
        "iana-time-zone",
        "jiff-tzdb-platform",
        "time",
        // the outside
        "reqwest",
        "hyper",
        "socket2",
        "fjall",
        "rdkafka",
        "scylla",
    ];
    let found = dependencies("bellwether-processors", "normal");
    for name in ABSENT.into_iter().chain(["lettre", "bellwether-connectors", "serde_avro_fast"]) {
        assert!(
            !found.contains(name),
            "bellwether-processors depends on {name}: `cargo tree -p bellwether-processors -i {name}` says through what. \
             Drop it or its feature; time, randomness and facts are passed in."
        );
    }
}

#[test]
fn processors_and_connectors_do_not_know_each_other() {
    const ALL: &str = "normal,build,dev";
    for (one, other) in
        [("bellwether-processors", "bellwether-connectors"), ("bellwether-connectors", "bellwether-processors")]
    {
        assert!(!dependencies(one, ALL).contains(other), "{one} depends on {other}: what both need belongs in schemas");
    }
    let found = dependencies("bellwether-schemas", "normal,build");
    assert!(
        !found.iter().any(|name| name.starts_with("bellwether-") && name != "bellwether-schemas"),
        "schemas know nobody"
    );
}

#[test]
fn every_package_inherits_the_lints_and_none_has_unsafe_code() {
    assert!(
        read("Cargo.toml").contains("unsafe_code = \"forbid\""),
        "Cargo.toml must forbid it in [workspace.lints.rust]"
    );
    for package in PACKAGES {
        let manifest = read(format!("{package}/Cargo.toml"));
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "{package}/Cargo.toml: add `[lints]` with `workspace = true`"
        );
    }
    let keyword = concat!("un", "safe"); // or this file would offend
    let lint = format!("{keyword}_code");
    // A page's security policy has such a word too, with a hyphen.
    let hyphened = format!("{keyword}-");
    let offends = |line: &str| {
        let line = line.replace(&hyphened, "");
        (has_word(&line, keyword) || has_word(&line, &lint)) && !line.contains("forbid")
    };
    let found = offences(&sources(), offends);
    assert!(found.is_empty(), "{keyword} code:\n{found}");
}

#[test]
fn processors_ask_nobody_for_time_files_network_or_environment() {
    const ABSENT: [&str; 13] = [
        "SystemTime",
        "Instant",
        "Timestamp::now",
        "Zoned::now",
        "std::fs",
        "std::net",
        "std::env",
        "std::process",
        "std::io",
        "std::thread",
        "thread::sleep",
        "thread_rng",
        "RandomState",
    ];
    let found = offences(&files("processors/src", "rs"), |line| ABSENT.iter().any(|name| has_word(line, name)));
    assert!(found.is_empty(), "a processor is told everything it knows; pass it in:\n{found}");
}

#[test]
fn every_module_says_what_it_is_for() {
    let silent: Vec<PathBuf> = modules().into_iter().filter(|path| !read(path).starts_with("//! ")).collect();
    assert!(silent.is_empty(), "begin with `//!`, what the module is for and what it must not do: {silent:?}");
}

#[test]
fn no_name_says_nothing() {
    const EMPTY: [&str; 9] = ["util", "utils", "utility", "common", "helper", "helpers", "manager", "managers", "misc"];
    for path in sources() {
        for part in path.with_extension("").iter().filter_map(|part| part.to_str()) {
            assert!(
                !part.split('_').any(|word| EMPTY.contains(&word)),
                "{}: name it after what it does",
                path.display()
            );
        }
    }
    let declared = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.windows(2).any(|pair| {
            let name = pair[1].split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
            match pair[0] {
                "mod" => EMPTY.contains(&name),
                "struct" | "enum" | "trait" => ["Manager", "Helper", "Util", "Utils"].iter().any(|e| name.ends_with(e)),
                _ => false,
            }
        })
    };
    let found = offences(&sources(), declared);
    assert!(found.is_empty(), "name it after what it does:\n{found}");
}

/// Words like `bellwether_decided_total` in a text, without the names of our crates.
fn metrics(text: &str) -> BTreeSet<String> {
    const CRATES: [&str; 3] = ["bellwether_schemas", "bellwether_processors", "bellwether_connectors"];
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("bellwether_") && !CRATES.contains(word))
        .map(str::to_owned)
        .collect()
}

/// A histogram's series carry these after the metric's name.
fn metric_of(series: &str) -> &str {
    ["_bucket", "_sum", "_count"].iter().find_map(|suffix| series.strip_suffix(suffix)).unwrap_or(series)
}

#[test]
fn one_module_names_every_metric() {
    const HOME: &str = "src/metrics.rs";
    let named = metrics(&read(HOME));
    assert!(!named.is_empty(), "{HOME} names metrics in full: \"bellwether_...\"");
    let others: Vec<PathBuf> = modules().into_iter().filter(|path| !path.ends_with(HOME)).collect();
    let found = offences(&others, |line| metrics(line).iter().any(|word| named.contains(word)));
    assert!(found.is_empty(), "use the names of {HOME}:\n{found}");

    for path in [files("infra", "yml"), files("infra", "json")].concat() {
        for series in metrics(&read(&path)) {
            assert!(named.contains(metric_of(&series)), "{}: {series} is not in {HOME}", path.display());
        }
    }
}

/// Each query of a dashboard, panels within rows too.
fn queries(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| queries(item, found)),
        Value::Object(object) => {
            found.extend(object.get("expr").and_then(Value::as_str).map(str::to_owned));
            object.values().for_each(|item| queries(item, found));
        }
        _ => {}
    }
}

#[test]
fn every_query_of_every_dashboard_is_promql() {
    let mut rules = String::from("groups:\n- name: dashboards\n  rules:\n");
    let mut count = 0;
    for path in files("infra/grafana/dashboards", "json") {
        let dashboard: Value = serde_json::from_str(&read(&path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut found = Vec::new();
        queries(&dashboard, &mut found);
        assert!(!found.is_empty(), "{} has no query", path.display());
        for query in found {
            let query = query.replace("$__rate_interval", "5m").replace("$__range", "1h");
            // A JSON string is a YAML string too.
            writeln!(rules, "  - {{record: 'dashboard:query:{count}', expr: {}}}", Value::from(query)).unwrap();
            count += 1;
        }
    }
    assert!(count > 0, "no dashboard");
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("rules.yml");
    fs::write(&file, rules).unwrap();
    match Command::new("promtool").args(["check", "rules"]).arg(&file).output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
        // `cargo xtask test` installs it; elsewhere the JSON is checked, and that is said.
        Err(error) => eprintln!("promtool: {error}: the queries were not checked (Debian: package prometheus)"),
    }
}
