//! A web server that cuts, stalls, lies and changes its mind: the right bytes, or an error that says what happened.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use strongroom_scoring::storage::{Cause, Credentials, Storage};
use strongroom_testkit::storage::{Seen, Step, WebServer, served};

use crate::{
    assert_kept, bytes, change_is_noticed_by, credential, location, read, read_by_threads, storage,
};

fn plain() -> Storage {
    storage(Credentials::default())
}

/// The proper answer, changed.
fn changed(seen: &Seen, object: &[u8], change: impl Fn(&mut Vec<u8>)) -> Vec<Step> {
    let mut steps = served(seen, object, "\"one\"");
    if let Some(Step::Send(answer)) = steps.first_mut() {
        change(answer);
    }
    steps
}

fn status(line: &str, headers: &str) -> Vec<Step> {
    vec![Step::Send(
        format!("HTTP/1.1 {line}\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n")
            .into_bytes(),
    )]
}

fn cause(storage: &Storage, server: &WebServer) -> Cause {
    let name = location(&format!("{}/x.csv", server.url()));
    let failed = match storage.reader(&name) {
        Err(error) => error,
        Ok(mut reader) => {
            let mut read = Vec::new();
            let error = reader.read_to_end(&mut read).expect_err("it was read");
            error
                .into_inner()
                .unwrap()
                .downcast_ref::<strongroom_scoring::storage::StorageError>()
                .unwrap()
                .clone()
        }
    };
    assert_eq!(failed.location, name.to_string());
    failed.cause
}

#[test]
fn proper_server_is_read_otherwise() {
    for length in [0, 1, 65_535, 65_536, 1_000_000] {
        let object = bytes(length);
        let server = WebServer::of(object.clone());
        let name = location(&format!("{}/a%20b.csv", server.url()));
        assert!(read(&plain(), &name).unwrap() == object, "{length}");
        let opened = plain().open(&name).unwrap();
        assert!(
            read_by_threads(&opened, 33_333).unwrap() == object,
            "{length}"
        );
        assert!(server.seen().iter().all(|seen| seen.target == "/a%20b.csv"));
    }
}

#[test]
fn more_is_asked_for_than_the_window_has() {
    let object = bytes(3_000_000);
    let server = WebServer::of(object.clone());
    let opened = plain()
        .open(&location(&format!("{}/x", server.url())))
        .unwrap();
    // Only the first block, until somebody reads.
    assert_eq!(server.seen().len(), 1);
    let mut buffer = vec![0; 1000];
    opened.read_at(0, &mut buffer).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let asked: Vec<_> = server
        .seen()
        .iter()
        .map(|seen| seen.range().unwrap().0 / 65_536)
        .collect();
    let mut sorted = asked.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [0, 1, 2, 3], "{asked:?}");
    // Whoever jumps about gets what is asked for, and nothing ahead.
    opened.read_at(2_000_000, &mut buffer).unwrap();
    assert!(buffer == object[2_000_000..2_001_000]);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(server.seen().len(), 5);
    // Each block is fetched once when it is read in order.
    drop(opened);
    let server = WebServer::of(object.clone());
    assert!(read(&plain(), &location(&format!("{}/x", server.url()))).unwrap() == object);
    assert_eq!(server.seen().len(), object.len().div_ceil(65_536));
}

#[test]
fn what_is_fetched_ahead_goes_on_after_the_end() {
    let object = bytes(1_000_000);
    let server = WebServer::start(move |seen| {
        let mut steps = served(seen, &object, "\"one\"");
        if seen.number > 0 {
            steps.insert(0, Step::Wait(Duration::from_millis(600)));
        }
        steps
    });
    let opened = plain()
        .open(&location(&format!("{}/x", server.url())))
        .unwrap();
    opened.read_at(0, &mut [0; 10]).unwrap();
    let started = Instant::now();
    drop(opened);
    assert!(started.elapsed() < Duration::from_millis(400));
    std::thread::sleep(Duration::from_millis(800));
    assert!(server.seen().len() <= 4);
}

#[test]
fn cut_connection_loses_or_repeats_bytes() {
    let object = bytes(500_000);
    for cut in [0, 1, 150, 200, 1_000, 30_000, 65_000] {
        let body = object.clone();
        // Every other answer breaks off somewhere.
        let server = WebServer::start(move |seen| {
            changed(seen, &body, |answer| {
                if seen.number % 2 == 0 {
                    answer.truncate(cut + seen.number);
                }
            })
        });
        let name = location(&format!("{}/x.csv", server.url()));
        assert!(read(&plain(), &name).unwrap() == object, "{cut}");
        if cut == 30_000 {
            // It goes on where it broke off.
            let starts: Vec<_> = server
                .seen()
                .iter()
                .map(|seen| seen.range().unwrap().0)
                .collect();
            assert!(
                starts.iter().any(|start| start % 65_536 > 20_000),
                "{starts:?}"
            );
        }
    }
}

