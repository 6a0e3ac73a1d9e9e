//! In which of the two forms `/metrics` is written: the text that every tool reads, or OpenMetrics.
//!
//! Enters: a request's `Accept`; OpenMetrics text. Leaves: the form that is asked for, and the text in it. Must not touch:
//! what is measured.

use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue};

const OPEN_METRICS: &str = "application/openmetrics-text";

/// A form of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Prometheus' text format 0.0.4.
    Text,
    OpenMetrics,
}

impl Format {
    /// What a request asks for; the text where it does not matter.
    pub(super) fn asked(headers: &HeaderMap) -> Self {
        let listed =
            headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(','));
        let (mut open, mut text) = (0.0, 0.0);
        for range in listed {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default().to_ascii_lowercase();
            let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(1.0, |q| q.parse().unwrap_or(0.0));
            match name.as_str() {
                OPEN_METRICS => open = f32::max(open, weight),
                "text/plain" => text = f32::max(text, weight),
                _ => {}
            }
        }
        if open > 0.0 && open >= text { Self::OpenMetrics } else { Self::Text }
    }

    /// The media type.
    pub(super) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        })
    }

    /// OpenMetrics text in this form.
    pub(super) fn write(self, open: String) -> String {
        if self == Self::OpenMetrics { open } else { plain(&open) }
    }
}

/// The older form differs in what stands above the samples: counters and infos are called there as their samples are, there
/// are no units, and no mark at the end.
fn plain(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    let mut help = ("", "");
    for line in open.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), Some(words)) => help = (name, words),
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let (suffix, kind) = match kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    kind => ("", kind),
                };
                if help.0 == name {
                    text.extend(["# HELP ", name, suffix, " ", help.1, "\n"]);
                }
                text.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
            }
            (Some("#"), ..) => {}
            _ => text.extend([line, "\n"]),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_that_all_can_read_is_the_default() {
        let asked = |accept: &[&'static str]| {
            let headers = accept.iter().map(|value| (ACCEPT, HeaderValue::from_static(value)));
            Format::asked(&headers.collect())
        };
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;\
                          q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, expected) in [
            (&[][..], Format::Text),
            (&["*/*"], Format::Text),
            (&["text/html, */*;q=0.1"], Format::Text),
            (&["text/plain;version=0.0.4"], Format::Text),
            (&["application/openmetrics-text;q=0"], Format::Text),
            (&["application/openmetrics-text;q=0.2, text/plain"], Format::Text),
            (&["application/openmetrics-text; version=1.0.0"], Format::OpenMetrics),
            (&["text/plain;q=0.5", "Application/OpenMetrics-Text"], Format::OpenMetrics),
            (&[prometheus], Format::OpenMetrics),
        ] {
            assert_eq!(asked(accept), expected, "{accept:?}");
        }
    }

    #[test]
    fn the_older_form_names_families_as_their_samples() {
        let open = "# HELP a_bytes Help # with words.\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\na_bytes_total{b=\"# c\"} 1\n\
                    # HELP d About.\n# TYPE d info\nd_info{v=\"1\"} 1\n# HELP e Now.\n# TYPE e gauge\ne 2\n# EOF\n";
        let text = "# HELP a_bytes_total Help # with words.\n# TYPE a_bytes_total counter\na_bytes_total{b=\"# c\"} 1\n\
                    # HELP d_info About.\n# TYPE d_info gauge\nd_info{v=\"1\"} 1\n# HELP e Now.\n# TYPE e gauge\ne 2\n";
        assert_eq!(Format::Text.write(open.to_owned()), text);
        assert_eq!(Format::OpenMetrics.write(open.to_owned()), open);
    }
}
