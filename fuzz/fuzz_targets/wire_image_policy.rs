//! What decides about images: policy.json, credentials, registries and the places of signatures; and names of images.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strongroom_wire::image::credentials::Credentials;
use strongroom_wire::image::lookaside::Lookaside;
use strongroom_wire::image::reference::Reference;
use strongroom_wire::image::registries::Registries;
use strongroom_wire::image::signing_key::{PublicKey, SigningKey};
use strongroom_wire::image_policy::{Policy, Requirement, SignedIdentity};

fuzz_target!(|bytes: &[u8]| {
    let asked: Reference = "registry.example.com:5000/a/b:c".parse().expect("a name");
    if let Ok(policy) = Policy::parse(bytes) {
        let (_, requirements) = policy.requirements_for(&asked);
        assert!(!requirements.is_empty(), "nothing is required");
        for requirement in requirements {
            if let Requirement::SigstoreSigned { identity, .. }
            | Requirement::SignedBy { identity, .. } = requirement
            {
                identity.check(&asked, "registry.example.com:5000/a/b").ok();
            }
        }
    }
    if let Ok(credentials) = Credentials::parse(bytes) {
        credentials.for_repository(asked.repository());
    }
    PublicKey::parse(bytes).ok();
    SigningKey::parse_pem(bytes).ok();
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(registries) = Registries::parse(text) {
        registries.places(asked.repository()).ok();
    }
    if let Ok(places) = Lookaside::parse(text) {
        places.base(&asked);
    }
    if let Ok(name) = text.parse::<Reference>() {
        assert_eq!(
            name.to_string().parse(),
            Ok(name.clone()),
            "a name changes when it is written"
        );
        SignedIdentity::MatchExact.check(&name, text).ok();
        name.policy_scopes();
    }
});
