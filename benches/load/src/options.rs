//! The command line: `--name value` pairs.
//!
//! Enters: words. Leaves: typed options with defaults. Must not touch: what they mean together; that is the mode's.

use anyhow::{Context, Result, bail};

use crate::peer::Peer;
use crate::session::Kind;

/// What a run is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is measured: see [`crate::modes`].
    pub mode: String,
    /// How sessions reach the peer.
    pub kind: Kind,
    /// Where the peer (or, for the backend, we) listen.
    pub address: String,
    /// Where the backend listens, for its own counters.
    pub backend: String,
    /// PEM file of the certificate that the peer shows; TLS is spoken when there is one.
    pub ca: Option<String>,
    /// The processes of the peer.
    pub peer: Peer,
    /// Sessions, or clients.
    pub count: usize,
    /// Messages for each client, or openings, or requests.
    pub messages: u64,
    /// Which attack: see `modes/attacks.rs`.
    pub attack: String,
    /// Bytes of a message.
    pub size: usize,
    /// How long the measured window is.
    pub seconds: f64,
}

impl Options {
    /// Reads pairs.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            mode: "idle".into(),
            kind: Kind::Ws,
            address: "127.0.0.1:9000".into(),
            backend: "127.0.0.1:9000".into(),
            ca: None,
            peer: Peer(Vec::new()),
            count: 1000,
            messages: 1000,
            attack: "calm".into(),
            size: 64,
            seconds: 5.0,
        };
        while let Some(name) = words.next() {
            let value = words.next().with_context(|| format!("{name} has no value"))?;
            options.set(&name, value)?;
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: String) -> Result<()> {
        match name {
            "--mode" => self.mode = value,
            "--kind" => self.kind = Kind::parse(&value)?,
            "--address" => self.address = value,
            "--backend" => self.backend = value,
            "--ca" => self.ca = Some(value),
            "--pids" => self.peer = Peer(value.split(',').map(str::parse).collect::<Result<_, _>>()?),
            "--count" => self.count = value.parse()?,
            "--messages" => self.messages = value.parse()?,
            "--attack" => self.attack = value,
            "--size" => self.size = value.parse()?,
            "--seconds" => self.seconds = value.parse()?,
            _ => bail!("there is no option {name}"),
        }
        Ok(())
    }
}
