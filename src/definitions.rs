//! A folder of definitions: `project.yaml`, `providers.yaml`, `templates/NAME.yaml` and `flows/NAME.yaml` become one checked document, or the list
//! of everything that is wrong, by file and line. Rules are not made here (`processors` has them), and nothing is published (`cli::apply` does).

mod diff;
mod reader;
mod tree;

pub use diff::diff;

use bellwether_connectors::channels::{self, ConfigError};
use bellwether_processors::definitions::{CheckProvider, Compiled, Finding, ProviderCheck, SettingProblem};
use bellwether_schemas::definitions::{Definitions, Template};
use reader::Reader;
use serde_json::{Map, Value};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    path::Path,
};
use tree::{Kind, Node, Place};

/// Bytes of one file: more is no definition but a mistake.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Definitions from a folder, checked.
#[derive(Debug)]
pub struct Loaded {
    sources: Vec<Source>,
    /// The document, as it is published.
    pub document: Definitions,
    /// The same, compiled; its version is 0, because nothing is published yet.
    pub compiled: Compiled,
}

impl Loaded {
    /// The place in the folder of what somebody else found in the document; `None` where no file defines it.
    #[must_use]
    pub fn locate(&self, finding: &Finding) -> Option<Located> {
        locate(&self.sources, finding)
    }
}

/// Something wrong at a place of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Located {
    /// File, relative to the folder.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1, in characters.
    pub column: u32,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

/// `file:line:column: problem; remedy`.
impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}; {}", self.file, self.line, self.column, self.problem, self.remedy)
    }
}

impl std::error::Error for Located {}

/// What the connectors say of a provider's kind and settings, in the words that the processors ask for.
#[must_use]
pub fn check_provider(kind: &str, settings: &Map<String, Value>) -> ProviderCheck {
    let problem = channels::validate(kind, settings).err().map(|error| match error {
        ConfigError::Kind(_) => {
            (String::new(), format!("use one of {}", channels::KINDS.map(|(kind, _)| kind).join(", ")))
        }
        ConfigError::Field { field, problem, .. }
            if settings.contains_key(field.split('.').next().unwrap_or_default()) =>
        {
            (field, problem)
        }
        other => (String::new(), other.to_string()),
    });
    let problem = problem.map(|(field, problem)| SettingProblem { field, problem });
    ProviderCheck {
        channel: channels::channel_of(kind),
        prefix: channels::prefix_of(kind),
        problems: problem.into_iter().collect(),
    }
}

/// Loads and checks a folder. `env` gives the values of `${NAME}`.
///
/// # Errors
/// Everything that is wrong in any file, ordered by file and line.
pub fn load(
    dir: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    check: CheckProvider<'_>,
) -> Result<Loaded, Vec<Located>> {
    let mut folder = Folder { dir, env, errors: Vec::new(), sources: Vec::new() };
    let document = folder.read();
    let compiled = Compiled::new(document.clone(), 0, check);
    let findings = compiled.as_ref().err().into_iter().flatten();
    let located: Vec<_> = findings.filter_map(|finding| folder.locate(finding, &document)).collect();
    let mut errors = folder.errors;
    errors.extend(located);
    match compiled {
        Ok(compiled) if errors.is_empty() => Ok(Loaded { sources: folder.sources, document, compiled }),
        _ => {
            errors.sort();
            errors.dedup();
            Err(errors)
        }
    }
}

/// A folder as far as it could be read.
struct Folder<'d> {
    dir: &'d Path,
    env: &'d dyn Fn(&str) -> Option<String>,
    errors: Vec<Located>,
    sources: Vec<Source>,
}

/// A file and what it defines.
#[derive(Debug)]
struct Source {
    file: String,
    /// `project`, `providers`, `templates.NAME` or `flows.NAME`.
    path: String,
    text: String,
    tree: Node,
    /// Something in it could not be read: what the rules then find in it may be a consequence.
    is_broken: bool,
}

