//! What an encrypted Parquet file says of its keys: the name of a resource, or the "key material"
//! of Parquet's key tools, which `PyArrow` and Spark write. Key material holds the data key, wrapped
//! under a master key or under a key that is itself wrapped under one; the master key is a resource.
//!
//! Wrapped keys are AES-GCM (nonce ‖ ciphertext ‖ tag, in base64) with the wrapping key's name as
//! associated data, as the key tools wrap locally. A master key's wrap may also stand in their
//! `{"masterKeyVersion":…,"encryptedKey":…}`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::footer::open;
use crate::shown;

/// Keys that a file names. Asked only where the caller said that files may name keys, for a file
/// chooses what is asked.
pub trait NamedKeys: Send + Sync {
    /// The raw bytes of the key of this name: `kbs:///repository/type/tag`, or whatever a writer
    /// calls its master key.
    ///
    /// # Errors
    /// Why there is none, as a text for the user; the name need not be in it.
    fn key(&self, name: &str) -> Result<Zeroizing<Vec<u8>>, String>;
}

/// The data key that this metadata tells of.
pub(super) fn data_key(
    metadata: &[u8],
    keys: &dyn NamedKeys,
) -> Result<Zeroizing<Vec<u8>>, String> {
    if metadata.len() > MAX_METADATA {
        return Err(format!(
            "what the file says of it is longer than {MAX_METADATA} bytes"
        ));
    }
    let text = std::str::from_utf8(metadata)
        .map_err(|_| "what the file says of it is not text".to_owned())?;
    if !text.starts_with('{') {
        return named(keys, text);
    }
    let material: Material = serde_json::from_str(text)
        .map_err(|_| "what the file says of it is no key material".to_owned())?;
    if material.key_material_type != "PKMT1" {
        return Err(format!(
            "its key material is of the kind \"{}\"; this program reads PKMT1",
            shown(&material.key_material_type)
        ));
    }
    if !material.internal_storage {
        return Err(
            "its key material lies in another file: write the data set with the key \
                    material inside (internal_key_material=True)"
                .to_owned(),
        );
    }
    let (Some(master), Some(wrapped_key)) = (&material.master_key_id, &material.wrapped_dek) else {
        return Err("its key material lacks masterKeyID or wrappedDEK".to_owned());
    };
    let master_key = named(keys, master)?;
    if !material.double_wrapping {
        return unwrap_by_master(&master_key, master, wrapped_key);
    }
    let (Some(id), Some(wrapped_kek)) = (&material.key_encryption_key_id, &material.wrapped_kek)
    else {
        return Err("its key material lacks keyEncryptionKeyID or wrappedKEK".to_owned());
    };
    let key = unwrap_by_master(&master_key, master, wrapped_kek)?;
    let id = STANDARD
        .decode(id)
        .map_err(|_| "its keyEncryptionKeyID is not base64".to_owned())?;
    unwrap(&key, wrapped_key, &id)
        .ok_or_else(|| "its data key does not unwrap: the key material was changed".to_owned())
}

/// How an error calls a key that a file speaks of.
pub(super) fn name_of(metadata: Option<&[u8]>) -> Option<String> {
    let text = std::str::from_utf8(metadata?).ok()?;
    let name = match serde_json::from_str::<Material>(text) {
        Ok(material) => material.master_key_id?,
        Err(_) => text.to_owned(),
    };
    (!name.is_empty()).then(|| shown(&name))
}

fn named(keys: &dyn NamedKeys, name: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    keys.key(name)
        .map_err(|why| format!("its key \"{}\" is not there: {why}", shown(name)))
}

fn unwrap_by_master(
    master_key: &[u8],
    master: &str,
    wrapped: &str,
) -> Result<Zeroizing<Vec<u8>>, String> {
    let local: Option<LocalWrap> = serde_json::from_str(wrapped).ok();
    let wrapped = local.as_ref().map_or(wrapped, |local| &local.encrypted_key);
    unwrap(master_key, wrapped, master.as_bytes()).ok_or_else(|| {
        format!(
            "it does not unwrap under the master key \"{}\": that is another key, or the key \
             material was changed, or it was not wrapped by AES-GCM with the master key's name as \
             associated data",
            shown(master)
        )
    })
}

fn unwrap(key: &[u8], wrapped: &str, aad: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    open(key, &STANDARD.decode(wrapped).ok()?, aad)
}

/// `PyArrow`'s is below 600 bytes.
const MAX_METADATA: usize = 8192;

/// Members that this program does not know belong to writers' own keeping.
#[derive(Deserialize)]
struct Material {
    #[serde(rename = "keyMaterialType")]
    key_material_type: String,
    #[serde(rename = "internalStorage", default)]
    internal_storage: bool,
    #[serde(rename = "masterKeyID")]
    master_key_id: Option<String>,
    #[serde(rename = "wrappedDEK")]
    wrapped_dek: Option<String>,
    #[serde(rename = "doubleWrapping", default)]
    double_wrapping: bool,
    #[serde(rename = "keyEncryptionKeyID")]
    key_encryption_key_id: Option<String>,
    #[serde(rename = "wrappedKEK")]
    wrapped_kek: Option<String>,
}

