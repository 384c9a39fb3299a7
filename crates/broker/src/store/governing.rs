//! What decides: the policies, reference values and administrators in force. Each checkpoint signs their digest, so who
//! can write to the database and does not have the record's key changes none of them.

use aws_lc_rs::digest::{Context, SHA256};
use strongroom_verifier::ReferenceValues;
use strongroom_wire::tlog::{Hash, VerifierKey};

use super::{AdminVersion, PolicyVersion, Store, StoreError};
use crate::audit::{self, LogError};

/// What is in force.
pub(crate) struct Governing {
    pub(crate) policies: Vec<PolicyVersion>,
    pub(crate) reference_values: ReferenceValues,
    pub(crate) admins: Vec<AdminVersion>,
}

impl Governing {
    /// Reads what is in force, if it is what the newest checkpoint signs. In a store whose last entry is of a version that
    /// signed none of this, whatever is there.
    ///
    /// # Errors
    /// [`LogError::Governing`] when something was changed past the broker.
    pub(crate) fn read(store: &dyn Store, key: &VerifierKey) -> Result<Self, StoreError> {
        let mut tries = 3;
        loop {
            let governing = Self {
                policies: store.policies()?,
                reference_values: store.reference_values()?,
                admins: store.admins()?,
            };
            let head = store.head()?.ok_or(LogError::NoHead)?;
            let checkpoint = audit::open_checkpoint(&head.checkpoint, head.size, key)?;
            let signed = audit::governing(&checkpoint);
            if signed.is_none_or(|signed| signed == governing.digest()) {
                return Ok(governing);
            }
            // Another broker may have changed something between two of these questions.
            tries -= 1;
            if tries == 0 {
                return Err(LogError::Governing.into());
            }
        }
    }

    /// The digest of all of it: of each table the rows in force in their order, each field with its length.
    pub(crate) fn digest(&self) -> Hash {
        let mut digest = Digest(Context::new(&SHA256));
        for policy in &self.policies {
            let text = policy.text.as_deref().unwrap_or_default();
            digest.row("policy", &[&policy.id, text, &policy.set_by]);
            digest.numbers(&[policy.version, policy.set_at]);
        }
        for (name, value) in self.reference_values.iter() {
            let value = serde_json::json!(value).to_string();
            digest.row("reference value", &[name, &value]);
        }
        for admin in &self.admins {
            let key = admin.key.as_ref().map(|(role, key)| [role, key.as_str()]);
            let [role, key] = key.unwrap_or_default();
            digest.row("admin", &[&admin.name, role, key, &admin.set_by]);
            digest.numbers(&[admin.version, admin.set_at]);
        }
        let mut hash = [0; Hash::BYTES];
        hash.copy_from_slice(digest.0.finish().as_ref());
        Hash::from_bytes(hash)
    }
}

struct Digest(Context);

impl Digest {
    fn row(&mut self, table: &str, fields: &[&str]) {
        for field in [table].iter().chain(fields) {
            self.numbers(&[u64::try_from(field.len()).unwrap_or(u64::MAX)]);
            self.0.update(field.as_bytes());
        }
    }

    fn numbers(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.0.update(&number.to_be_bytes());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn governing() -> Governing {
        let value = serde_json::from_value(
            serde_json::json!({"value": ["a"], "expires": 9, "provenance": {}}),
        )
        .unwrap();
        Governing {
            policies: vec![PolicyVersion {
                id: "resource-policy".into(),
                version: 1,
                text: Some("package policy".into()),
                set_at: 7,
                set_by: "admin".into(),
            }],
            reference_values: [("svn".to_owned(), value)].into_iter().collect(),
            admins: vec![AdminVersion {
                name: "anna".into(),
                version: 2,
                key: Some(("policy".into(), "PEM".into())),
                set_at: 8,
                set_by: "admin".into(),
            }],
        }
    }

    #[test]
    fn each_field_is_in_the_digest() {
        let digest = governing().digest();
        assert_eq!(digest, governing().digest());
        type Change = fn(&mut Governing);
        let changes: [Change; 12] = [
            |all| all.policies[0].id.push('2'),
            |all| all.policies[0].version = 2,
            |all| all.policies[0].text = Some("package other".into()),
            |all| all.policies[0].set_at = 8,
            |all| all.policies[0].set_by = "mallory".into(),
            |all| all.policies.clear(),
            |all| all.reference_values = ReferenceValues::default(),
            |all| all.admins[0].name = "mallory".into(),
            |all| all.admins[0].version = 3,
            |all| all.admins[0].key = Some(("admin".into(), "PEM".into())),
            |all| all.admins[0].key = Some(("policy".into(), "OTHER".into())),
            |all| all.admins.clear(),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut other = governing();
            change(&mut other);
            assert_ne!(digest, other.digest(), "change {number}");
        }
    }
}