impl Folder<'_> {
    fn read(&mut self) -> Definitions {
        let definitions = Definitions {
            project: self.file("project.yaml", "project", Reader::project).unwrap_or_default(),
            providers: self.file("providers.yaml", "providers", Reader::providers).unwrap_or_default(),
            templates: self
                .files("templates", Reader::template, || Template { channels: BTreeMap::new(), sample: Map::new() }),
            flows: BTreeMap::new(),
        };
        let flows = self.files_that_are_whole("flows", Reader::flow);
        self.unexpected();
        Definitions { flows, ..definitions }
    }

    fn error(&mut self, file: &str, problem: impl Into<String>, remedy: impl Into<String>) {
        let Place { line, column, .. } = Place::START;
        self.errors.push(Located { file: file.into(), line, column, problem: problem.into(), remedy: remedy.into() });
    }

    /// Reads one file; `None` where nothing of it can be read.
    fn file<T>(&mut self, file: &str, path: &str, read: impl FnOnce(&mut Reader, &Node) -> T) -> Option<T> {
        let text = match read_text(&self.dir.join(file)) {
            Ok(text) => text,
            Err(error) => {
                let remedy =
                    if error.kind() == io::ErrorKind::NotFound { "write it" } else { "make it a readable text file" };
                self.error(file, format!("cannot be read: {error}"), remedy);
                self.broken(file, path);
                return None;
            }
        };
        let mut tree = match Node::parse(&text) {
            Ok(tree) => tree,
            Err((at, problem)) => {
                let is_reference = text.lines().nth(at.line as usize - 1).is_some_and(|line| line.contains("${"));
                let hint = if is_reference { "; within `{ }` and `[ ]`, put `${…}` in quotes" } else { "" };
                let (line, column, remedy) = (at.line, at.column, format!("correct the YAML{hint}"));
                self.errors.push(Located { file: file.into(), line, column, problem, remedy });
                self.broken(file, path);
                return None;
            }
        };
        let mut unset = Vec::new();
        tree.expand(&text, self.env, &mut unset);
        let mut reader =
            Reader { file: file.into(), errors: unset.into_iter().map(|unset| tree::unset(file, unset)).collect() };
        let thing = read(&mut reader, &tree);
        reader.without_consequences();
        let is_broken = !reader.errors.is_empty();
        self.errors.append(&mut reader.errors);
        self.sources.push(Source { file: file.into(), path: path.into(), text, tree, is_broken });
        Some(thing)
    }

    fn broken(&mut self, file: &str, path: &str) {
        let tree = Node { at: Place::START, kind: Kind::Null };
        self.sources.push(Source { file: file.into(), path: path.into(), text: String::new(), tree, is_broken: true });
    }

    /// Reads `KIND/NAME.yaml`; a file that cannot be read stands for its name all the same, so that nobody misses it.
    fn files<T>(
        &mut self,
        kind: &str,
        read: impl Fn(&mut Reader, &Node) -> T,
        unreadable: impl Fn() -> T,
    ) -> BTreeMap<String, T> {
        let names = self.names(kind);
        let mut all = BTreeMap::new();
        for name in names {
            let thing = self.file(&format!("{kind}/{name}.yaml"), &format!("{kind}.{name}"), &read);
            all.insert(name, thing.unwrap_or_else(&unreadable));
        }
        all
    }

    fn files_that_are_whole<T>(&mut self, kind: &str, read: impl Fn(&mut Reader, &Node) -> T) -> BTreeMap<String, T> {
        self.files(kind, |reader, node| Some(read(reader, node)), || None)
            .into_iter()
            .filter_map(|(name, thing)| Some((name, thing?)))
            .collect()
    }

    /// Names of the YAML files of a folder, sorted; a folder that is missing has none.
    fn names(&mut self, kind: &str) -> Vec<String> {
        let entries = match fs::read_dir(self.dir.join(kind)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                self.error(kind, format!("cannot be read: {error}"), "make it a folder that can be read");
                return Vec::new();
            }
        };
        let files: BTreeSet<String> =
            entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect();
        let mut names = Vec::new();
        for file in files.iter().filter(|file| !file.starts_with('.')) {
            match file.strip_suffix(".yaml") {
                Some(name) => names.push(name.to_owned()),
                None => self.error(
                    &format!("{kind}/{file}"),
                    "is no definition",
                    "name it `NAME.yaml`, or move it elsewhere",
                ),
            }
        }
        names
    }

    /// YAML that lies where nobody looks is a mistake (`template/…`, `flows.yaml`).
    fn unexpected(&mut self) {
        const KNOWN: [&str; 4] = ["project.yaml", "providers.yaml", "templates", "flows"];
        let entries = fs::read_dir(self.dir).into_iter().flatten().filter_map(Result::ok);
        for entry in entries {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_yaml = name.ends_with(".yaml") || name.ends_with(".yml");
            let is_meant = |known: &str| bellwether_processors::definitions::nearest(&name, [known]).is_some();
            if !KNOWN.contains(&name.as_str()) && (is_yaml || KNOWN.into_iter().any(is_meant)) {
                let hint = bellwether_processors::definitions::did_you_mean(&name, KNOWN);
                self.error(&name, format!("has no meaning here{hint}"), format!("use {}", KNOWN.join(", ")));
            }
        }
    }

    /// The place of a finding; `None` where it may only follow from something that could not be read.
    fn locate(&self, finding: &Finding, document: &Definitions) -> Option<Located> {
        let source = source_of(&self.sources, finding)?;
        if source.is_broken || self.leans_on_broken(finding, document) { None } else { locate(&self.sources, finding) }
    }

    /// Whether a finding is about how a thing fits to another that could not be read.
    fn leans_on_broken(&self, finding: &Finding, document: &Definitions) -> bool {
        let is_broken = |path: &str| self.sources.iter().any(|source| source.is_broken && source.path == path);
        let flow = below(&finding.path, "flows")
            .and_then(|rest| document.flows.iter().find(|(name, _)| below(rest, name).is_some()).map(|(_, flow)| flow));
        let is_channel = finding.path.split('.').nth(2) == Some("channels") && finding.path.split('.').count() == 4;
        flow.is_some_and(|flow| is_broken(&format!("templates.{}", flow.notify.template)))
            || (finding.path.starts_with("templates.")
                && is_channel
                && (is_broken("providers") || is_broken("project")))
    }
}

fn source_of<'s>(sources: &'s [Source], finding: &Finding) -> Option<&'s Source> {
    sources.iter().find(|source| below(&finding.path, &source.path).is_some())
}

/// The place of a finding in the file that defines what it is about.
fn locate(sources: &[Source], finding: &Finding) -> Option<Located> {
    let source = source_of(sources, finding)?;
    let (key, node) = source.tree.find(below(&finding.path, &source.path)?);
    let place = match (finding.line, finding.column) {
        (Some(line), column) => node.place_within(&source.text, line, column.unwrap_or(1)),
        (None, _) => key,
    };
    Some(Located {
        file: source.file.clone(),
        line: place.line,
        column: place.column,
        problem: finding.problem.clone(),
        remedy: finding.remedy.clone(),
    })
}

/// What follows `prefix` in a path.
fn below<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    match path.strip_prefix(prefix)? {
        "" => Some(""),
        rest => rest.strip_prefix('.'),
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_FILE_BYTES {
        return Err(io::Error::other("it has more than 4 MiB"));
    }
    fs::read_to_string(path)
}