#[derive(Deserialize)]
struct LocalWrap {
    #[serde(rename = "encryptedKey")]
    encrypted_key: String,
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Two master keys: `a/b/c` of 32 bytes, `kbs:///a/b/short` of 16.
    pub(in crate::columns) struct Store;

    impl NamedKeys for Store {
        fn key(&self, name: &str) -> Result<Zeroizing<Vec<u8>>, String> {
            match name {
                "a/b/c" => Ok(Zeroizing::new(vec![7; 32])),
                "kbs:///a/b/short" => Ok(Zeroizing::new(vec![8; 16])),
                _ => Err("no such resource".to_owned()),
            }
        }
    }

    const KEK_ID: &[u8] = b"0123456789abcdef";

    fn wrap(key: &[u8], text: &[u8], aad: &[u8]) -> String {
        use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
        let algorithm = if key.len() == 16 {
            &AES_128_GCM
        } else {
            &AES_256_GCM
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key).unwrap());
        let mut sealed = text.to_vec();
        let nonce = Nonce::assume_unique_for_key([3; 12]);
        key.seal_in_place_append_tag(nonce, Aad::from(aad), &mut sealed)
            .unwrap();
        STANDARD.encode([&[3; 12][..], &sealed].concat())
    }

    fn double() -> Value {
        json!({"keyMaterialType": "PKMT1", "internalStorage": true, "isFooterKey": true,
            "kmsInstanceID": "DEFAULT", "kmsInstanceURL": "DEFAULT", "masterKeyID": "a/b/c",
            "wrappedDEK": wrap(&[5; 16], &[1; 16], KEK_ID), "doubleWrapping": true,
            "keyEncryptionKeyID": STANDARD.encode(KEK_ID),
            "wrappedKEK": wrap(&[7; 32], &[5; 16], b"a/b/c")})
    }

    fn key(metadata: &str) -> Result<Vec<u8>, String> {
        data_key(metadata.as_bytes(), &Store).map(|key| key.to_vec())
    }

    /// The refusal after one member was replaced.
    fn refusal(member: &str, value: Value) -> String {
        let mut material = double();
        material[member] = value;
        key(&material.to_string()).unwrap_err()
    }

    #[test]
    fn key_in_each_form_is_refused() {
        assert_eq!(key("kbs:///a/b/short").unwrap(), [8; 16]);
        assert_eq!(key(&double().to_string()).unwrap(), [1; 16]);
        let mut single = double();
        single["doubleWrapping"] = json!(false);
        single["wrappedDEK"] = json!(wrap(&[7; 32], &[2; 32], b"a/b/c"));
        assert_eq!(key(&single.to_string()).unwrap(), [2; 32]);
        let local = json!({"masterKeyVersion": "NO_VERSION",
            "encryptedKey": wrap(&[7; 32], &[3; 16], b"a/b/c")});
        single["wrappedDEK"] = json!(local.to_string());
        assert_eq!(key(&single.to_string()).unwrap(), [3; 16]);
    }

    #[test]
    fn wrapped_key_moved_under_another_name_unwraps() {
        let other = wrap(&[7; 32], &[5; 16], b"a/b/d");
        assert!(refusal("wrappedKEK", json!(other)).contains("does not unwrap under the master"));
        let id = STANDARD.encode(b"another key's id");
        assert!(refusal("keyEncryptionKeyID", json!(id)).contains("data key does not unwrap"));
    }

    #[test]
    fn unknown_master_key_is_not_named() {
        let error = refusal("masterKeyID", json!("x/y/z"));
        assert_eq!(error, "its key \"x/y/z\" is not there: no such resource");
    }

    #[test]
    fn material_outside_the_file_is_missed() {
        let error = refusal("internalStorage", json!(false));
        assert!(error.contains("internal_key_material=True"), "{error}");
    }

    #[test]
    fn material_of_another_kind_is_read() {
        assert!(refusal("keyMaterialType", json!("PKMT2")).contains("reads PKMT1"));
        assert!(refusal("wrappedDEK", json!(null)).contains("lacks masterKeyID or wrappedDEK"));
        assert!(refusal("wrappedKEK", json!(null)).contains("or wrappedKEK"));
        assert!(key("{").unwrap_err().contains("no key material"));
        assert!(data_key(&[0xff], &Store).unwrap_err().contains("not text"));
        assert!(
            data_key(&[b'a'; 9000], &Store)
                .unwrap_err()
                .contains("longer")
        );
    }

    #[test]
    fn master_key_is_called_by_its_json() {
        let material = double().to_string();
        assert_eq!(name_of(Some(material.as_bytes())).unwrap(), "a/b/c");
        assert_eq!(name_of(Some(b"kbs:///k")).unwrap(), "kbs:///k");
        assert_eq!(name_of(Some(b"\xff")), None);
        assert_eq!(name_of(None), None);
    }
}
