//! Storages as others run them: Azurite, moto's S3, fake-gcs-server, and a web server that misbehaves.

#![allow(clippy::unwrap_used)]

mod azure;
mod gcs;
mod s3;
mod web;

use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use strongroom_scoring::storage::{
    Cause, Credential, Credentials, Existing, Location, Options, Patience, ReadAhead, ReadAt,
    Storage, StorageError,
};
use strongroom_testkit::storage::WebServer;

/// Blocks so small that a short object has many.
const AHEAD: ReadAhead = ReadAhead {
    block: 64 * 1024,
    blocks: 4,
};

/// Fails sooner than in earnest.
fn patience() -> Patience {
    Patience {
        connect: Duration::from_secs(2),
        answer: Duration::from_millis(1500),
        idle: Duration::from_millis(700),
        block: Duration::from_secs(20),
        part: Duration::from_secs(20),
        attempts: 4,
        first_wait: Duration::from_millis(5),
        longest_wait: Duration::from_millis(20),
    }
}

fn storage(credentials: Credentials) -> Storage {
    Storage::new(Options {
        credentials,
        patience: patience(),
        read_ahead: AHEAD,
        ..Options::default()
    })
}

fn credential(text: &str) -> Credential {
    Credential::from_bytes("the test's", text.as_bytes()).unwrap()
}

fn location(text: &str) -> Location {
    Location::parse(text, None).unwrap()
}

/// Bytes of which no two pieces are alike.
fn bytes(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn write(
    storage: &Storage,
    to: &Location,
    bytes: &[u8],
    existing: Existing,
) -> Result<(), StorageError> {
    let mut upload = storage.create(to, existing, 0o600)?;
    for piece in bytes.chunks(100_000) {
        upload.write_all(piece).map_err(|error| StorageError {
            location: to.to_string(),
            cause: Cause::Settings(error.to_string()),
        })?;
    }
    upload.finish()
}

fn read(storage: &Storage, from: &Location) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    storage.reader(from)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads as a pipeline does: several threads, each taking the next piece.
fn read_by_threads(object: &Arc<dyn ReadAt>, piece: usize) -> std::io::Result<Vec<u8>> {
    let size = usize::try_from(object.size()).unwrap();
    let next = Mutex::new(0_usize);
    let pieces = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| -> std::io::Result<()> {
                    loop {
                        let at = {
                            let mut next = next.lock().unwrap();
                            let at = *next;
                            *next += piece;
                            at
                        };
                        if at >= size {
                            return Ok(());
                        }
                        let mut buffer = vec![0; piece.min(size - at)];
                        object.read_at(at as u64, &mut buffer)?;
                        pieces.lock().unwrap().push((at, buffer));
                    }
                })
            })
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap())
    })?;
    let mut pieces = pieces.into_inner().unwrap();
    pieces.sort();
    Ok(pieces.into_iter().flat_map(|(_, piece)| piece).collect())
}

