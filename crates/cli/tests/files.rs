//! `keygen`, `encrypt` and `decrypt` as programs: what they write, what they refuse, and what they leave after a refusal.

#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use strongroom_cipherfile::tink_stream::SEGMENT_SIZE;
use strongroom_testkit::fixtures::{fixture, peer};
use strongroom_testkit::process::Program;

use support::{Place, document, printed};

/// A place with a data key, a recipient's key pair, and another of each.
fn place_with_keys() -> Place {
    let place = Place::new();
    for key in ["data.key", "other.key"] {
        place.ok(&["keygen", key]);
    }
    for key in ["owner.pem", "other.pem"] {
        place.ok(&["keygen", key, "--kind", "recipient"]);
    }
    place
}

/// Both ways to encrypt: the options that encrypt, those that decrypt, and those of somebody else.
const WAYS: [[[&str; 2]; 3]; 2] = [
    [
        ["--key", "data.key"],
        ["--key", "data.key"],
        ["--key", "other.key"],
    ],
    [
        ["--to", "owner.pem.pub.json"],
        ["--identity", "owner.pem"],
        ["--identity", "other.pem"],
    ],
];

fn plaintext(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn private_key_is_readable_by_others() {
    let place = Place::new();
    place.ok(&["keygen", "data.key"]);
    place.ok(&["keygen", "owner.pem", "--kind", "recipient"]);
    place.ok(&["keygen", "signing.jwk", "--kind", "signing"]);
    for private in ["data.key", "owner.pem", "signing.jwk"] {
        assert_eq!(mode(&place.join(private)), 0o600, "{private}");
    }
    assert_eq!(place.read("data.key").len(), 32);
    assert_eq!(
        place.listing(),
        [
            "data.key",
            "owner.pem",
            "owner.pem.pub.json",
            "signing.jwk",
            "signing.jwk.pub.json"
        ]
    );
    for public in ["owner.pem.pub.json", "signing.jwk.pub.json"] {
        let text = String::from_utf8(place.read(public)).unwrap();
        assert!(!text.contains("\"d\""), "{public} has a private member");
    }
}

#[test]
fn keygen_overwrites_a_key() {
    let place = Place::new();
    for args in [
        &["keygen", "data.key"][..],
        &["keygen", "owner.pem", "--kind", "recipient"],
        &["keygen", "signing.jwk", "--kind", "signing"],
    ] {
        place.ok(args);
        let before = place.read(args[1]);
        assert!(place.refused(args).contains("--force"));
        assert_eq!(place.read(args[1]), before);
        place.ok(&[args, &["--force"]].concat());
        assert_ne!(place.read(args[1]), before);
    }
}

#[test]
fn keygen_puts_a_new_private_key_beside_an_old_public_one() {
    let place = Place::new();
    for kind in ["recipient", "signing"] {
        place.write("key.pub.json", "somebody relies on this one");
        assert!(
            place
                .refused(&["keygen", "key", "--kind", kind])
                .contains("key.pub.json")
        );
    }
}

#[test]
fn keygen_mixes_a_key_with_words() {
    let place = Place::new();
    assert_eq!(place.ok(&["keygen", "-"]).stdout.len(), 32);
    // A pair is two files, and there is one standard output.
    place.refused(&["keygen", "-", "--kind", "recipient"]);
    place.refused(&["keygen", "-", "--kind", "signing"]);
}

#[test]
fn round_trip_changes_the_file() {
    let place = place_with_keys();
    let first = SEGMENT_SIZE - 56; // header and tag are in the first segment
    for length in [0, 1, first, first + 1, 3 * SEGMENT_SIZE] {
        place.write("data.bin", plaintext(length));
        for [to, from, _] in WAYS {
            let encrypted = document(&place.ok(&["encrypt", "data.bin", "--json", to[0], to[1]]));
            assert_eq!(encrypted["bytes"], length);
            assert_eq!(encrypted["name"], "data.bin");
            place.ok(&["decrypt", "data.bin.enc", "-o", "back", from[0], from[1]]);
            assert!(place.read("back") == plaintext(length), "{length} {to:?}");
            assert_eq!(mode(&place.join("back")), 0o600);
            for file in ["data.bin.enc", "back"] {
                std::fs::remove_file(place.join(file)).unwrap();
            }
        }
    }
}

#[test]
fn pipe_changes_the_file() {
    let place = place_with_keys();
    let plain = plaintext(2 * SEGMENT_SIZE + 5);
    let before = place.listing();
    for [to, from, _] in WAYS {
        let encrypted = place
            .program(&["encrypt", "-", to[0], to[1]])
            .input(plain.clone())
            .run()
            .unwrap()
            .expect_success();
        let decrypted = place
            .program(&["decrypt", "-", from[0], from[1]])
            .input(encrypted.stdout)
            .run()
            .unwrap()
            .expect_success();
        assert!(decrypted.stdout == plain, "{to:?}");
    }
    assert_eq!(place.listing(), before);
}

#[test]
fn decrypt_without_an_output_name_writes_elsewhere() {
    let place = place_with_keys();
    place.write("data.csv", "x");
    place.ok(&["encrypt", "data.csv", "--key", "data.key"]);
    std::fs::remove_file(place.join("data.csv")).unwrap();
    place.ok(&["decrypt", "data.csv.enc", "--key", "data.key"]);
    assert_eq!(place.read("data.csv"), b"x");
    std::fs::rename(place.join("data.csv.enc"), place.join("data.bin")).unwrap();
    let said = place.refused(&["decrypt", "data.bin", "--key", "data.key"]);
    assert!(said.contains("--output"), "{said}");
}

#[test]
fn changed_file_is_handed_on() {
    let place = place_with_keys();
    place.write("data.bin", plaintext(4 * SEGMENT_SIZE));
    for [to, from, _] in WAYS {
        place.ok(&["encrypt", "data.bin", to[0], to[1]]);
        let whole = place.read("data.bin.enc");
        let end = whole.len();
        // The Tink stream ends the file; what is before it is the recipients' header.
        let start = end - (4 * SEGMENT_SIZE + 40 + 5 * 16);

        let mut faults: Vec<(String, Vec<u8>)> = Vec::new();
        for at in [0, 1, start, start + 7, start + 50, end / 2, end - 1] {
            let mut file = whole.clone();
            file[at] ^= 1;
            faults.push((format!("bit flipped at {at}"), file));
        }
        let segment = |number: usize| start + number * SEGMENT_SIZE;
        for kept in [
            0,
            4,
            start,
            start + 39,
            segment(1),
            segment(2) + 9,
            segment(3),
            segment(4),
            end - 1,
        ] {
            faults.push((format!("cut to {kept}"), whole[..kept].to_vec()));
        }
        faults.push(("longer".to_owned(), [&whole[..], b"x"].concat()));
        let mut swapped = whole.clone();
        let (one, two) = swapped[segment(1)..segment(3)].split_at_mut(SEGMENT_SIZE);
        one.swap_with_slice(two);
        faults.push(("segments swapped".to_owned(), swapped));
        let dropped = [&whole[..segment(2)], &whole[segment(3)..]].concat();
        faults.push(("segment missing".to_owned(), dropped));
        let repeated = [&whole[..segment(2)], &whole[segment(1)..]].concat();
        faults.push(("segment twice".to_owned(), repeated));

        for (fault, file) in faults {
            place.write("data.bin.enc", file);
            let args = ["decrypt", "data.bin.enc", "-o", "back", from[0], from[1]];
            let said = place.refused(&args);
            assert!(said.contains("data.bin.enc"), "{to:?} {fault}: {said}");
        }
        std::fs::remove_file(place.join("data.bin.enc")).unwrap();
    }
}

#[test]
fn standard_output_gets_bytes_past_the_fault() {
    let place = place_with_keys();
    let plain = plaintext(4 * SEGMENT_SIZE);
    place.write("data.bin", &plain);
    place.ok(&["encrypt", "data.bin", "--key", "data.key"]);
    let mut file = place.read("data.bin.enc");
    file[2 * SEGMENT_SIZE + 1000] ^= 0x80;
    place.write("data.bin.enc", file);
    for json in [&[][..], &["--json"]] {
        let args = ["decrypt", "data.bin.enc", "-o", "-", "--key", "data.key"];
        let finished = place.run(&[&args, json].concat());
        assert_eq!(finished.status.code(), Some(1));
        assert!(finished.stderr_text().contains("segment 2"));
        // Nor does the error mix with the bytes.
        assert!(finished.stdout.len() < 2 * SEGMENT_SIZE);
        assert!(plain.starts_with(&finished.stdout));
    }
}

#[test]
fn file_opens_under_another_name_or_key() {
    let place = place_with_keys();
    place.write("data.bin", "content");
    for [to, from, other] in WAYS {
        place.ok(&["encrypt", "data.bin", "--force", to[0], to[1]]);
        let open = ["decrypt", "data.bin.enc", "-o", "back"];
        place.refused(&[&open[..], &from, &["--name", "other.bin"]].concat());
        place.refused(&[&open[..], &other].concat());
        let said = place.refused(&open);
        assert!(said.contains("is encrypted: give its key"), "{said}");
        // Renamed, it does not open, but under the name it was given.
        std::fs::rename(place.join("data.bin.enc"), place.join("renamed.enc")).unwrap();
        let open = ["decrypt", "renamed.enc", "-o", "back"];
        place.refused(&[&open[..], &from].concat());
        place.ok(&[&open[..], &from, &["--name", "data.bin", "--force"]].concat());
        assert_eq!(place.read("back"), b"content");
        std::fs::remove_file(place.join("back")).unwrap();
    }
}

#[test]
fn wrong_kind_of_key_is_not_named() {
    let place = place_with_keys();
    place.write("data.bin", "content");
    let [[to_key, ..], [to_recipient, ..]] = WAYS;
    place.ok(&["encrypt", "data.bin", "-o", "k.enc", to_key[0], to_key[1]]);
    place.ok(&[
        "encrypt",
        "data.bin",
        "-o",
        "r.enc",
        to_recipient[0],
        to_recipient[1],
    ]);
    let said = place.refused(&["decrypt", "k.enc", "--identity", "owner.pem"]);
    assert!(said.contains("--key"), "{said}");
    let said = place.refused(&["decrypt", "r.enc", "--key", "data.key"]);
    assert!(said.contains("--identity"), "{said}");
    let said = place.refused(&["decrypt", "r.enc", "--identity", "data.key"]);
    assert!(said.contains("not a recipient's private key"), "{said}");
    let said = place.refused(&["encrypt", "data.bin", "--to", "owner.pem"]);
    assert!(said.contains("not a recipient's public key"), "{said}");
}

#[test]
fn the_command_that_is_named_next_does_not_open_the_file() {
    let place = place_with_keys();
    place.write("data.bin", "content");
    for args in [
        &["encrypt", "data.bin", "-o", "data.bin.enc"][..],
        &["encrypt", "data.bin", "-o", "elsewhere"],
        &["encrypt", "data.bin", "-o", "named.enc", "--name", "june's"],
    ] {
        let said = place.ok(&[args, &["--key", "data.key"]].concat());
        let said = said.stdout_text();
        let next = said.lines().last().unwrap().trim();
        let words = next.strip_prefix("strongroom ").unwrap();
        let words = words.replace("KEY", "data.key").replace("FILE", "back");
        let script = format!("exec \"$0\" {words}");
        let opened = Program::new("/bin/sh")
            .args(["-c", &script])
            .arg(support::binary())
            .folder(place.path())
            .run();
        let said = printed(&opened.unwrap().expect_success());
        assert!(said.contains("Decrypted 7 bytes"), "{said}");
        assert_eq!(place.read("back"), b"content");
        std::fs::remove_file(place.join("back")).unwrap();
    }
}

#[test]
fn key_of_31_bytes_is_taken() {
    let place = Place::new();
    place.write("data.bin", "content");
    for length in [0, 31, 33, 64] {
        place.write("short.key", plaintext(length));
        let said = place.refused(&["encrypt", "data.bin", "--key", "short.key"]);
        let expected = format!("has {length} bytes, not the 32 raw bytes");
        assert!(said.contains(&expected), "{said}");
    }
    let said = place.refused(&["encrypt", "data.bin", "--key", "none.key"]);
    assert!(said.contains("none.key"), "{said}");
    place.refused(&["encrypt", "none.bin", "--key", "short.key"]);
    std::fs::create_dir(place.join("folder")).unwrap();
    let said = place.refused(&["encrypt", "folder", "--key", "short.key"]);
    assert!(said.contains("folder"), "{said}");
}

#[test]
fn existing_file_is_replaced_unasked_or_by_a_failure() {
    let place = place_with_keys();
    place.write("data.bin", "new");
    place.write("data.bin.enc", "old");
    let encrypt = ["encrypt", "data.bin", "--key", "data.key"];
    assert!(place.refused(&encrypt).contains("--force"));
    assert_eq!(place.read("data.bin.enc"), b"old");
    place.ok(&[&encrypt[..], &["--force"]].concat());

    place.write("back", "old");
    let decrypt = ["decrypt", "data.bin.enc", "-o", "back", "--key"];
    assert!(
        place
            .refused(&[&decrypt[..], &["data.key"]].concat())
            .contains("--force")
    );
    place.refused(&[&decrypt[..], &["other.key", "--force"]].concat());
    assert_eq!(place.read("back"), b"old");
    place.ok(&[&decrypt[..], &["data.key", "--force"]].concat());
    assert_eq!(place.read("back"), b"new");
}

#[test]
fn force_replaces_what_is_no_file() {
    let place = place_with_keys();
    place.write("data.bin", "content");
    place.write("target", "precious");
    std::fs::create_dir(place.join("folder")).unwrap();
    std::os::unix::fs::symlink("target", place.join("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", place.join("dangling")).unwrap();
    // As /dev/null is, and a machine without that is no fun.
    support::fifo(&place.join("fifo"));
    for target in ["folder", "link", "dangling", "fifo"] {
        for force in [&[][..], &["--force"]] {
            let args = ["encrypt", "data.bin", "--key", "data.key", "-o", target];
            place.refused(&[&args[..], force].concat());
        }
    }
    assert!(place.join("link").is_symlink());
    assert!(!place.join("fifo").is_file());
}

#[test]
fn json_is_not_one_document() {
    let place = place_with_keys();
    place.write("data.bin", "content");
    let encrypt = ["encrypt", "data.bin", "--key", "data.key", "--json"];
    let encrypted = place.ok(&encrypt);
    assert_eq!(document(&encrypted)["output"], "data.bin.enc");
    assert!(encrypted.stderr.is_empty());
    for args in [
        &encrypt[..],
        &["--json", "decrypt", "data.bin.enc", "--key", "other.key"],
        &["--json", "decrypt", "none.enc", "--key", "data.key"],
        &["--json", "keygen", "data.key"],
    ] {
        let finished = place.run(args);
        assert_eq!(finished.status.code(), Some(1));
        let document = document(&finished);
        assert!(document["error"].is_string(), "{document}");
        assert!(document["causes"].is_array(), "{document}");
        // Once is enough.
        assert!(!finished.stderr_text().contains("error"));
    }
}

#[test]
fn wrong_command_line_passes_for_a_failure() {
    let place = place_with_keys();
    for args in [
        &["encrypt", "data.bin"][..],
        &["encrypt"],
        &["decrypt", "x.enc", "--key", "a", "--identity", "b"],
        &["encrypt", "x", "--key", "a", "--to", "b"],
        &["decrypt", "x.enc", "--key", "kbs:///only/two"],
        &["keygen", "x", "--kind", "none"],
    ] {
        let finished = place.run(args);
        assert_eq!(finished.status.code(), Some(2), "{args:?}");
        assert!(finished.stdout.is_empty(), "{args:?}");
        assert!(finished.stderr_text().contains("--help"), "{args:?}");
    }
}

const OPENSSL: [(&str, &str); 2] = [("cfb", "openssl-aes256-cfb"), ("cbc", "openssl-aes256-cbc")];

#[test]
fn openssl_and_the_program_do_not_read_each_other() {
    let Some(openssl) = peer("openssl") else {
        return;
    };
    let place = Place::new();
    place.write("data.csv", plaintext(100_001));
    place.write("pass.txt", "correct horse battery\n");
    for (cipher, form) in OPENSSL {
        let enc = |direction: &str, from: &str, to: &str| {
            let cipher = format!("-aes-256-{cipher}");
            let args = ["enc", &cipher, direction, "-pbkdf2", "-kfile", "pass.txt"];
            Program::new(&openssl)
                .args(args)
                .args(["-in", from, "-out", to])
                .folder(place.path())
                .run()
                .unwrap()
                .expect_success()
        };
        let key = ["--key", "pass.txt", "--force"];
        enc("-e", "data.csv", "theirs.enc");
        let decrypt = ["decrypt", "theirs.enc", "-o", "back"];
        let args = [&decrypt[..], &key, &["--openssl-cipher", cipher]].concat();
        let finished = place.ok(&args);
        assert!(finished.stderr_text().contains("not authenticated"));
        assert!(place.read("back") == plaintext(100_001), "{cipher}");
        let said = place.refused(&[&decrypt[..], &key].concat());
        assert!(said.contains("--openssl-cipher"), "{said}");

        let encrypt = ["encrypt", "data.csv", "-o", "ours.enc", "--format", form];
        let finished = place.ok(&[&encrypt[..], &key].concat());
        assert!(finished.stderr_text().contains("not protected"));
        enc("-d", "ours.enc", "again");
        assert!(place.read("again") == plaintext(100_001), "{cipher}");
    }
}

#[test]
fn openssl_vector_does_not_decrypt_or_its_key_is_not_warned_of() {
    let Some(folder) = fixture("workload/openssl-vectors") else {
        return;
    };
    let place = Place::new();
    let plain = std::fs::read(folder.join("plain.csv")).unwrap();
    let mut seen = 0;
    for name in support::listing(&folder) {
        let Some(rest) = name.strip_prefix("plain.csv.") else {
            continue;
        };
        let (key, rest) = rest.split_once(".aes-256-").unwrap();
        let cipher = rest.strip_suffix(".enc").unwrap();
        let (file, key_file) = (folder.join(&name), folder.join(format!("{key}.key")));
        let args = ["decrypt", "--force", "-o", "back", "--json"];
        let finished = place
            .program(&args)
            .arg(&file)
            .arg("--key")
            .arg(&key_file)
            .args(["--openssl-cipher", cipher])
            .run()
            .unwrap()
            .expect_success();
        assert!(place.read("back") == plain, "{name}");
        let warnings = document(&finished)["warnings"].as_array().unwrap().len();
        let cut = ["long128", "newline_at_5", "nul_at_7"].contains(&key);
        assert_eq!(warnings, 1 + usize::from(cut), "{name}");
        let said = finished.stderr_text();
        assert!(said.contains("warning: "), "{name}: {said}");
        assert_eq!(said.contains("reads only the first"), cut, "{name}: {said}");
        seen += 1;
    }
    assert_eq!(seen, 10);
}

#[test]
fn cut_cbc_file_leaves_its_beginning() {
    let place = place_with_keys();
    place.write("pass.txt", "correct horse battery\n");
    place.write("data.csv", plaintext(100_000));
    let form = ["--format", "openssl-aes256-cbc"];
    place.ok(&[&["encrypt", "data.csv", "--key", "pass.txt"], &form[..]].concat());
    let whole = place.read("data.csv.enc");
    for kept in [8, 16, 50_003] {
        place.write("data.csv.enc", &whole[..kept]);
        let decrypt = ["decrypt", "data.csv.enc", "-o", "back", "--key", "pass.txt"];
        place.refused(&[&decrypt[..], &["--openssl-cipher", "cbc"]].concat());
    }
}

#[test]
fn openssl_cipher_is_taken_for_a_file_that_has_none() {
    let place = place_with_keys();
    place.write("data.bin", "content");
    place.ok(&["encrypt", "data.bin", "--key", "data.key"]);
    let decrypt = ["decrypt", "data.bin.enc", "-o", "back", "--key", "data.key"];
    let said = place.refused(&[&decrypt[..], &["--openssl-cipher", "cfb"]].concat());
    assert!(said.contains("Salted__"), "{said}");
}

#[test]
fn plain_file_passes_for_a_decrypted_one() {
    let place = place_with_keys();
    place.write("data.enc", "a,b\n1,2\n");
    for key in [
        &["--key", "data.key"][..],
        &["--identity", "owner.pem"],
        &[],
    ] {
        place.refused(&[&["decrypt", "data.enc"][..], key].concat());
    }
}

#[test]
fn closed_pipe_is_a_panic() {
    let place = place_with_keys();
    place.write("data.bin", plaintext(4 * SEGMENT_SIZE));
    let script = "\"$0\" encrypt data.bin -o - --key data.key | head -c 10 >/dev/null; \
                  \"$0\" generate --rows 100000 | head -n 1 >/dev/null; \
                  \"$0\" score --workshop --insecure-print-rows | head -n 1 >/dev/null; \
                  \"$0\" demo --rows 10 | head -n 1 >/dev/null";
    let finished = Program::new("/bin/sh")
        .args(["-c", script])
        .arg(support::binary())
        .folder(place.path())
        .env("TMPDIR", place.path())
        .run()
        .unwrap()
        .expect_success();
    let said = printed(&finished);
    assert!(!said.contains("panicked"), "{said}");
    assert!(!said.contains("could not remove"), "{said}");
}
