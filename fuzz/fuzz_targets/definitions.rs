//! A folder of definitions takes any text: a document that survives its publication, or errors that each name a place in a file.
#![no_main]

use bellwether::definitions::{check_provider, load};
use bellwether_processors::definitions::Compiled;
use bellwether_schemas::definitions::Definitions;
use libfuzzer_sys::fuzz_target;
use std::{fs, sync::LazyLock};
use tempfile::TempDir;

const FILES: [&str; 8] = [
    "project.yaml",
    "providers.yaml",
    "templates/a.yaml",
    "flows/a.yaml",
    "events/a.yaml",
    "types/a.yaml",
    "partials/a.html",
    "layouts/a.mjml",
];
/// The first of them that there need not be.
const OPTIONAL: usize = 4;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    for part in ["templates", "flows", "events", "types", "partials", "layouts"] {
        fs::create_dir(folder.path().join(part)).expect("a folder");
    }
    folder
});

fn environment(name: &str) -> Option<String> {
    (name == "SET").then(|| "1".to_owned())
}

// An input is the files one after another, with a line of `%%` between, of which an empty one is not there; or a document as it is published.
fuzz_target!(|input: &str| {
    if let Ok(document) = serde_json::from_str::<Definitions>(input) {
        drop(Compiled::new(document, 1, &check_provider));
    }
    let texts: Vec<&str> = input.splitn(FILES.len(), "\n%%\n").chain([""; FILES.len()]).take(FILES.len()).collect();
    for (n, (file, text)) in FILES.iter().zip(&texts).enumerate() {
        let path = FOLDER.path().join(file);
        if n < OPTIONAL || !text.is_empty() {
            fs::write(path, text).expect("a file");
        } else if path.exists() {
            fs::remove_file(path).expect("a file of ours");
        }
    }
    match load(FOLDER.path(), &environment, &check_provider) {
        Ok(loaded) => {
            let json = serde_json::to_string(&loaded.document).expect("a document can be written");
            let published: Definitions = serde_json::from_str(&json).expect("what was written can be read");
            assert_eq!(published, loaded.document);
            assert!(Compiled::new(published, 1, &check_provider).is_ok(), "the API says the same");
        }
        Err(errors) => {
            assert!(!errors.is_empty());
            for error in errors {
                let text = FILES.iter().position(|file| *file == error.file).map(|n| texts[n]).expect("a file of ours");
                // One line more: the end of a file is a place too.
                assert!((1..=text.split(['\n', '\r']).count() + 1).contains(&(error.line as usize)), "{error}");
                assert!(error.column >= 1 && !error.problem.is_empty() && !error.remedy.is_empty(), "{error}");
            }
        }
    }
});
