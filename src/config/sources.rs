//! Where a configuration comes from: a file or standard input, the environment, flags. Later ones stand before earlier ones.
//!
//! Enters: their names and values. Leaves: the configuration with the origin of each value. Must not touch: the environment of
//! the process, which the caller hands over; the files that a configuration names.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::errors::SpannedError;
use super::layers::Overlay;
use super::reader::nearest;
use super::{Config, ConfigErrors, Loaded, parse};

/// A longer file is not read: it is not a configuration.
const FILE_MAX: u64 = 1 << 20;

/// What the names of variables begin with.
const PREFIX: &str = "UNDERPASS_";

/// Where a configuration comes from. Read again, it is read from there again.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    file: Option<PathBuf>,
    text: Option<Vec<u8>>,
    defaults: Vec<Overlay>,
    environment: Vec<Overlay>,
    flags: Vec<Overlay>,
    strange: Vec<String>,
}

impl Sources {
    /// A file.
    #[must_use]
    pub fn file(file: PathBuf) -> Self {
        Self { file: Some(file), ..Self::default() }
    }

    /// A text that came by standard input.
    #[must_use]
    pub fn text(text: Vec<u8>) -> Self {
        Self { text: Some(text), ..Self::default() }
    }

    /// A value that stands where nothing else does and there is no file.
    #[must_use]
    pub fn with_default(mut self, key: &str, value: &str) -> Self {
        self.defaults.push(overlay(key, value, "default"));
        self
    }

    /// A flag of the command line.
    #[must_use]
    pub fn with_flag(mut self, flag: &str, key: &str, value: &str) -> Self {
        self.flags.push(overlay(key, value, flag));
        self
    }

    /// The variables of the environment, of which those count that are named like a key. Tables that may be there several times
    /// are counted from 0, those of the file first.
    #[must_use]
    pub fn with_environment(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let keys = Config::variables();
        for (name, value) in variables.into_iter().filter(|(name, _)| name.starts_with(PREFIX)) {
            let (pattern, index) = split_index(&name);
            let is_its = |key: &str| key.contains("[]") == index.is_some();
            match keys.iter().find(|(key, known)| *known == pattern && is_its(key)) {
                Some((key, _)) => {
                    let key = key.replace("[]", &format!("[{}]", index.unwrap_or_default()));
                    self.environment.push(overlay(&key, &value, &name));
                }
                None => self.strange.extend(misspelled(&name, (&pattern, index), &keys)),
            }
        }
        self.environment.sort_by(|one, other| one.key.cmp(&other.key));
        self
    }

    /// Variables that look like misspelled ones, for people. Others that begin so are somebody else's: Kubernetes makes some
    /// for each service.
    #[must_use]
    pub fn strange(&self) -> &[String] {
        &self.strange
    }

    /// The file, as messages name it.
    #[must_use]
    pub fn name(&self) -> String {
        match (&self.file, &self.text) {
            (Some(file), _) => file.display().to_string(),
            (None, Some(_)) => "standard input".to_owned(),
            (None, None) => "command line".to_owned(),
        }
    }

    /// Whether anything says where the backend is.
    #[must_use]
    pub fn has_backend(&self) -> bool {
        let upstream = |overlay: &Overlay| {
            overlay.key == "upstream" || is_of("route", overlay) && overlay.key.ends_with(".upstream")
        };
        self.file.is_some() || self.text.is_some() || self.environment.iter().chain(&self.flags).any(upstream)
    }

    /// Reads all of it.
    ///
    /// # Errors
    /// All errors at once, each with its line, variable or flag.
    pub fn load(&self) -> Result<Loaded, ConfigErrors> {
        let name = self.name();
        let bytes = match (&self.file, &self.text) {
            (Some(file), _) => read_file(file, &name)?,
            (None, Some(text)) => text.clone(),
            (None, None) => Vec::new(),
        };
        // Who names listeners one by one does not want the usual one as well.
        let has_listeners = self.environment.iter().any(|overlay| is_of("listener", overlay));
        let defaults = self.defaults.iter().filter(|default| !(has_listeners && default.key == "listen")).cloned();
        let over: Vec<_> = defaults.chain(self.environment.iter().chain(&self.flags).cloned()).collect();
        parse::loaded(&bytes, &name, &over)
    }
}

/// The variable for a key: `UNDERPASS_SESSION_GRACE` for `session.grace`, and `UNDERPASS_ROUTE_N_UPSTREAM` for
/// `route[].upstream`, with a number for N.
fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace("[]", "_N").replace('.', "_").to_ascii_uppercase())
}

/// `UNDERPASS_ROUTE_0_UPSTREAM` as `UNDERPASS_ROUTE_N_UPSTREAM` and 0.
fn split_index(name: &str) -> (String, Option<u16>) {
    let mut parts: Vec<_> = name.split('_').collect();
    let index = parts.get(2).and_then(|part| part.parse().ok().filter(|index: &u16| index.to_string() == *part));
    if index.is_some() {
        parts[2] = "N";
    }
    (parts.join("_"), index)
}

/// Whether it is for a key of one of these tables.
fn is_of(tables: &str, overlay: &Overlay) -> bool {
    overlay.key.strip_prefix(tables).is_some_and(|rest| rest.starts_with('['))
}

fn overlay(key: &str, value: &str, origin: &str) -> Overlay {
    Overlay { key: key.to_owned(), value: value.to_owned(), origin: origin.to_owned() }
}

fn misspelled(name: &str, (pattern, index): (&str, Option<u16>), keys: &[(String, String)]) -> Option<String> {
    // Without what they all begin with, which would make any two look alike.
    let bare = |name: &str| name[PREFIX.len()..].to_ascii_lowercase();
    let known: Vec<_> = keys.iter().map(|(_, known)| bare(known)).collect();
    let near = nearest(&bare(pattern), known.iter().map(String::as_str))?.to_ascii_uppercase();
    let near = index.map_or(near.clone(), |index| near.replacen("_N_", &format!("_{index}_"), 1));
    Some(format!("{}: no key has this name; did you mean {PREFIX}{near}?", name.escape_debug()))
}

impl Config {
    /// Reads a file. The files that it names (certificates, keys) are not opened.
    ///
    /// # Errors
    /// All errors in it at once; also when it cannot be read.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigErrors> {
        let path = path.as_ref();
        let name = path.display().to_string();
        Self::parse(read_file(path, &name)?, &name)
    }

    /// Each key and its variable of the environment. Where a table may be there several times, a number stands for the N of
    /// the variable, and in the brackets of the key: `route[].upstream`, `UNDERPASS_ROUTE_N_UPSTREAM`.
    #[must_use]
    pub fn variables() -> Vec<(String, String)> {
        parse::keys().into_iter().map(|(key, _)| (key.clone(), variable(&key))).collect()
    }
}

fn read_file(path: &Path, name: &str) -> Result<Vec<u8>, ConfigErrors> {
    read(path).map_err(|error| {
        let what = format!("cannot be read: {error}");
        let hint = "name another, begin one from config.example.toml, or do without: \
                    underpass run --listen 127.0.0.1:8080 --upstream ws://127.0.0.1:9000";
        ConfigErrors::new(name, "", vec![SpannedError { span: None, what, hint: hint.to_owned() }])
    })
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 1 MiB, so no configuration"));
    }
    Ok(bytes)
}
