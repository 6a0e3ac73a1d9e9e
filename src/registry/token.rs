//! Tokens: the secret of a session, and its public id.
//!
//! Enters: a node name and random bytes, or what a client presents. Leaves: a token. Must not touch: the session.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq as _;

/// A session's token: node, `-`, and 33 random bytes in URL-safe base64, of which the first 9 are the id and the other
/// 24 (192 bits) the secret. `Debug` shows the id only.
#[derive(Clone)]
pub struct Token(String);

/// Random bytes of the id; a multiple of three, so that the id is a prefix of the encoded whole.
const ID_BYTES: usize = 9;
const SECRET_BYTES: usize = 24;
/// Characters of the encoded id.
const ID_CHARS: usize = ID_BYTES / 3 * 4;
/// Characters behind the `-`.
const CHARS: usize = (ID_BYTES + SECRET_BYTES) / 3 * 4;

impl Token {
    /// A new token from the system's generator.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn random(node: &str) -> Result<Self, getrandom::Error> {
        let mut bytes = [0; ID_BYTES + SECRET_BYTES];
        getrandom::fill(&mut bytes)?;
        Ok(Self(format!("{node}-{}", URL_SAFE_NO_PAD.encode(bytes))))
    }

    /// A token that another process has issued; `None` when the text has not the form of one.
    pub(super) fn from_text(text: String) -> Option<Self> {
        parts_of(&text).is_some().then_some(Self(text))
    }

    /// The token of these parts.
    pub(super) fn text_of(node: &str, id: Id, secret: Secret) -> String {
        format!("{node}-{}{}", URL_SAFE_NO_PAD.encode(id), URL_SAFE_NO_PAD.encode(secret))
    }

    /// The secret itself, for URLs.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The public name, for logs.
    #[must_use]
    pub fn id(&self) -> &str {
        id_of(&self.0).unwrap_or("")
    }

    /// Compares in constant time.
    #[must_use]
    pub fn is(&self, presented: &str) -> bool {
        self.0.as_bytes().ct_eq(presented.as_bytes()).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}…)", self.id())
    }
}

/// The random bytes of an id.
pub(super) type Id = [u8; ID_BYTES];
/// The random bytes that only who has the token knows.
pub(super) type Secret = [u8; SECRET_BYTES];

/// The node, the id and the secret of a text that has the form of a token.
pub(super) fn parts_of(presented: &str) -> Option<(&str, Id, Secret)> {
    let (node, random) = presented.split_once('-')?;
    let mut bytes = [0; ID_BYTES + SECRET_BYTES];
    let length = URL_SAFE_NO_PAD.decode_slice(random, &mut bytes).ok()?;
    let (id, secret) = bytes.split_at(ID_BYTES);
    (length == bytes.len()).then_some((node, id.try_into().ok()?, secret.try_into().ok()?))
}

/// The id in a text that has the form of a token.
pub(super) fn id_of(presented: &str) -> Option<&str> {
    let (_, random) = presented.split_once('-')?;
    (random.len() == CHARS && random.is_ascii()).then(|| &random[..ID_CHARS])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_begins_with_the_node_and_differs_each_time() {
        let (one, two) = (Token::random("n1").expect("randomness"), Token::random("n1").expect("randomness"));
        assert!(one.as_str().starts_with("n1-"));
        assert!(!one.is(two.as_str()) && one.is(one.as_str()));
        assert_eq!(one.id().len(), ID_CHARS);
        assert!(!format!("{one:?}").contains(&one.as_str()[3 + ID_CHARS..]));
    }

    #[test]
    fn a_token_has_parts_and_one_spelling() {
        let token = Token::random("n1").expect("randomness");
        let (node, id, secret) = parts_of(token.as_str()).expect("a token");
        assert_eq!((node, URL_SAFE_NO_PAD.encode(id)), ("n1", token.id().to_owned()));
        assert!(token.is(&format!("n1-{}{}", token.id(), URL_SAFE_NO_PAD.encode(secret))));
    }

    #[test]
    fn a_text_that_is_no_token_has_no_id() {
        for text in ["", "n1", "n1-", "n1-short", "-", &format!("n1-{}", "é".repeat(22))] {
            assert_eq!((id_of(text), parts_of(text)), (None, None), "{text}");
        }
    }
}