#[test]
fn truncated_body_passes_for_a_whole_one() {
    let object = bytes(200_000);
    let body = object.clone();
    let server =
        WebServer::start(move |seen| changed(seen, &body, |answer| answer.truncate(10_000)));
    match cause(&plain(), &server) {
        // Each attempt brings a little more, and there are four.
        Cause::Cut {
            got,
            wanted: 65_536,
            attempts: 4,
        } => assert!(got > 30_000, "{got}"),
        other => panic!("{other}"),
    }
    // A length that is not the range's, too short or too long, with all that was announced.
    for (announced, sent) in [(60_000, 60_000), (70_000, 70_000)] {
        let object = object.clone();
        let server = WebServer::start(move |_| {
            let mut answer = format!(
                "HTTP/1.1 206 Partial Content\r\nETag: \"one\"\r\nContent-Range: bytes 0-65535/200000\r\nContent-Length: {announced}\r\n\r\n"
            )
            .into_bytes();
            answer.extend_from_slice(&object[..sent]);
            vec![Step::Send(answer)]
        });
        assert!(matches!(cause(&plain(), &server), Cause::NotUnderstood(_)));
    }
    // Chunks that end properly, too early.
    let server = WebServer::start(move |_| {
        let mut answer = b"HTTP/1.1 206 Partial Content\r\nETag: \"one\"\r\nContent-Range: bytes 0-65535/200000\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n".to_vec();
        answer.extend_from_slice(&[7; 1000]);
        answer.extend_from_slice(b"\r\n0\r\n\r\n");
        vec![Step::Send(answer)]
    });
    assert!(matches!(
        cause(&plain(), &server),
        Cause::Cut { .. } | Cause::WrongRange { .. }
    ));
}

#[test]
fn unavailable_storage_is_given_up_or_asked_for_ever() {
    let object = bytes(200_000);
    let body = object.clone();
    let asked = Mutex::new(BTreeMap::new());
    let server = WebServer::start(move |seen| {
        // Each range is refused twice.
        let mut asked = asked.lock().unwrap();
        let times = asked.entry(seen.range()).or_insert(0);
        *times += 1;
        match times {
            1 => status("503 Slow Down", "Retry-After: 0\r\n"),
            2 => status("500 Oh", ""),
            _ => served(seen, &body, "\"one\""),
        }
    });
    let name = location(&format!("{}/x.csv", server.url()));
    assert!(read(&plain(), &name).unwrap() == object);

    for (line, code) in [
        ("503 Slow Down", 503),
        ("429 Too Many", 429),
        ("500 Oh", 500),
    ] {
        let server = WebServer::start(move |_| status(line, ""));
        match cause(&plain(), &server) {
            Cause::Refused {
                status, attempts, ..
            } => assert_eq!((status, attempts), (code, 4)),
            other => panic!("{other}"),
        }
        assert_eq!(server.seen().len(), 4);
    }
    // What will not change is not asked again.
    for (line, expected) in [
        ("403 Forbidden", "403"),
        ("401 Unauthorized", "401"),
        ("404 Not Found", "nothing here"),
        ("400 Bad", "400"),
        ("501 Not Implemented", "501"),
        ("204 No Content", "204"),
    ] {
        let server = WebServer::start(move |_| status(line, ""));
        let cause = cause(&plain(), &server);
        assert!(cause.to_string().contains(expected), "{line}: {cause}");
        assert!(server.seen().len() <= 2, "{line}");
    }
}

#[test]
fn silent_or_slow_storage_is_waited_for() {
    let object = bytes(200_000);
    let server = WebServer::start(|_| vec![Step::Wait(Duration::from_secs(4))]);
    let started = Instant::now();
    let mut options = strongroom_scoring::storage::Options {
        patience: crate::patience(),
        read_ahead: crate::AHEAD,
        ..Default::default()
    };
    options.patience.attempts = 2;
    options.patience.answer = Duration::from_millis(300);
    let hasty = Storage::new(options.clone());
    assert!(matches!(
        cause(&hasty, &server),
        Cause::Silent { attempts: 2, .. }
    ));
    assert!(started.elapsed() < Duration::from_secs(3));

    // A body that stops in its middle.
    let body = object.clone();
    let server = WebServer::start(move |seen| {
        let mut steps = Vec::new();
        for step in changed(seen, &body, |answer| answer.truncate(20_000)) {
            steps.push(step);
            steps.push(Step::Wait(Duration::from_secs(4)));
        }
        steps
    });
    options.patience.idle = Duration::from_millis(300);
    let hasty = Storage::new(options.clone());
    assert!(matches!(
        cause(&hasty, &server),
        Cause::Silent { attempts: 2, .. }
    ));

    // One that never stops and never gets there.
    let server = WebServer::start(move |seen| {
        let mut steps = Vec::new();
        for step in served(seen, &object, "\"one\"") {
            let Step::Send(answer) = step else { continue };
            for piece in answer.chunks(2000) {
                steps.push(Step::Send(piece.to_vec()));
                steps.push(Step::Wait(Duration::from_millis(100)));
            }
        }
        steps
    });
    options.patience.block = Duration::from_millis(700);
    let hasty = Storage::new(options);
    match cause(&hasty, &server) {
        Cause::Slow {
            got,
            wanted: 65_536,
            ..
        } => assert!((2000..60_000).contains(&got), "{got}"),
        other => panic!("{other}"),
    }
}

