//! Whether a page's Content-Security-Policy allows our script to load and to connect (CSP level 3), and with which nonce.
//!
//! Enters: the policies of a page, and where it and the script are. Leaves: a decision. Must not touch: headers, the
//! page, other rooms. Each policy is judged by itself; all must allow it.

/// What is known of a page to judge its policies.
#[derive(Clone, Debug)]
pub struct Page {
    /// `http` or `https`, as the browser used it.
    pub scheme: String,
    /// Host, with the port if any, that the browser asked for.
    pub host: String,
    /// The path of the script, as the browser knows it.
    pub script: String,
    /// How a page writes the script's address: that path, or a reference to it. Without its hash.
    pub reference: String,
    /// The hash of the script, a part of its address.
    pub hash: String,
    /// What else the tag says: attributes, each behind a blank.
    pub attributes: String,
    /// The enforced policies: values of the field, and contents of `<meta>` elements.
    pub policies: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The script may load and connect; its tag needs this nonce if there is one.
    Allowed(Option<String>),
    /// It may not; the text says what to change.
    Forbidden(String),
}

impl Page {
    /// The tag, with a nonce if it needs one.
    #[must_use]
    pub fn tag(&self, nonce: Option<&str>) -> String {
        let nonce = nonce.map_or(String::new(), |nonce| format!(" nonce=\"{nonce}\""));
        format!("<script src=\"{}?v={}\"{nonce}{}></script>", self.reference, self.hash, self.attributes)
    }

    /// Whether a script's address, as a page writes it, is ours: below whatever path of this host, for a front may have
    /// put one before ours.
    #[must_use]
    pub fn is_ours(&self, source: &str) -> bool {
        let source = source.trim();
        let path = source.split(['?', '#']).next().unwrap_or_default();
        let own = [format!("{}://{}", self.scheme, self.host), format!("//{}", self.host)];
        let here = own.iter().find_map(|origin| path.strip_prefix(origin.as_str()));
        let is_elsewhere = here.is_none() && (path.contains("://") || path.starts_with("//"));
        let path = here.unwrap_or(path);
        !is_elsewhere && (path.ends_with(&self.script) || path == &self.script[1..])
    }

    #[must_use]
    pub fn decide(&self) -> Decision {
        let policies: Vec<Policy<'_>> =
            self.policies.iter().flat_map(|field| field.split(',')).map(Policy::parse).collect();
        if policies.iter().any(Policy::is_sandboxed) {
            return Decision::Forbidden("add `allow-scripts` to its `sandbox`".to_owned());
        }
        let nonces = policies.iter().flat_map(|policy| policy.script().1).filter_map(|source| nonce(source));
        let nonces: Vec<Option<&str>> = nonces.map(Some).chain([None]).collect();
        let loads = |nonce: &Option<&str>| policies.iter().all(|policy| self.may_load(&policy.script().1, *nonce));
        let Some(nonce) = nonces.into_iter().find(loads) else {
            let barred = policies.iter().find(|policy| !self.may_load(&policy.script().1, None));
            return Decision::Forbidden(self.script_change(barred));
        };
        match self.connect_change(&policies) {
            Some(change) => Decision::Forbidden(change),
            None => Decision::Allowed(nonce.map(str::to_owned)),
        }
    }

    /// Whether the script may connect, where it need not be loaded: in a worker, whose own script it is a part of.
    #[must_use]
    pub fn decide_for_worker(&self) -> Decision {
        let policies: Vec<Policy<'_>> =
            self.policies.iter().flat_map(|field| field.split(',')).map(Policy::parse).collect();
        self.connect_change(&policies).map_or(Decision::Allowed(None), Decision::Forbidden)
    }

