//! A folder of definitions takes any text: a document that survives its publication, or errors that each name a place in a file.
#![no_main]

use bellwether::definitions::{check_provider, load};
use bellwether_processors::definitions::Compiled;
use bellwether_schemas::definitions::Definitions;
use libfuzzer_sys::fuzz_target;
use std::{fs, sync::LazyLock};
use tempfile::TempDir;

const FILES: [&str; 4] = ["project.yaml", "providers.yaml", "templates/a.yaml", "flows/a.yaml"];

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    for part in ["templates", "flows"] {
        fs::create_dir(folder.path().join(part)).expect("a folder");
    }
    folder
});

fn environment(name: &str) -> Option<String> {
    (name == "SET").then(|| "1".to_owned())
}

// An input is the four files one after another, with a line of `%%` between; or a document as it is published.
fuzz_target!(|input: &str| {
    if let Ok(document) = serde_json::from_str::<Definitions>(input) {
        drop(Compiled::new(document, 1, &check_provider));
    }
    let texts: Vec<&str> = input.splitn(FILES.len(), "\n%%\n").chain([""; 3]).take(FILES.len()).collect();
    for (file, text) in FILES.iter().zip(&texts) {
        fs::write(FOLDER.path().join(file), text).expect("a file");
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
