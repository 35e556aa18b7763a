//! API keys and tokens: made, parsed, digested. A secret cannot print itself.
//!
//! Every credential is 24 random bytes: the first 8 are its public *key id*, which addresses its row; the
//! other 16 are the secret. Rows hold the SHA-256 digest alone.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::ids::TokenId;

const KEY_ID_LEN: usize = 8;
const LEN: usize = 24;

/// The public part of a credential. It addresses the row and proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyId([u8; KEY_ID_LEN]);

impl KeyId {
    /// The key id that belongs to a name: the same (namespace, board, name) is always the same agent.
    ///
    /// The parts are hashed with their lengths, so that no two ways of cutting them meet.
    #[must_use]
    pub fn of_name(namespace: &str, board: &str, name: &str) -> Self {
        let lengths = [namespace, board, name].map(|part| (part.len() as u64).to_be_bytes());
        let digest = sha256(&[
            &lengths[0],
            namespace.as_bytes(),
            &lengths[1],
            board.as_bytes(),
            &lengths[2],
            name.as_bytes(),
        ]);
        Self(std::array::from_fn(|byte| digest[byte]))
    }

    pub(crate) const fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(Bytes).map(Self)
    }
}

/// Binary of a fixed length, in a row.
struct Bytes<const N: usize>;

impl<const N: usize> de::Visitor<'_> for Bytes<N> {
    type Value = [u8; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{N} bytes")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<[u8; N], E> {
        bytes.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))
    }
}

/// The 24 bytes behind an API key or a token.
#[derive(Clone, PartialEq, Eq)]
struct Secret([u8; LEN]);

impl Secret {
    fn generate() -> Self {
        Self(rand::random())
    }

    fn with_key_id(key_id: KeyId) -> Self {
        let mut bytes: [u8; LEN] = rand::random();
        bytes[..KEY_ID_LEN].copy_from_slice(&key_id.0);
        Self(bytes)
    }

    fn parse(hex: &[u8]) -> Option<Self> {
        if hex.len() != 2 * LEN {
            return None;
        }
        let mut bytes = [0; LEN];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Some(Self(bytes))
    }

    fn key_id(&self) -> KeyId {
        KeyId(std::array::from_fn(|byte| self.0[byte]))
    }

    fn digest(&self) -> KeyDigest {
        KeyDigest(sha256(&[&self.0]))
    }

    fn to_hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        self.0
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 15])
            .map(|digit| char::from(DIGITS[usize::from(digit)]))
            .collect()
    }
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    use sha2::Digest as _;
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// The namespaces of the ids of agents and of tokens.
pub(crate) const AGENTS: Uuid = Uuid::from_u128(0x3f1c_7a52_90d4_4e6b_8b0a_2d5e_61c7_94f8);
const TOKENS: Uuid = Uuid::from_u128(0xb86e_05d3_4c17_4f9a_a3e2_7019_fd48_5b6c);

/// The `UUIDv5` that names the row of a key id. Version 5 and not a younger one: many clients' validators know no
/// version above it.
pub(crate) fn row_id(namespace: &Uuid, key_id: KeyId) -> Uuid {
    Uuid::new_v5(namespace, key_id.as_bytes())
}

/// An agent's API key: 48 hexadecimal characters on the wire.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(Secret);

impl ApiKey {
    /// A new random key, with a new key id.
    #[must_use]
    pub fn generate() -> Self {
        Self(Secret::generate())
    }

    /// A new random key for the agent whose key id this is.
    #[must_use]
    pub fn with_key_id(key_id: KeyId) -> Self {
        Self(Secret::with_key_id(key_id))
    }

    /// Reads 48 hexadecimal characters; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Secret::parse(text.as_bytes()).map(Self)
    }

    /// The public part of the key.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        self.0.key_id()
    }

    /// What the agent's row holds of this key.
    #[must_use]
    pub fn digest(&self) -> KeyDigest {
        self.0.digest()
    }

    /// The key in clear: for the one answer that shows it.
    #[must_use]
    pub fn reveal(&self) -> String {
        self.0.to_hex()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(redacted)")
    }
}

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenKind {
    /// Acts as an operator: `rco_…`.
    Operator,
    /// Lets agents in: `rce_…`.
    Enrollment,
}

impl TokenKind {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Operator => "rco_",
            Self::Enrollment => "rce_",
        }
    }

    /// The word that rows and the wire use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Enrollment => "enrollment",
        }
    }
}