    fn connect_change(&self, policies: &[Policy<'_>]) -> Option<String> {
        let barred = policies.iter().find(|policy| !self.may_connect(&policy.connect().1))?;
        let name = barred.connect().0;
        Some(format!("add `'self'` to its `{name}`: the script asks this origin for messages by fetch"))
    }

    fn script_change(&self, barred: Option<&Policy<'_>>) -> String {
        let (name, sources) = barred.map_or(("script-src", Vec::new()), Policy::script);
        let strict = sources.iter().any(|source| source.eq_ignore_ascii_case("'strict-dynamic'"));
        match strict {
            true => format!("give its `{name}` a nonce: with `'strict-dynamic'` no address is believed"),
            false => format!("add `'self'`, `{}` or a nonce to its `{name}`", self.script),
        }
    }

    fn may_load(&self, sources: &[&str], with: Option<&str>) -> bool {
        let is = |word: &str| sources.iter().any(|source| source.eq_ignore_ascii_case(word));
        if with.is_some() && sources.iter().any(|source| nonce(source) == with) {
            return true;
        }
        // With `'strict-dynamic'` browsers ignore addresses.
        !is("'strict-dynamic'") && sources.iter().any(|source| self.matches(source, &self.script))
    }

    /// Sessions are opened at the WebSockets' own paths, whatever they are: the whole origin must be allowed.
    fn may_connect(&self, sources: &[&str]) -> bool {
        sources.iter().any(|source| self.matches(source, "/"))
    }

    /// Whether a source expression covers a path of this origin (CSP3 section 6.7.2.8).
    fn matches(&self, source: &str, path: &str) -> bool {
        let source = source.to_ascii_lowercase();
        if matches!(source.as_str(), "*" | "'self'" | ANYTHING) {
            return true;
        }
        if source.starts_with('\'') {
            return false;
        }
        if let Some(scheme) = source.strip_suffix(':') {
            return self.is_scheme(scheme);
        }
        let (scheme, rest) = source.split_once("://").map_or((None, source.as_str()), |(s, rest)| (Some(s), rest));
        let (host, limit) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        scheme.is_none_or(|scheme| self.is_scheme(scheme)) && self.is_host(host) && covers(limit, path)
    }

    fn is_scheme(&self, scheme: &str) -> bool {
        // `http:` also allows the same over TLS.
        scheme == self.scheme || (scheme == "http" && self.scheme == "https")
    }

    fn is_host(&self, pattern: &str) -> bool {
        let own = self.host.to_ascii_lowercase();
        let usual = if self.scheme == "https" { "443" } else { "80" };
        let (host, port) = split_port(pattern);
        let (own_host, own_port) = split_port(&own);
        let own_port = own_port.unwrap_or(usual);
        let fits = match host.strip_prefix('*') {
            Some("") => true,
            Some(below) => own_host.ends_with(below),
            None => host == own_host,
        };
        fits && port.map_or(own_port == usual, |port| port == "*" || port == own_port)
    }
}

/// The source of a directive that a policy does not have.
const ANYTHING: &str = "'anything'";

fn covers(limit: &str, path: &str) -> bool {
    match limit {
        "" | "/" => true,
        folder if folder.ends_with('/') => path.to_ascii_lowercase().starts_with(folder),
        exact => path.eq_ignore_ascii_case(exact),
    }
}

fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    }
}

/// The nonce of a source expression, if it has one that can be written into a tag safely.
fn nonce(source: &str) -> Option<&str> {
    let inner = source.strip_suffix('\'')?;
    let (head, value) = inner.split_at_checked("'nonce-".len())?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_' | b'=');
    (head.eq_ignore_ascii_case("'nonce-") && !value.is_empty() && value.bytes().all(is_plain)).then_some(value)
}

/// One policy: its directives by name. Of two with the same name, the first counts.
struct Policy<'a>(Vec<(String, Vec<&'a str>)>);

impl<'a> Policy<'a> {
    fn parse(text: &'a str) -> Self {
        let words = text.split(';').map(str::split_ascii_whitespace);
        Self(words.filter_map(|mut words| Some((words.next()?.to_ascii_lowercase(), words.collect()))).collect())
    }

    fn named(&self, name: &'static str) -> Option<(&'static str, Vec<&'a str>)> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, sources)| (name, sources.clone()))
    }

    fn script(&self) -> (&'static str, Vec<&'a str>) {
        let own = self.named("script-src-elem").or_else(|| self.named("script-src"));
        own.or_else(|| self.named("default-src")).unwrap_or(("script-src", vec![ANYTHING]))
    }

    fn connect(&self) -> (&'static str, Vec<&'a str>) {
        let own = self.named("connect-src").or_else(|| self.named("default-src"));
        own.unwrap_or(("connect-src", vec![ANYTHING]))
    }