#[test]
fn other_bytes_than_asked_for_are_taken() {
    let object = bytes(200_000);
    for range in [
        "bytes 1-65536/200000",
        "bytes 0-65535/*",
        "bytes 0-99/200000",
        "bytes 0-65535",
        "0-65535/200000",
    ] {
        let body = object.clone();
        let server = WebServer::start(move |_| {
            let mut answer = format!(
                "HTTP/1.1 206 Partial Content\r\nETag: \"one\"\r\nContent-Range: {range}\r\nContent-Length: 65536\r\n\r\n"
            )
            .into_bytes();
            answer.extend_from_slice(&body[..65_536]);
            vec![Step::Send(answer)]
        });
        let cause = cause(&plain(), &server);
        assert!(
            matches!(cause, Cause::WrongRange { .. }),
            "{range}: {cause}"
        );
        assert_eq!(server.seen().len(), 1);
    }
}

#[test]
fn object_that_changes_in_mid_read_is_mixed() {
    // The server that looks at If-Match, and the one that does not; a weak tag; a date alone; another size.
    let strong = |number: usize| ("\"one\"", "\"two\"", number);
    for (ignores, (one, two, from)) in [
        (false, strong(2)),
        (true, strong(2)),
        (true, ("W/\"one\"", "W/\"two\"", 3)),
    ] {
        let (first, second) = (bytes(500_000), vec![7; 500_000]);
        let expected = first.clone();
        let server = WebServer::start(move |seen| {
            let (object, tag) = if seen.number < from {
                (&first, one)
            } else {
                (&second, two)
            };
            let mut seen = seen.clone();
            if ignores {
                seen.headers.retain(|(name, _)| name != "if-match");
            }
            served(&seen, object, tag)
        });
        change_is_noticed_by(&plain(), &server, &expected);
        let asked = server.seen();
        let sent = asked
            .iter()
            .skip(1)
            .all(|seen| seen.header("if-match").is_some() != one.starts_with("W/"));
        assert!(sent);
    }
    // It shrank, and the range lies beyond its end; it is gone.
    for gone in [
        "416 Range Not Satisfiable",
        "404 Not Found",
        "412 Precondition Failed",
    ] {
        let object = bytes(500_000);
        let expected = object.clone();
        let server = WebServer::start(move |seen| match seen.number {
            0 | 1 => served(seen, &object, "\"one\""),
            _ => status(gone, ""),
        });
        change_is_noticed_by(&plain(), &server, &expected);
    }
}

#[test]
fn server_without_versions_is_trusted_with_more_than_one_answer() {
    let dated = |date: &'static str, length: usize| {
        let object = bytes(length);
        WebServer::start(move |seen| {
            changed(seen, &object, |answer| {
                let text = String::from_utf8_lossy(&answer[..100]).into_owned();
                let at = text.find("ETag: \"one\"\r\n").unwrap();
                answer.splice(at..at + "ETag: \"one\"\r\n".len(), date.bytes());
            })
        })
    };
    assert_eq!(cause(&plain(), &dated("", 200_000)), Cause::NoVersion);
    let short = dated("", 60_000);
    assert!(read(&plain(), &location(&format!("{}/x", short.url()))).unwrap() == bytes(60_000));
    let server = dated("Last-Modified: Mon, 01 Jan 2029 00:00:00 GMT\r\n", 200_000);
    assert!(read(&plain(), &location(&format!("{}/x", server.url()))).unwrap() == bytes(200_000));
    let seen = server.seen();
    assert!(seen[1].header("if-unmodified-since").is_some());
}

