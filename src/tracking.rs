//! A project's tracking, ready for use: its address, keys and choices, made once for each version of the definitions. Makes links and opens
//! them; which texts get some is `runtime::links`, what follows from them `http::tracking`.

use bellwether_connectors::{
    secret::{Resolve as _, Secret, SecretError},
    tracking::{KeyError, Keys, Link, Purpose},
};
use bellwether_processors::definitions::Compiled;
use bellwether_schemas::{Lane, definitions::Tracking};
use secrecy::{ExposeSecret as _, SecretString};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

/// The tracking of one project.
#[derive(Debug)]
pub struct Tracker {
    /// As it is defined.
    pub settings: Tracking,
    keys: Keys,
    /// What every link of the project begins with.
    base: String,
    /// Templates that nobody gets without an opt-in.
    by_opt_in: HashSet<String>,
}

/// Keys that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrackerError {
    /// One is not to be had.
    #[error("tracking: {0}")]
    Secret(#[from] SecretError),
    /// One does not do.
    #[error("tracking: a key {0}")]
    Key(#[from] KeyError),
}

impl Tracker {
    /// Fetches the keys. `by_opt_in` are the templates that nobody gets without one ([`Compiled::templates_by_opt_in`]).
    ///
    /// # Errors
    /// See [`TrackerError`].
    pub fn new<'a>(
        project: &str,
        settings: &Tracking,
        by_opt_in: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, TrackerError> {
        let key = settings.key.resolve()?;
        let previous = settings
            .previous_keys
            .iter()
            .map(|secret: &Secret| secret.resolve())
            .collect::<Result<Vec<SecretString>, _>>()?;
        let keys = Keys::new(project, key.expose_secret(), previous.iter().map(SecretString::expose_secret))?;
        let base = format!("{}/t/{project}/", settings.base_url.trim_end_matches('/'));
        let by_opt_in = by_opt_in.into_iter().map(str::to_owned).collect();
        Ok(Self { settings: settings.clone(), keys, base, by_opt_in })
    }

    /// The URL of a link; `None` where it cannot be sealed (see [`Keys::seal`]).
    #[must_use]
    pub fn url(&self, purpose: Purpose, link: &Link) -> Option<String> {
        let token = self.keys.seal(purpose, link)?;
        Some(format!("{}{}/{token}", self.base, purpose.path()))
    }

    /// Whether e-mail by this lane and template carries one click to unsubscribe (RFC 8058).
    #[must_use]
    pub fn offers_one_click(&self, lane: Lane, template: &str) -> bool {
        let lanes = &self.settings.unsubscribe;
        lanes.contains(&lane) || (!lanes.is_empty() && self.by_opt_in.contains(template))
    }

    /// Whether a URL is a link of ours already.
    #[must_use]
    pub fn is_ours(&self, url: &str) -> bool {
        url.starts_with(&self.base)
    }

    /// The project's keys.
    #[must_use]
    pub const fn keys(&self) -> &Keys {
        &self.keys
    }
}

/// The trackers of every project, each made once for a version of its definitions.
#[derive(Debug, Default)]
pub struct Trackers(Mutex<HashMap<String, (i32, Arc<Tracker>)>>);

impl Trackers {
    /// The tracker of a project; `None` where it does not track.
    ///
    /// # Errors
    /// Its keys cannot be used now; they are asked for again the next time.
    pub fn of(&self, project: &Compiled) -> Result<Option<Arc<Tracker>>, TrackerError> {
        let Some(settings) = &project.document.project.tracking else { return Ok(None) };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((version, tracker)) = known.get(&project.project)
            && *version == project.version
        {
            return Ok(Some(Arc::clone(tracker)));
        }
        let tracker = Arc::new(Tracker::new(&project.project, settings, project.templates_by_opt_in())?);
        known.insert(project.project.clone(), (project.version, Arc::clone(&tracker)));
        Ok(Some(tracker))
    }
}