    fn is_sandboxed(&self) -> bool {
        let sandbox = self.named("sandbox");
        sandbox.is_some_and(|(_, flags)| !flags.iter().any(|flag| flag.eq_ignore_ascii_case("allow-scripts")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(policies: &[&str]) -> Page {
        Page {
            scheme: "https".into(),
            host: "a.example:8443".into(),
            script: "/_underpass/client.js".into(),
            reference: "/_underpass/client.js".into(),
            hash: "1".into(),
            attributes: String::new(),
            policies: policies.iter().map(|policy| (*policy).to_owned()).collect(),
        }
    }

    #[test]
    fn policies_that_allow() {
        let allowed: &[(&[&str], Option<&str>)] = &[
            (&[], None),
            (&[""], None),
            (&["img-src 'none'; frame-ancestors 'none'"], None),
            (&["default-src 'self'"], None),
            (&["Default-Src *"], None),
            (&["default-src https:"], None),
            (&["default-src http:"], None),
            (&["script-src 'self' 'nonce-abc'; connect-src 'self'"], Some("abc")),
            (&["script-src 'NONCE-a+b/=' 'strict-dynamic'"], Some("a+b/=")),
            (&["script-src 'nonce-a', script-src 'nonce-b' 'nonce-a'"], Some("a")),
            (&["script-src 'nonce-a'", "script-src 'self'"], Some("a")),
            (&["script-src 'nonce-a' 'self'", "script-src 'nonce-b' 'self'"], Some("a")),
            (&["script-src 'none'; script-src-elem 'self'"], None),
            (&["script-src 'self'; script-src 'none'"], None),
            (&["script-src a.example:8443"], None),
            (&["script-src https://*.example:*/_underpass/"], None),
            (&["script-src https://a.example:8443/_underpass/client.js"], None),
            (&["default-src 'none'; script-src 'self'; connect-src https://a.example:8443/"], None),
            (&["sandbox allow-forms allow-scripts"], None),
        ];
        for (policies, nonce) in allowed {
            assert_eq!(page(policies).decide(), Decision::Allowed(nonce.map(str::to_owned)), "{policies:?}");
        }
    }

    #[test]
    fn policies_that_forbid_name_the_change() {
        let forbidden: &[(&[&str], &str)] = &[
            (&["default-src 'none'"], "`default-src`"),
            (&["default-src"], "`default-src`"),
            (&["script-src 'none'"], "to its `script-src`"),
            (&["script-src-elem cdn.example"], "`script-src-elem`"),
            (&["script-src 'sha256-abc='"], "`script-src`"),
            (&["script-src 'self' 'strict-dynamic'"], "nonce: with `'strict-dynamic'`"),
            (&["script-src a.example"], "`script-src`"),
            (&["script-src wss:"], "`script-src`"),
            (&["script-src https://a.example:8443/static/"], "`script-src`"),
            (&["script-src 'nonce-a\"b'"], "`script-src`"),
            (&["script-src 'nonce-a'", "script-src 'nonce-b'"], "`script-src`"),
            (&["script-src 'self'", "script-src 'none'"], "`script-src`"),
            (&["connect-src wss://a.example:8443"], "`'self'` to its `connect-src`"),
            (&["connect-src 'none'"], "`connect-src`"),
            (&["default-src 'none'; script-src 'self'"], "`default-src`"),
            (&["connect-src https://a.example:8443/_underpass/"], "`connect-src`"),
            (&["sandbox"], "`sandbox`"),
        ];
        for (policies, change) in forbidden {
            match page(policies).decide() {
                Decision::Forbidden(what) => assert!(what.contains(change), "{policies:?}: {what}"),
                allowed => panic!("{policies:?}: {allowed:?}"),
            }
        }
    }

    #[test]
    fn our_own_tag_is_known_however_it_is_written() {
        let page = page(&[]);
        for source in [
            "/_underpass/client.js",
            " /_underpass/client.js?v=2#x",
            "//a.example:8443/_underpass/client.js",
            "_underpass/client.js",
            "../../_underpass/client.js",
            "/app/_underpass/client.js",
        ] {
            assert!(page.is_ours(source), "{source}");
        }
        for source in [
            "/_underpass/client.mjs",
            "https://b.example/_underpass/client.js",
            "//b.example/_underpass/client.js",
            "client.js",
            "x_underpass/client.js",
            "",
        ] {
            assert!(!page.is_ours(source), "{source}");
        }
    }
}
