//! Azurite, with signatures that the test makes as a portal does.

use strongroom_scoring::storage::{Cause, Credentials, Existing, Storage};
use strongroom_testkit::storage::{
    AZURITE_ACCOUNT, AZURITE_KEY, StorageServer, azure_container_sas, azure_create_container,
};

use crate::{
    assert_kept, bytes, change_is_noticed, conforms, credential, location, storage, write,
};

fn with(server: &StorageServer, sas: Option<&str>, key: Option<&str>) -> Storage {
    storage(Credentials {
        azure_endpoint: Some(format!("{}/{AZURITE_ACCOUNT}", server.url)),
        azure_sas: sas.map(|sas| (None, credential(sas))).into_iter().collect(),
        azure_key: key.map(credential),
        ..Credentials::default()
    })
}

#[test]
fn azure_with_a_signature_does_otherwise() {
    let Some(server) = StorageServer::azurite() else {
        return;
    };
    azure_create_container(&server, "batches");
    let sas = azure_container_sas("batches", "rcwdl");
    let storage = with(&server, Some(&sas), None);
    conforms(&storage, &format!("az://{AZURITE_ACCOUNT}/batches/a"));
    let name = location(&format!("az://{AZURITE_ACCOUNT}/batches/changing"));
    change_is_noticed(&storage, &name);
    // As people paste it.
    for pasted in [format!("?{sas}\n"), format!("{}/x/y?{sas}", server.url)] {
        let storage = with(&server, Some(&pasted), None);
        assert_eq!(
            storage.get(&name, 1 << 30).unwrap().unwrap().len(),
            2_000_000
        );
    }
}

#[test]
fn azure_with_the_key_does_otherwise() {
    let Some(server) = StorageServer::azurite() else {
        return;
    };
    azure_create_container(&server, "batches");
    let storage = with(&server, None, Some(AZURITE_KEY));
    conforms(&storage, &format!("az://{AZURITE_ACCOUNT}/batches"));
    let connection = format!("AccountName={AZURITE_ACCOUNT};AccountKey={AZURITE_KEY};X=y");
    let storage = with(&server, None, Some(&connection));
    let name = location(&format!("az://{AZURITE_ACCOUNT}/batches/large"));
    assert!(storage.open(&name).is_ok());
}

#[test]
fn signature_opens_what_it_does_not_permit_or_is_told() {
    let Some(server) = StorageServer::azurite() else {
        return;
    };
    azure_create_container(&server, "batches");
    azure_create_container(&server, "others");
    let name = location(&format!("az://{AZURITE_ACCOUNT}/batches/x"));
    let whole = bytes(1000);
    let owner = with(&server, None, Some(AZURITE_KEY));
    write(&owner, &name, &whole, Existing::Refuse).unwrap();

    let sas = azure_container_sas("batches", "r");
    let signature = sas.split("sig=").nth(1).unwrap().to_owned();
    let decoded = signature
        .replace("%2B", "+")
        .replace("%2F", "/")
        .replace("%3D", "=");
    let secrets = [signature.as_str(), &decoded, AZURITE_KEY];
    let reader = with(&server, Some(&sas), None);
    assert!(reader.get(&name, 1000).unwrap().unwrap() == whole);
    // What its letters do not permit is told before it is sent; the rest is told by the storage.
    let refused = write(&reader, &name, b"x", Existing::Replace).unwrap_err();
    assert!(refused.to_string().contains("sp=r "), "{refused}");
    assert_kept(&refused, &secrets);
    let refused = reader
        .list(&location(&format!("az://{AZURITE_ACCOUNT}/batches/*")))
        .unwrap_err();
    assert!(
        matches!(refused.cause, Cause::Denied { status: 403, .. }),
        "{refused}"
    );
    assert!(
        refused
            .to_string()
            .contains("AuthorizationPermissionMismatch"),
        "{refused}"
    );
    assert_kept(&refused, &secrets);
    // With letters that it was not made with, or for another container, the signature is wrong.
    let forged = sas.replace("sp=r&", "sp=rcw&");
    let refused = write(
        &with(&server, Some(&forged), None),
        &name,
        b"x",
        Existing::Replace,
    );
    let refused = refused.unwrap_err();
    assert!(
        matches!(refused.cause, Cause::Denied { status: 403, .. }),
        "{refused}"
    );
    assert!(
        refused.to_string().contains("AuthenticationFailed")
            || refused.to_string().contains("AuthorizationFailure"),
        "{refused}"
    );
    assert_kept(&refused, &secrets);
    let other = location(&format!("az://{AZURITE_ACCOUNT}/others/x"));
    let refused = reader.open(&other).err().unwrap();
    assert!(matches!(refused.cause, Cause::Denied { .. }), "{refused}");
    assert_kept(&refused, &secrets);
    let nobody = with(&server, None, None).open(&name).err().unwrap();
    assert!(nobody.to_string().contains("--azure-sas"), "{nobody}");
    assert!(owner.get(&name, 1000).unwrap().unwrap() == whole);
}

#[test]
fn container_that_is_not_there_is_called_forbidden() {
    let Some(server) = StorageServer::azurite() else {
        return;
    };
    let storage = with(&server, None, Some(AZURITE_KEY));
    let name = location(&format!("az://{AZURITE_ACCOUNT}/none/x"));
    assert!(storage.open(&name).err().unwrap().is_not_found());
    assert!(
        write(&storage, &name, b"x", Existing::Refuse)
            .unwrap_err()
            .is_not_found()
    );
}