#[test]
fn server_without_ranges_is_read_otherwise() {
    let without = |length: usize, announce: bool| {
        let object = bytes(length);
        WebServer::start(move |_| {
            let length = if announce {
                format!("Content-Length: {}\r\n", object.len())
            } else {
                String::new()
            };
            let mut answer =
                format!("HTTP/1.1 200 OK\r\nETag: \"one\"\r\n{length}Connection: close\r\n\r\n")
                    .into_bytes();
            answer.extend_from_slice(&object);
            vec![Step::Send(answer)]
        })
    };
    for length in [1, 65_536, 400_000] {
        let server = without(length, true);
        let name = location(&format!("{}/x.csv", server.url()));
        assert!(read(&plain(), &name).unwrap() == bytes(length), "{length}");
    }
    match cause(&plain(), &without(17 * 1024 * 1024, true)) {
        Cause::NoRanges { size } => assert_eq!(size, 17 * 1024 * 1024),
        other => panic!("{other}"),
    }
    assert_eq!(cause(&plain(), &without(1000, false)), Cause::NoLength);
}

#[test]
fn redirect_is_followed_with_what_was_signed_or_out_of_tls() {
    let elsewhere = WebServer::of(bytes(100));
    let to = elsewhere.url();
    let server = WebServer::start(move |seen| {
        status("302 Found", &format!("Location: {to}{}\r\n", seen.target))
    });
    assert_eq!(cause(&plain(), &server), Cause::Redirected { status: 302 });
    assert!(elsewhere.seen().is_empty());
}

#[test]
fn what_was_signed_is_told_by_an_error() {
    let query = "X-Signature=HUNTER2abcdef&expires=1";
    let signed = || {
        storage(Credentials {
            https_query: Some(credential(query)),
            ..Credentials::default()
        })
    };
    let server = WebServer::of(bytes(200_000));
    let name = location(&format!("{}/x.csv", server.url()));
    assert!(read(&signed(), &name).unwrap() == bytes(200_000));
    assert!(
        server
            .seen()
            .iter()
            .all(|seen| seen.target == format!("/x.csv?{query}"))
    );

    // As storages do, every refusal repeats what was asked, wherever it may.
    let echoing = |line: &'static str| {
        WebServer::start(move |seen| {
            let body = format!(
                "<Error><Code>HUNTER</Code><Message>{}</Message></Error>",
                seen.target
            );
            let head = format!(
                "HTTP/1.1 {line}\r\nx-ms-error-code: HUNTER\r\nLocation: {target}\r\nETag: {target}\r\nContent-Range: {target}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len(),
                target = seen.target
            );
            vec![Step::Send(head.into_bytes())]
        })
    };
    for line in [
        "403 Forbidden",
        "400 HUNTER2abcdef",
        "500 Oh",
        "302 Found",
        "206 Partial Content",
        "200 OK",
        "404 None",
        "412 No",
        "416 No",
    ] {
        let server = echoing(line);
        let name = location(&format!("{}/x.csv", server.url()));
        let failed = match signed().reader(&name) {
            Err(error) => error,
            // A whole answer of a server without ranges is an object like any other.
            Ok(_) if line == "200 OK" => continue,
            Ok(_) => panic!("{line} was read"),
        };
        assert_kept(&failed, &["HUNTER", "X-Signature"]);
        let error = std::io::Error::from(failed);
        assert_kept(&error, &["HUNTER", "X-Signature"]);
    }
    for broken in [
        WebServer::start(|_| vec![]),
        WebServer::start(|_| vec![Step::Send(b"HUNTER2abcdef is no HTTP\r\n\r\n".to_vec())]),
        WebServer::start(|seen| status(&format!("999{}", seen.target), "")),
    ] {
        let name = location(&format!("{}/x.csv", broken.url()));
        let failed = signed().reader(&name).err().unwrap();
        assert_kept(&failed, &["HUNTER", "X-Signature"]);
    }
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let name = location(&format!("http://{}/x.csv", closed.local_addr().unwrap()));
    drop(closed);
    let failed = signed().reader(&name).err().unwrap();
    assert!(
        matches!(failed.cause, Cause::Unreachable { attempts: 4, .. }),
        "{failed}"
    );
    assert_kept(&failed, &["HUNTER", "X-Signature"]);
}

#[test]
fn plain_server_passes_for_one_with_tls() {
    let server = WebServer::of(bytes(10));
    let name = location(&format!("{}/x", server.url().replace("http:", "https:")));
    let failed = plain().reader(&name).err().unwrap();
    assert!(
        matches!(
            failed.cause,
            Cause::Untrusted { .. } | Cause::Unreachable { .. }
        ),
        "{failed}"
    );
}

#[test]
fn web_server_is_listed() {
    let storage = plain();
    let one = location("https://host/x/y.csv");
    assert_eq!(storage.list(&one).unwrap()[0].location, one);
}
