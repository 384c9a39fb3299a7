//! moto's S3: multipart, conditions, ranges, and signatures that it checks when told to.

use strongroom_scoring::storage::{Cause, Credentials, Existing, Storage};
use strongroom_testkit::storage::{StorageServer, request};

use crate::{assert_kept, change_is_noticed, conforms, credential, location, storage, write};

fn with(server: &StorageServer, id: &str, secret: &str) -> Storage {
    storage(Credentials {
        s3_endpoint: Some(server.url.clone()),
        s3_access_key_id: Some(id.to_owned()),
        s3_secret_key: Some(credential(secret)),
        ..Credentials::default()
    })
}

fn make_bucket(server: &StorageServer, bucket: &str) {
    let (status, _) = request(&server.url, "PUT", &format!("/{bucket}"), &[], b"");
    assert_eq!(status, 200);
}

#[test]
fn s3_does_otherwise() {
    let Some(server) = StorageServer::moto() else {
        return;
    };
    make_bucket(&server, "bank.batches");
    let storage = with(&server, "id", "secret");
    conforms(&storage, "s3://bank.batches/a/b");
    change_is_noticed(&storage, &location("s3://bank.batches/changing"));
    let missing = storage.open(&location("s3://none/x")).err().unwrap();
    assert!(missing.is_not_found(), "{missing}");
}

#[test]
fn parts_of_what_was_dropped_stay_behind() {
    let Some(server) = StorageServer::moto() else {
        return;
    };
    make_bucket(&server, "bucket");
    let storage = with(&server, "id", "secret");
    let uploads = || {
        let (status, body) = request(&server.url, "GET", "/bucket?uploads", &[], b"");
        assert_eq!(status, 200);
        String::from_utf8(body)
            .unwrap()
            .matches("<UploadId>")
            .count()
    };
    let mut upload = storage
        .create(&location("s3://bucket/x"), Existing::Replace, 0o600)
        .unwrap();
    std::io::Write::write_all(&mut upload, &vec![1; 20_000_000]).unwrap();
    assert_eq!(uploads(), 1);
    drop(upload);
    assert_eq!(uploads(), 0);
    // Somebody was faster: that one stays.
    let mut upload = storage
        .create(&location("s3://bucket/y"), Existing::Refuse, 0o600)
        .unwrap();
    std::io::Write::write_all(&mut upload, &vec![1; 20_000_000]).unwrap();
    storage.put(&location("s3://bucket/y"), b"theirs").unwrap();
    assert_eq!(upload.finish().unwrap_err().cause, Cause::Exists);
    assert_eq!(
        storage
            .get(&location("s3://bucket/y"), 10)
            .unwrap()
            .unwrap(),
        b"theirs"
    );
    assert_eq!(uploads(), 0);
}

#[test]
fn wrong_key_opens_a_bucket_or_is_told() {
    let Some(server) = StorageServer::moto() else {
        return;
    };
    make_bucket(&server, "bucket");
    with(&server, "id", "secret")
        .put(&location("s3://bucket/x"), b"x")
        .unwrap();
    // From here on every request is checked; nobody has a key.
    let (status, _) = request(&server.url, "POST", "/moto-api/reset-auth", &[], b"0");
    assert_eq!(status, 200);
    let storage = with(&server, "AKIAEXAMPLE", "HUNTER2HUNTER2");
    for refused in [
        storage.open(&location("s3://bucket/x")).err().unwrap(),
        storage.list(&location("s3://bucket/*")).unwrap_err(),
        write(
            &storage,
            &location("s3://bucket/y"),
            b"y",
            Existing::Replace,
        )
        .unwrap_err(),
    ] {
        assert!(
            matches!(refused.cause, Cause::Denied { status: 403, .. }),
            "{refused}"
        );
        assert!(
            refused.to_string().contains("InvalidAccessKeyId"),
            "{refused}"
        );
        assert!(refused.to_string().contains("AKIAEXAMPLE"), "{refused}");
        assert_kept(&refused, &["HUNTER2"]);
    }
}
