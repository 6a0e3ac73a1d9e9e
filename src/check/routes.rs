//! What a configuration leads where: each route in a line, so that an operator sees what was understood.
//!
//! Enters: a checked configuration. Leaves: text for people. Must not touch: anything.

use crate::config::{Config, Endpoint, Route};

/// A line for each route: what it is for, its backend, and what is done on it.
#[must_use]
pub fn routes(config: &Config) -> String {
    config.routes.iter().map(line).collect()
}

fn line(route: &Route) -> String {
    let scheme = if route.upstream.tls.is_some() { "wss" } else { "ws" };
    let backend = match &route.upstream.endpoint {
        Endpoint::Tcp { host, port } if host.contains(':') => format!("{scheme}://[{host}]:{port}"),
        Endpoint::Tcp { host, port } => format!("{scheme}://{host}:{port}"),
        Endpoint::Unix(path) => format!("unix:{}", path.display()),
    };
    let rewriting = &route.rewriting;
    let done = [
        route.script.pages.then(|| "inject".to_owned()),
        rewriting.strip.then(|| "strip_path".to_owned()),
        (!rewriting.add.is_empty()).then(|| format!("add_path {}", rewriting.add)),
        (!route.upgrades.is_empty()).then(|| format!("upgrades {}", route.upgrades.join(" "))),
    ];
    let done: String = done.into_iter().flatten().map(|what| format!(", {what}")).collect();
    let host = route.host.as_deref().unwrap_or("any host");
    format!("  {host} {} to {backend}{done}\n", route.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_route_is_told_with_its_backend() {
        let text = "listen = \"127.0.0.1:1\"\nupstream = \"unix:/run/a.sock\"\n[[route]]\nhost = \"b.example\"\npath = \"/b\"\n\
                    upstream = \"wss://[::1]:2/base\"\nstrip_path = true\ninject = true\nupgrades = [\"spdy/3.1\"]\n";
        let config = Config::parse(text, "test").expect("sound");
        let told = "  any host / to unix:/run/a.sock\n  b.example /b to wss://[::1]:2, inject, strip_path, add_path /base, \
                    upgrades spdy/3.1\n";
        assert_eq!(routes(&config), told);
    }
}