/// What every storage that is written to does, under a folder that has nothing.
fn conforms(storage: &Storage, folder: &str) {
    let at = |name: &str| location(&format!("{folder}/{name}"));
    assert!(storage.open(&at("none")).err().unwrap().is_not_found());
    assert_eq!(storage.get(&at("none"), 10).unwrap(), None);
    storage.delete(&at("none")).unwrap();

    for length in [0, 1, 65_536, 65_537, 300_000] {
        let whole = bytes(length);
        let name = at(&format!("sizes/{length:06}.bin"));
        write(storage, &name, &whole, Existing::Refuse).unwrap();
        assert!(read(storage, &name).unwrap() == whole, "{length}");
        let object = storage.open(&name).unwrap();
        assert_eq!(object.size(), length as u64);
        assert!(
            read_by_threads(&object, 10_000).unwrap() == whole,
            "{length}"
        );
        assert_eq!(
            object.read_at(length as u64, &mut [0]).unwrap_err().kind(),
            std::io::ErrorKind::UnexpectedEof
        );
        // There and back, wherever.
        for start in [length / 2, 0, length.saturating_sub(9), length / 3] {
            let mut buffer = vec![0; 9.min(length - start)];
            object.read_at(start as u64, &mut buffer).unwrap();
            assert!(buffer == whole[start..start + buffer.len()]);
        }
    }

    // More than one part, and three of them under way.
    let large = bytes(27 * 1024 * 1024 + 11);
    write(storage, &at("large"), &large, Existing::Refuse).unwrap();
    assert!(read(storage, &at("large")).unwrap() == large);

    // Neither a short nor a long one goes over another.
    for (name, content) in [("sizes/000001.bin", &large[..5]), ("large", &large[..])] {
        let before = storage.get(&at(name), 1 << 30).unwrap();
        let refused = write(storage, &at(name), content, Existing::Refuse).unwrap_err();
        assert_eq!(refused.cause, Cause::Exists);
        assert!(storage.get(&at(name), 1 << 30).unwrap() == before);
    }
    write(
        storage,
        &at("large"),
        &large[..20_000_000],
        Existing::Replace,
    )
    .unwrap();
    assert!(storage.get(&at("large"), 1 << 30).unwrap().unwrap() == large[..20_000_000]);

    // What is dropped does not appear.
    for length in [10, 20_000_000] {
        let mut upload = storage
            .create(&at("dropped"), Existing::Refuse, 0o600)
            .unwrap();
        upload.write_all(&large[..length]).unwrap();
        drop(upload);
        assert_eq!(storage.get(&at("dropped"), 1 << 30).unwrap(), None);
    }
    let mut upload = storage
        .create(&at("dropped"), Existing::Refuse, 0o600)
        .unwrap();
    upload.write_all(&large).unwrap();
    upload.aborter()();
    assert!(upload.finish().is_err());
    assert_eq!(storage.get(&at("dropped"), 1 << 30).unwrap(), None);

    // Small ones come and go.
    storage.put(&at("state"), b"one").unwrap();
    storage.put(&at("state"), b"three").unwrap();
    assert_eq!(storage.get(&at("state"), 5).unwrap().unwrap(), b"three");
    let too_large = storage.get(&at("state"), 4).unwrap_err();
    assert_eq!(too_large.cause, Cause::TooLarge { limit: 4 });
    storage.put(&at("state"), b"").unwrap();
    assert_eq!(storage.get(&at("state"), 5).unwrap().unwrap(), b"");
    storage.delete(&at("state")).unwrap();
    assert_eq!(storage.get(&at("state"), 5).unwrap(), None);

    let names = |pattern: &str| -> Vec<String> {
        let entries = storage.list(&at(pattern)).unwrap();
        let names = entries.iter().map(|entry| entry.location.to_string());
        names
            .map(|name| name.strip_prefix(&format!("{folder}/")).unwrap().to_owned())
            .collect()
    };
    storage.put(&at("odd/a b+c%41ü.csv"), b"x").unwrap();
    assert_eq!(
        storage.get(&at("odd/a b+c%41ü.csv"), 9).unwrap().unwrap(),
        b"x"
    );
    assert_eq!(names("odd/*"), ["odd/a b+c%41ü.csv"]);
    assert_eq!(names("sizes/").len(), 5);
    assert_eq!(
        names("sizes/0000??.bin"),
        ["sizes/000000.bin", "sizes/000001.bin"]
    );
    assert_eq!(names("**/*.bin").len(), 5);
    assert_eq!(names("*"), ["large"]);
    assert_eq!(names("large"), ["large"]);
    let sizes: Vec<_> = storage
        .list(&at("sizes/*"))
        .unwrap()
        .iter()
        .map(|entry| entry.size)
        .collect();
    assert_eq!(sizes.last().unwrap(), &Some(300_000));
    assert!(storage.list(&at("none/*")).unwrap_err().is_not_found());
}

/// An object that is replaced while it is read is an error, whatever of it had come.
fn change_is_noticed(storage: &Storage, name: &Location) {
    let (one, other) = (bytes(2_000_000), vec![7; 2_000_000]);
    write(storage, name, &one, Existing::Replace).unwrap();
    let object = storage.open(name).unwrap();
    assert!(object.version().is_some());
    let mut buffer = vec![0; 100_000];
    object.read_at(0, &mut buffer).unwrap();
    assert!(buffer == one[..100_000]);
    write(storage, name, &other, Existing::Replace).unwrap();
    // What lies in the window is of the first version; then comes the error, and nothing after it.
    let mut failed = None;
    for at in (0..2_000_000).step_by(100_000) {
        match object.read_at(at as u64, &mut buffer) {
            Ok(()) => {
                assert!(failed.is_none(), "read on after a change");
                assert!(buffer == one[at..at + 100_000], "a mixture");
            }
            Err(error) => failed = Some(error.to_string()),
        }
    }
    let failed = failed.expect("the change went unnoticed");
    assert!(
        failed.contains("replaced or removed while it was read"),
        "{failed}"
    );
}

/// The same of a web server that changes by itself.
fn change_is_noticed_by(storage: &Storage, server: &WebServer, first: &[u8]) {
    let object = storage
        .open(&location(&format!("{}/x", server.url())))
        .unwrap();
    let mut buffer = vec![0; 10_000];
    let mut failed = None;
    for at in (0..first.len()).step_by(10_000) {
        match object.read_at(at as u64, &mut buffer) {
            Ok(()) => {
                assert!(failed.is_none(), "read on after a change");
                assert!(buffer == first[at..at + 10_000], "a mixture");
            }
            Err(error) => failed = Some(error.to_string()),
        }
    }
    let failed = failed.expect("the change went unnoticed");
    assert!(
        failed.contains("replaced or removed while it was read"),
        "{failed}"
    );
}

/// No error has any of these, in whatever it prints.
fn assert_kept(error: &dyn std::error::Error, secrets: &[&str]) {
    let mut next = Some(error);
    let mut said = format!("{error:?}");
    while let Some(error) = next {
        said.push_str(&format!(" {error} {error:?}"));
        next = error.source();
    }
    for secret in secrets {
        assert!(!said.contains(secret), "{said}");
    }
}