/// An operator's or enrollment token: its prefix and 48 hexadecimal characters on the wire.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    kind: TokenKind,
    secret: Secret,
}

impl Token {
    /// A new random token.
    #[must_use]
    pub fn generate(kind: TokenKind) -> Self {
        Self { kind, secret: Secret::generate() }
    }

    /// Reads a token by its form; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [TokenKind::Operator, TokenKind::Enrollment].into_iter().find_map(|kind| {
            let hex = text.strip_prefix(kind.prefix())?;
            Some(Self { kind, secret: Secret::parse(hex.as_bytes())? })
        })
    }

    /// What the token may do.
    #[must_use]
    pub const fn kind(&self) -> TokenKind {
        self.kind
    }

    /// The id of the token's row. It is public: audit events name it.
    #[must_use]
    pub fn token_id(&self) -> TokenId {
        TokenId::of(row_id(&TOKENS, self.secret.key_id()))
    }

    /// What the token's row holds of it.
    #[must_use]
    pub fn digest(&self) -> KeyDigest {
        self.secret.digest()
    }

    /// The token in clear: for the one answer that shows it.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{}{}", self.kind.prefix(), self.secret.to_hex())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}, redacted)", self.kind.as_str())
    }
}

/// A credential, classified by its form alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// 48 hexadecimal characters.
    Agent(ApiKey),
    /// `rco_` or `rce_` and 48 hexadecimal characters.
    Token(Token),
}

impl Credential {
    /// Classifies a header's value; `None` if it has no credential's form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        ApiKey::parse(text).map(Self::Agent).or_else(|| Token::parse(text).map(Self::Token))
    }
}

/// The SHA-256 of a credential: Binary in rows, compared there by the conditional write.
///
/// `==` takes the same time wherever two digests differ.
#[derive(Clone, Copy)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for KeyDigest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for KeyDigest {}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest(redacted)")
    }
}

impl Serialize for KeyDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for KeyDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(Bytes).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "000102030405060708090a0b0c0d0e0f1011121314151617";

    #[test]
    fn a_key_is_read_as_it_was_shown() {
        let key = ApiKey::generate();
        assert_eq!(ApiKey::parse(&key.reveal()), Some(key));
        assert_eq!(ApiKey::parse(KEY).unwrap().reveal(), KEY);
    }

    #[test]
    fn anything_but_48_hexadecimal_characters_is_no_key() {
        for text in
            ["", &KEY[1..], &format!("{KEY}0"), &KEY.replace('1', "g"), &"é".repeat(24), &" ".repeat(48)]
        {
            assert_eq!(ApiKey::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn keys_with_one_key_id_have_one_row_and_different_digests() {
        let old = ApiKey::parse(KEY).unwrap();
        let new = ApiKey::with_key_id(old.key_id());
        assert_eq!(row_id(&AGENTS, old.key_id()), row_id(&AGENTS, new.key_id()));
        assert_ne!(old.digest(), new.digest());
    }

    #[test]
    fn row_ids_are_uuids_of_version_5() {
        assert_eq!(row_id(&AGENTS, KeyId([0; 8])).get_version_num(), 5);
        assert_ne!(row_id(&AGENTS, KeyId([0; 8])), row_id(&TOKENS, KeyId([0; 8])));
    }

    #[test]
    fn no_two_ways_of_cutting_a_name_meet() {
        assert_eq!(KeyId::of_name("n", "b", "a"), KeyId::of_name("n", "b", "a"));
        assert_ne!(KeyId::of_name("n", "b", "a"), KeyId::of_name("n", "", "ba"));
        assert_ne!(KeyId::of_name("n", "b", "a"), KeyId::of_name("nb", "", "a"));
    }

    #[test]
    fn a_credential_is_classified_by_its_form() {
        let token = Token::generate(TokenKind::Enrollment);
        assert_eq!(Credential::parse(&token.reveal()), Some(Credential::Token(token)));
        assert!(matches!(Credential::parse(KEY), Some(Credential::Agent(_))));
        assert_eq!(Credential::parse(&format!("rcx_{KEY}")), None);
    }

    #[test]
    fn no_secret_prints_itself() {
        let shown =
            format!("{:?} {:?}", ApiKey::parse(KEY).unwrap(), Token::parse(&format!("rco_{KEY}")).unwrap());
        assert!(!shown.contains("0001"), "{shown}");
        assert!(!format!("{:?}", ApiKey::parse(KEY).unwrap().digest()).contains(char::is_numeric));
    }
}
