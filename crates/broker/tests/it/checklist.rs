//! What a KBS must do so that upstream's guests and clients work against it, line by line, where no other file shows it.
//!
//! Elsewhere: versions, `extra-params` and the nonce in `attest.rs`; what is hashed in `recorded.rs`, with upstream's own
//! bytes; 404 and 403 in `release.rs`; the import of upstream's stores in `sources.rs`.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use reqwest::{Method, StatusCode};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use strongroom_verifier::AppraisalPolicy;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Guest, Running};

fn part(token: &str, number: usize) -> Value {
    let part = token.split('.').nth(number).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[tokio::test]
async fn token_lacks_a_claim_that_upstream_reads() {
    let broker = Running::development().await;
    let (_, token) = broker.attest(&Guest::new()).await;
    let payload = part(&token, 1);
    assert_eq!(
        payload["eat_profile"],
        "tag:github.com,2024:confidential-containers/Trustee"
    );
    let life = payload["exp"].as_u64().unwrap() - payload["iat"].as_u64().unwrap();
    assert_eq!(life, 300);
    for claim in ["iss", "ear.verifier-id"] {
        assert!(!payload[claim].is_null(), "{claim}");
    }
    // Upstream checks no audience, and a token of a session has none.
    assert!(payload["aud"].is_null());
    let cpu = &payload["submods"]["cpu0"];
    assert_eq!(cpu["ear.status"], "affirming");
    assert_eq!(cpu["ear.appraisal-policy-id"], "default");
    let vector = cpu["ear.trustworthiness-vector"].as_object().unwrap();
    assert_eq!(vector.len(), 8);
    assert!(vector.values().all(Value::is_i64));
    let evidence = &cpu["ear.veraison.annotated-evidence"];
    for claim in ["sample", "report_data", "runtime_data_claims"] {
        assert!(!evidence[claim].is_null(), "{claim}");
    }
    for claim in ["nonce", "tee-pubkey", "additional-evidence"] {
        assert!(!evidence["runtime_data_claims"][claim].is_null(), "{claim}");
    }
}

#[tokio::test]
async fn header_of_a_token_carries_no_certificate() {
    let broker = Running::development().await;
    let (_, token) = broker.attest(&Guest::new()).await;
    let header = part(&token, 0);
    assert_eq!(
        (&header["typ"], &header["alg"]),
        (&json!("JWT"), &json!("ES256"))
    );
    let jwk = &header["jwk"];
    assert_eq!((&jwk["kty"], &jwk["crv"]), (&json!("EC"), &json!("P-256")));
    let leaf = jwk["x5c"][0].as_str().unwrap();
    let leaf = CertificateDer::from(STANDARD.decode(leaf).unwrap());
    let chain = broker.summary.config.with_file_name("token.crt");
    let kept = CertificateDer::from_pem_file(chain).unwrap();
    assert_eq!(leaf, kept);
    let point = |name: &str| URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap();
    let point = [point("x"), point("y")].concat();
    assert!(leaf.windows(point.len()).any(|bytes| bytes == point));
}

#[tokio::test]
async fn encrypted_answer_has_its_header_in_another_order() {
    let broker = Running::development().await;
    broker.put("a/b/c", "secret").await;
    let (cookie, _) = broker.attest(&Guest::new()).await;
    let answer = broker.get_with_cookie("a/b/c", &cookie).await;
    let jwe = answer.expect(StatusCode::OK).json();
    let members: BTreeSet<&str> = jwe
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let flattened = ["ciphertext", "encrypted_key", "iv", "protected", "tag"];
    assert_eq!(members, BTreeSet::from(flattened));
    let protected = jwe["protected"].as_str().unwrap();
    let protected = URL_SAFE_NO_PAD.decode(protected).unwrap();
    // Upstream's client prints the header again to check it: in this order, without blanks.
    let start = br#"{"alg":"ECDH-ES+A256KW","enc":"A256GCM","epk":{"crv":"P-256","kty":"EC","x":"#;
    assert!(protected.starts_with(start));
    for (member, length) in [("encrypted_key", 40), ("iv", 12), ("tag", 16)] {
        let bytes = URL_SAFE_NO_PAD.decode(jwe[member].as_str().unwrap());
        assert_eq!(bytes.unwrap().len(), length, "{member}");
    }
}

#[tokio::test]
async fn query_of_a_read_does_not_reach_the_policy() {
    let broker = Running::development().await;
    broker.put("a/b/c", "secret").await;
    broker
        .set_policy(
            "package policy\nimport rego.v1\ndefault allow := false\n\
             allow if { data.query.purpose == \"train the model\"; data.query.flag == \"\" }\n",
        )
        .await;
    let guest = Guest::new();
    let (_, token) = broker.attest(&guest).await;
    for (query, released) in [
        ("?purpose=train+the+model&flag=&anything=%00%ff", true),
        ("?flag&purpose=train%20the%20model", true),
        ("?purpose=another&flag=", false),
        ("", false),
    ] {
        let answer = broker
            .get_with_token(&format!("a/b/c{query}"), &token)
            .await;
        let wanted = match released {
            true => StatusCode::OK,
            false => StatusCode::FORBIDDEN,
        };
        assert_eq!(answer.status, wanted, "{query}");
    }
}

#[tokio::test]
async fn writes_are_answered_with_another_emptiness() {
    let broker = Running::strict().await;
    let rego = "package policy\nimport rego.v1\ndefault allow := false\n";
    let values =
        json!({"version": "0.1.0", "type": "sample", "payload": STANDARD.encode(r#"{"a": 1}"#)});
    for (method, path, body, kind) in [
        (
            Method::POST,
            "/kbs/v0/resource/a/b/c",
            "x".to_owned(),
            Some("text/xml"),
        ),
        (
            Method::DELETE,
            "/kbs/v0/resource/a/b/c",
            String::new(),
            Some("text/xml"),
        ),
        (
            Method::POST,
            "/kbs/v0/resource-policy",
            json!({"policy": URL_SAFE_NO_PAD.encode(rego)}).to_string(),
            None,
        ),
        (
            Method::POST,
            "/kbs/v0/reference-value",
            values.to_string(),
            Some("application/json"),
        ),
    ] {
        let answer = broker.admin(method, path, body).await;
        let answer = answer.expect(StatusCode::OK);
        assert!(answer.body.is_empty(), "{path}");
        assert_eq!(answer.content_type.as_deref(), kind, "{path}");
    }
}

#[tokio::test]
async fn policies_are_taken_in_another_base64_than_upstreams() {
    let broker = Running::strict().await;
    // 0x3e and 0x3f, and a length that wants padding.
    let rego = "package policy\nimport rego.v1\ndefault allow := false\n# ~~~???>>> \u{ff}\n##";
    let (bare, padded) = (URL_SAFE_NO_PAD.encode(rego), URL_SAFE.encode(rego));
    assert!(bare != padded && bare.contains(['-', '_']));
    for policy in [&bare, &padded] {
        let body = json!({"policy": policy, "type": "rego"}).to_string();
        let answer = broker
            .admin(Method::POST, "/kbs/v0/resource-policy", body)
            .await;
        answer.expect(StatusCode::OK);
    }
    let body = json!({"policy": STANDARD.encode(rego)}).to_string();
    let answer = broker
        .admin(Method::POST, "/kbs/v0/resource-policy", body)
        .await;
    answer.refused(StatusCode::BAD_REQUEST, "SerdeError");
    let listed = broker
        .admin(Method::GET, "/kbs/v0/resource-policy", "")
        .await;
    assert_eq!(
        listed.expect(StatusCode::OK).json(),
        json!(["resource-policy"])
    );
}

#[tokio::test]
async fn policy_of_upstreams_form_finds_no_reference_value() {
    let broker = Running::accepting_sample().await;
    broker.register_reference_values().await;
    // As upstream writes them: the hyphenated names as strings, the input under the platform's name.
    let rego = "package policy\nimport rego.v1\ndefault executables := 33\n\
        executables := 3 if { input.sample.launch_digest in query_reference_value(\"launch_digest\") }\n\
        default hardware := 97\n\
        hardware := 2 if { query_reference_value(\"no_such_value\") == null }\n\
        trust_claims := {\"executables\": executables, \"hardware\": hardware}\n\
        extensions := [{\"name\": \"ear.trustee.identifiers\", \"key\": -1, \"value\": {\"validated\": {}}}]\n";
    let body =
        json!({"policy_id": "default_cpu", "type": "rego", "policy": URL_SAFE_NO_PAD.encode(rego)});
    let path = "/kbs/v0/attestation-policy";
    let answer = broker.admin(Method::POST, path, body.to_string()).await;
    answer.expect(StatusCode::OK);
    let (_, token) = broker.attest(&Guest::new()).await;
    let cpu = part(&token, 1)["submods"]["cpu0"].clone();
    assert_eq!(cpu["ear.trustworthiness-vector"]["executables"], 3);
    assert_eq!(cpu["ear.trustworthiness-vector"]["hardware"], 2);
    assert_eq!(cpu["ear.trustee.identifiers"], json!({"validated": {}}));
}

#[test]
fn default_policy_asks_for_values_by_other_names_than_upstreams() {
    let asked = AppraisalPolicy::default_cpu().asked_reference_values();
    for name in [
        "launch_digest",
        "svn",
        "snp_launch_measurement",
        "snp_bootloader",
        "snp_microcode",
        "snp_snp_svn",
        "snp_tee_svn",
        "mr_td",
        "xfam",
        "tdx_pcr11",
        "tpm_pcr11",
    ] {
        assert!(asked.contains_key(name), "{name}: {asked:?}");
    }
}

#[tokio::test]
async fn error_has_no_body_or_another_kind_of_body() {
    let broker = Running::strict().await;
    for (method, path, body, status, kind) in [
        (Method::POST, "/kbs/v0/auth", "{", 400, "SerdeError"),
        (Method::POST, "/kbs/v0/attest", "", 400, "SerdeError"),
        (
            Method::GET,
            "/kbs/v0/resource/a/b/c",
            "",
            401,
            "TokenNotFound",
        ),
        (
            Method::POST,
            "/kbs/v0/resource/a/b/c",
            "x",
            401,
            "AdminAuthAccess",
        ),
        (
            Method::GET,
            "/kbs/v0/nebula-ca/credential",
            "",
            404,
            "PluginNotFound",
        ),
        (Method::PATCH, "/kbs/v0/auth", "", 405, "MethodNotAllowed"),
        (
            Method::GET,
            "/kbs/v0/reference-value/%ff",
            "",
            401,
            "AdminAuthAccess",
        ),
    ] {
        let request = broker.request(method, path).body(body);
        let answer = crate::support::Answer::of(request.send().await.unwrap()).await;
        answer.refused(StatusCode::from_u16(status).unwrap(), kind);
    }
}

/// Hyper answers what it cannot read before any of our code runs, and offers no hook: the status is right, and there is
/// no body. Upstream's clients send no such request.
#[tokio::test]
async fn head_that_cannot_be_read_is_answered_with_more_than_a_status() {
    let tls = |config: String| {
        let mut lines: Vec<&str> = config.lines().collect();
        let at = lines.iter().position(|line| *line == "[tls]").unwrap();
        lines.drain(at..at + 3);
        format!("insecure_http = true\n{}\n", lines.join("\n"))
    };
    let broker = Running::start(tls).await;
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(70_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(200));
    for (head, status) in [
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n", "400"),
        (long.as_str(), "414"),
        (many.as_str(), "431"),
    ] {
        let mut stream = TcpStream::connect(broker.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // The rest of the request is unread, so the connection may be reset after the answer.
        stream.read_to_end(&mut answer).await.unwrap_or_default();
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    }
}
