//! Rust source as text: what is left without comments, literals and tests, and where a word stands in it.
//!
//! Enters: source text. Leaves: text of the same length and lines with the rest blanked; positions. Must not touch: rules.

use std::ops::Range;

/// Where `word` stands, not as a part of a longer word or path.
pub(crate) fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let starts = word.starts_with(part);
    let ends = word.ends_with(part);
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = code[..*at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        let inner = word.contains("::") && before == Some(':');
        !(starts && (before.is_some_and(|c| part(c) || c == '$') || inner) || ends && after.is_some_and(part))
    })
}

/// Blanks comments, strings and characters; newlines stay.
pub(crate) fn without_prose(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let prose = prose_length(rest, code.chars().next_back());
        let taken = if prose == 0 { first.len_utf8() } else { prose };
        let (head, tail) = rest.split_at(taken);
        if prose == 0 {
            code.push_str(head);
        } else {
            code.extend(head.chars().flat_map(blanked));
        }
        rest = tail;
    }
    code
}

/// How long the comment or literal is that begins here; 0 when none does.
fn prose_length(text: &str, before: Option<char>) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return block_comment_length(text);
    }
    if text.starts_with('"') {
        return quoted_length(text);
    }
    let inside_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if !inside_word && let Some(length) = raw_string_length(text) {
        return length;
    }
    if text.starts_with('\'') { character_length(text) } else { 0 }
}

fn block_comment_length(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        match rest {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

fn quoted_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            _ => escaped = c == '\\' && !escaped,
        }
    }
    text.len()
}

fn raw_string_length(text: &str) -> Option<usize> {
    let start = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = start.len() - start.trim_start_matches('#').len();
    start[hashes..].strip_prefix('"')?;
    let open = text.len() - start.len() + hashes + 1;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(text[open..].find(&end).map_or(text.len(), |at| open + at + end.len()))
}

/// A character literal; 0 for a lifetime.
fn character_length(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some((at, escaped))) => {
            let from = at + escaped.len_utf8();
            text[from..].find('\'').map_or(0, |end| from + end + 1)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 0,
    }
}

/// Where items behind `#[cfg(test)]` stand: a module, a function, an import.
pub(crate) fn test_items(code: &str) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = Vec::new();
    for (at, _) in code.match_indices("#[cfg(test)]") {
        if found.last().is_none_or(|last| last.end <= at) {
            found.push(at..at + item_length(&code[at..]));
        }
    }
    found
}

/// Blanks what stands in `places`; newlines stay.
pub(crate) fn blank(code: &str, places: &[Range<usize>]) -> String {
    let mut kept = code.to_owned();
    for place in places {
        let blank: String = kept[place.clone()].chars().flat_map(blanked).collect();
        kept.replace_range(place.clone(), &blank);
    }
    kept
}

/// As many bytes as before, so that positions stay true.
fn blanked(c: char) -> impl Iterator<Item = char> {
    std::iter::repeat_n(if c == '\n' { c } else { ' ' }, c.len_utf8())
}

fn item_length(text: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth <= 1 => return at + 1,
            '}' => depth -= 1,
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    text.len()
}
