//! The `OpenAPI` 3.1 document of every route: one table of operations, the schemas of what travels, and `/openapi.json`.
//!
//! The document is made once, from this table alone. That it has every route and no other, and that the answers are what
//! it says, is tested against the running broker (`tests/it/openapi.rs`).

use std::sync::LazyLock;

use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use strongroom_wire::kbs::{EVENT_HEADER, PROTOCOL_VERSION, SESSION_COOKIE, TOKEN_ID_HEADER};
use strongroom_wire::tee::Tee;

/// Gives the document. It is the same for everybody.
pub(crate) async fn show() -> Response {
    const JSON: [(HeaderName, &str); 1] = [(CONTENT_TYPE, "application/json")];
    (JSON, DOCUMENT.as_str()).into_response()
}

/// The document, as text.
pub(crate) static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    let mut text = serde_json::to_string_pretty(&document()).unwrap_or_default();
    text.push('\n');
    text
});

fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for operation in OPERATIONS {
        let methods = paths
            .entry(operation.path)
            .or_insert_with(|| Value::Object(path_item(operation.path)));
        methods[operation.method] = operation.describe();
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Strongroom broker",
            "version": env!("CARGO_PKG_VERSION"),
            "description": format!(
                "The KBS attestation protocol {PROTOCOL_VERSION}, the administration of the broker, and the attestation \
                 service's REST, which is there only with `[attestation_service] enabled = true`. A path parameter that \
                 names a resource, a policy or a file may hold slashes."
            ),
        },
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "responses": {"Error": {
                "description": "What went wrong, for programs and for people.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorInformation"}}},
            }},
            "securitySchemes": {
                "admin": {
                    "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
                    "description": "A token that an admin's key signed: good for a minute, and once.",
                },
                "session": {
                    "type": "apiKey", "in": "cookie", "name": SESSION_COOKIE,
                    "description": "The session that /kbs/v0/auth opened.",
                },
                "attestation": {
                    "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
                    "description": "The token that /kbs/v0/attest gave.",
                },
            },
        },
    })
}

/// The parameters in a path, which all its methods share.
fn path_item(path: &str) -> Map<String, Value> {
    let names = path
        .split('{')
        .skip(1)
        .filter_map(|rest| rest.split_once('}'));
    let parameters: Vec<Value> = names
        .map(|(name, _)| {
            let schema = match name {
                "repository" | "type" | "tag" => {
                    json!({"type": "string", "pattern": "^[a-zA-Z0-9_-][a-zA-Z0-9_.-]*$"})
                }
                _ => json!({"type": "string", "minLength": 1}),
            };
            json!({"name": name, "in": "path", "required": true, "schema": schema})
        })
        .collect();
    match parameters.is_empty() {
        true => Map::new(),
        false => Map::from_iter([("parameters".to_owned(), Value::Array(parameters))]),
    }
}

/// One method of one path.
struct Operation {
    method: &'static str,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    who: Who,
    query: &'static [Parameter],
    body: Body,
    answer: Answer,
}

/// Who may ask.
#[derive(Clone, Copy)]
enum Who {
    Anybody,
    Session,
    Guest,
    Admin,
}

/// A part of the query: its name, the schema's type, whether it must be there.
type Parameter = (&'static str, &'static str, bool);

/// What is sent.
#[derive(Clone, Copy)]
enum Body {
    None,
    /// JSON of a schema below.
    Json(&'static str),
    Rego,
    Bytes,
}

/// What comes back with 200.
#[derive(Clone, Copy)]
enum Answer {
    Nothing,
    /// Nothing, as XML: upstream's clients know it so.
    EmptyXml,
    /// Nothing, as JSON: upstream's clients know it so.
    EmptyJson,
    Json(&'static str),
    List(&'static str),
    Text,
    /// Text or bytes, as the path says.
    File,
}

impl Operation {
    fn describe(&self) -> Value {
        let mut operation = json!({
            "operationId": self.id,
            "summary": self.summary,
            "tags": [self.tag()],
            "responses": {
                "200": self.answer.describe(),
                "default": {"$ref": "#/components/responses/Error"},
            },
            "security": match self.who {
                Who::Anybody => json!([]),
                Who::Session => json!([{"session": []}]),
                Who::Guest => json!([{"session": []}, {"attestation": []}]),
                Who::Admin => json!([{"admin": []}]),
            },
        });
        if self.id == "ready" {
            operation["responses"]["503"] = self.answer.describe();
        }
        if self.id == "getResource" {
            let text = |what: &str| json!({"description": what, "schema": {"type": "string"}});
            operation["responses"]["200"]["headers"] = json!({
                EVENT_HEADER: text("The event of the release in the broker's record."),
                TOKEN_ID_HEADER: text("The id of the token on which it was released."),
            });
        }
        if !self.query.is_empty() {
            let parameter = |(name, kind, required): &Parameter| {
                let mut schema = json!({ "type": kind });
                if *kind == "integer" {
                    schema["minimum"] = json!(0);
                    schema["maximum"] = json!(u32::MAX);
                }
                json!({"name": name, "in": "query", "required": required, "schema": schema})
            };
            operation["parameters"] = self.query.iter().map(parameter).collect();
        }
        if let Some((kind, schema)) = self.body.content() {
            operation["requestBody"] =
                json!({"required": true, "content": {kind: {"schema": schema}}});
        }
        operation
    }

    fn tag(&self) -> &'static str {
        let ours = self.path.starts_with("/strongroom/");
        match (self.path.starts_with("/kbs/"), ours) {
            (true, _) => "Key broker",
            (_, true) => "Administration",
            _ => "Attestation service",
        }
    }
}

impl Body {
    fn content(self) -> Option<(&'static str, Value)> {
        match self {
            Self::None => None,
            Self::Json(schema) => Some(("application/json", reference(schema))),
            Self::Rego => Some(("text/plain", json!({"type": "string"}))),
            Self::Bytes => Some((
                "application/octet-stream",
                json!({"type": "string", "minLength": 1}),
            )),
        }
    }
}

impl Answer {
    fn describe(self) -> Value {
        let text = json!({"type": "string"});
        let (description, content) = match self {
            Self::Nothing => return json!({"description": "Done."}),
            Self::EmptyXml => ("Done.", json!({"text/xml": {}})),
            Self::EmptyJson => ("Done.", json!({"application/json": {}})),
            Self::Json(schema) => (
                "What was asked for.",
                json!({"application/json": {"schema": reference(schema)}}),
            ),
            Self::List(schema) => (
                "What there is.",
                json!({"application/json": {"schema": {"type": "array", "items": reference(schema)}}}),
            ),
            Self::Text => (
                "What was asked for.",
                json!({"text/plain": {"schema": text}}),
            ),
            Self::File => (
                "The file.",
                json!({"text/plain": {"schema": text}, "application/octet-stream": {}}),
            ),
        };
        json!({"description": description, "content": content})
    }
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

const fn operation(
    (method, path, id): (&'static str, &'static str, &'static str),
    summary: &'static str,
    who: Who,
    body: Body,
    answer: Answer,
) -> Operation {
    Operation {
        method,
        path,
        id,
        summary,
        who,
        query: &[],
        body,
        answer,
    }
}

impl Operation {
    const fn asking(mut self, query: &'static [Parameter]) -> Self {
        self.query = query;
        self
    }
}

const RESOURCE: &str = "/kbs/v0/resource/{repository}/{type}/{tag}";
const POLICY: &str = "/strongroom/v1/policy/{id}";

/// Every operation, in the order of the router.
const OPERATIONS: &[Operation] = &[
    operation(
        ("post", "/attestation", "evaluate"),
        "Appraises evidence whose freshness the caller vouches for, and gives a token for relying parties elsewhere",
        Who::Anybody,
        Body::Json("AttestationRequest"),
        Answer::Text,
    ),
    operation(
        ("post", "/challenge", "challenge"),
        "Gives what a platform's attester needs before it makes evidence: nothing, for the platforms verified here",
        Who::Anybody,
        Body::Json("ChallengeRequest"),
        Answer::Text,
    ),
    operation(
        ("get", "/policy", "listServicePolicies"),
        "Lists the ids of appraisal policies",
        Who::Anybody,
        Body::None,
        Answer::List("PolicyEntry"),
    ),
    operation(
        ("post", "/policy", "setServicePolicy"),
        "Sets an appraisal policy",
        Who::Admin,
        Body::Json("SetAppraisalPolicy"),
        Answer::Nothing,
    ),
    operation(
        ("get", "/healthz", "health"),
        "Tells that the broker answers",
        Who::Anybody,
        Body::None,
        Answer::Nothing,
    ),
    operation(
        ("get", "/readyz", "ready"),
        "Tells whether the broker can do its work",
        Who::Anybody,
        Body::None,
        Answer::Json("Readiness"),
    ),
    operation(
        ("get", "/strongroom/v1/admin", "listAdmins"),
        "Lists admins",
        Who::Admin,
        Body::None,
        Answer::Json("Any"),
    ),
    operation(
        ("get", "/strongroom/v1/admin/{name}", "adminHistory"),
        "Gives what an admin was and is",
        Who::Admin,
        Body::None,
        Answer::Json("Any"),
    ),
    operation(
        ("put", "/strongroom/v1/admin/{name}", "addAdmin"),
        "Adds an admin, or changes one",
        Who::Admin,
        Body::Json("NewAdmin"),
        Answer::Json("AdminChange"),
    ),
    operation(
        ("delete", "/strongroom/v1/admin/{name}", "revokeAdmin"),
        "Revokes an admin",
        Who::Admin,
        Body::None,
        Answer::Json("AdminChange"),
    ),
    operation(
        ("get", "/openapi.json", "openapi"),
        "Gives this document",
        Who::Anybody,
        Body::None,
        Answer::Json("Any"),
    ),
    operation(
        ("get", "/.well-known/jwks.json", "jwks"),
        "Gives the keys by which tokens are verified",
        Who::Anybody,
        Body::None,
        Answer::Json("Jwks"),
    ),
    operation(
        ("post", "/kbs/v0/auth", "auth"),
        "Opens a session and gives its nonce",
        Who::Anybody,
        Body::Json("Request"),
        Answer::Json("Challenge"),
    ),
    operation(
        ("post", "/kbs/v0/attest", "attest"),
        "Takes evidence and gives a token",
        Who::Session,
        Body::Json("Attestation"),
        Answer::Json("AttestResponse"),
    ),
    operation(
        ("get", RESOURCE, "getResource"),
        "Releases a resource, encrypted to the guest's key. The query is what a policy sees of it",
        Who::Guest,
        Body::None,
        Answer::Json("Jwe"),
    ),
    operation(
        ("post", RESOURCE, "postResource"),
        "Stores a resource as its next version",
        Who::Admin,
        Body::Bytes,
        Answer::EmptyXml,
    )
    .asking(&[("expires", "integer", false), ("shadow", "boolean", false)]),
    operation(
        ("put", RESOURCE, "putResource"),
        "Stores a resource as its next version",
        Who::Admin,
        Body::Bytes,
        Answer::EmptyXml,
    )
    .asking(&[("expires", "integer", false), ("shadow", "boolean", false)]),
    operation(
        ("delete", RESOURCE, "deleteResource"),
        "Deletes a resource with all its versions",
        Who::Admin,
        Body::None,
        Answer::EmptyXml,
    ),
    operation(
        ("get", "/kbs/v0/resource-policy", "listReleasePolicies"),
        "Lists the id of the root release policy, as upstream's clients know it",
        Who::Admin,
        Body::None,
        Answer::List("Text"),
    ),
    operation(
        ("post", "/kbs/v0/resource-policy", "setReleasePolicy"),
        "Sets the root release policy",
        Who::Admin,
        Body::Json("SetReleasePolicy"),
        Answer::Nothing,
    ),
    operation(
        ("post", "/kbs/v0/attestation-policy", "setAppraisalPolicy"),
        "Sets an appraisal policy",
        Who::Admin,
        Body::Json("SetAppraisalPolicy"),
        Answer::Nothing,
    ),
    operation(
        ("get", "/kbs/v0/reference-value", "listReferenceValues"),
        "Lists reference values",
        Who::Admin,
        Body::None,
        Answer::List("ReferenceValue"),
    ),
    operation(
        ("post", "/kbs/v0/reference-value", "registerReferenceValues"),
        "Registers the reference values of a message",
        Who::Admin,
        Body::Json("ReferenceValueMessage"),
        Answer::EmptyJson,
    ),
    operation(
        ("get", "/kbs/v0/reference-value/{id}", "getReferenceValue"),
        "Gives a reference value",
        Who::Admin,
        Body::None,
        Answer::Json("Any"),
    ),
    operation(
        ("get", "/strongroom/v1/audit", "audit"),
        "Lists entries of the record: the newest, or those before one, or that of an event",
        Who::Admin,
        Body::None,
        Answer::List("Entry"),
    )
    .asking(&[
        ("limit", "integer", false),
        ("before", "integer", false),
        ("event", "string", false),
    ]),
    operation(
        ("post", "/strongroom/v1/audit/prune", "pruneAudit"),
        "Removes the oldest entries of the record, as far as the configuration lets them go",
        Who::Admin,
        Body::None,
        Answer::Json("Pruned"),
    )
    .asking(&[("before", "integer", false)]),
    operation(
        ("get", "/strongroom/v1/explain/{event}", "explain"),
        "Explains an event",
        Who::Admin,
        Body::None,
        Answer::Json("Explanation"),
    ),
    operation(
        ("post", "/strongroom/v1/rehearse", "rehearse"),
        "Takes past decisions again under changed policies or reference values; nothing is changed",
        Who::Admin,
        Body::Json("Changes"),
        Answer::Json("Rehearsal"),
    ),
    operation(
        ("get", "/strongroom/v1/log/{path}", "log"),
        "Gives a file of the record as a C2SP tlog-tiles log: `checkpoint`, or a tile",
        Who::Admin,
        Body::None,
        Answer::File,
    ),
    operation(
        ("get", "/strongroom/v1/resource", "listResources"),
        "Lists resources without their contents",
        Who::Admin,
        Body::None,
        Answer::List("ListedResource"),
    ),
    operation(
        ("get", "/strongroom/v1/resource/{path}", "listVersions"),
        "Lists the versions of a resource",
        Who::Admin,
        Body::None,
        Answer::List("ResourceMetadata"),
    ),
    operation(
        ("get", "/strongroom/v1/policy", "listPolicies"),
        "Lists the policies in force",
        Who::Admin,
        Body::None,
        Answer::List("PolicySummary"),
    ),
    operation(
        ("get", POLICY, "getPolicy"),
        "Gives a policy's text and history",
        Who::Admin,
        Body::None,
        Answer::Json("Policy"),
    )
    .asking(&[("version", "integer", false)]),
    operation(
        ("put", POLICY, "putPolicy"),
        "Sets a policy",
        Who::Admin,
        Body::Rego,
        Answer::Json("PolicySummary"),
    ),
    operation(
        ("delete", POLICY, "deletePolicy"),
        "Takes a policy out of force",
        Who::Admin,
        Body::None,
        Answer::Json("PolicySummary"),
    ),
    operation(
        (
            "get",
            "/strongroom/v1/reference-value/{name}",
            "referenceValueHistory",
        ),
        "Gives every version of a reference value",
        Who::Admin,
        Body::None,
        Answer::List("ReferenceValueVersion"),
    ),
    operation(
        (
            "delete",
            "/strongroom/v1/reference-value/{name}",
            "deleteReferenceValue",
        ),
        "Removes a reference value",
        Who::Admin,
        Body::None,
        Answer::Nothing,
    ),
    operation(
        (
            "post",
            "/strongroom/v1/storage-key/rotate",
            "rotateStorageKey",
        ),
        "Makes a fresh storage key and wraps every data key by it",
        Who::Admin,
        Body::None,
        Answer::Json("Rotated"),
    ),
    operation(
        (
            "post",
            "/strongroom/v1/rollback/resource/{path}",
            "rollbackResource",
        ),
        "Stores what an older version holds as the newest version",
        Who::Admin,
        Body::None,
        Answer::Json("Stored"),
    )
    .asking(&[("version", "integer", true), ("expires", "integer", false)]),
    operation(
        (
            "post",
            "/strongroom/v1/rollback/policy/{id}",
            "rollbackPolicy",
        ),
        "Puts the text of an older version in force again",
        Who::Admin,
        Body::None,
        Answer::Json("PolicySummary"),
    )
    .asking(&[("version", "integer", true)]),
];

fn schemas() -> Value {
    let text = json!({"type": "string"});
    let number = json!({"type": "integer", "minimum": 0});
    let any = json!(true);
    let tee = json!({"enum": Tee::ALL.map(Tee::as_str)});
    let maybe_text = json!({"type": ["string", "null"]});
    let list = |schema: &str| json!({"type": "array", "items": reference(schema)});
    let value = json!({
        "value": any, "expires": number, "provenance": reference("Provenance"),
    });
    let mut named_value = value.clone();
    named_value["name"] = text.clone();
    let summary = json!({
        "id": text, "version": number, "digest": text, "set_at": number, "set_by": text,
    });
    let mut policy = summary.clone();
    policy["text"] = maybe_text;
    policy["versions"] = list("PolicySummary");
    let mut metadata = json!({
        "path": text, "version": number, "size": number, "digest": text, "stored_at": number, "stored_by": text,
        "expires": number,
    });
    let mut stored = metadata.clone();
    stored["source"] = json!({"const": "store"});
    metadata["deleted_at"] = number.clone();
    metadata["deleted_by"] = text.clone();
    let reason = json!({"rule": text, "claim": text, "expected": any, "actual": any});
    let mut advice = reason.clone();
    for (member, schema) in [("nearest", &any), ("command", &text), ("warning", &text)] {
        advice[member] = schema.clone();
    }
    let metadata_members = [
        "path",
        "version",
        "size",
        "digest",
        "stored_at",
        "stored_by",
    ];
    let ec = object(
        json!({
            "kty": {"const": "EC"}, "crv": {"enum": ["P-256", "P-521"]}, "alg": {"const": "ECDH-ES+A256KW"}, "x": text,
            "y": text,
        }),
        &["kty", "crv", "alg", "x", "y"],
    );
    let rsa = object(
        json!({"kty": {"const": "RSA"}, "alg": {"const": "RSA-OAEP-256"}, "n": text, "e": text}),
        &["kty", "alg", "n", "e"],
    );
    let schemas = [
        ("Any", any.clone()),
        ("Text", text.clone()),
        (
            "ErrorInformation",
            object(
                json!({"type": {"type": "string", "format": "uri"}, "detail": text}),
                &["type", "detail"],
            ),
        ),
        ("Tee", tee),
        ("TeePublicKey", json!({"oneOf": [ec, rsa]})),
        (
            "Request",
            object(
                json!({"version": {"const": PROTOCOL_VERSION}, "tee": reference("Tee"), "extra-params": any}),
                &["version", "tee", "extra-params"],
            ),
        ),
        (
            "Challenge",
            object(
                json!({"nonce": text, "extra-params": any}),
                &["nonce", "extra-params"],
            ),
        ),
        (
            "RuntimeData",
            object(
                json!({"nonce": text, "tee-pubkey": reference("TeePublicKey")}),
                &["nonce", "tee-pubkey"],
            ),
        ),
        (
            "InitData",
            object(
                json!({"format": {"const": "toml"}, "body": text}),
                &["format", "body"],
            ),
        ),
        (
            "TeeEvidence",
            object(
                json!({"primary_evidence": any, "additional_evidence": text}),
                &["primary_evidence", "additional_evidence"],
            ),
        ),
        (
            "Attestation",
            object(
                json!({
                    "init-data": {"anyOf": [reference("InitData"), {"type": "null"}]},
                    "runtime-data": reference("RuntimeData"),
                    "tee-evidence": reference("TeeEvidence"),
                }),
                &["runtime-data", "tee-evidence"],
            ),
        ),
        ("AttestResponse", object(json!({"token": text}), &["token"])),
        (
            "Jwe",
            object(
                json!({
                    "protected": text, "encrypted_key": text, "iv": text, "aad": text, "ciphertext": text, "tag": text,
                }),
                &["protected", "encrypted_key", "iv", "ciphertext", "tag"],
            ),
        ),
        (
            "Jwks",
            object(
                json!({"keys": {"type": "array", "items": {"type": "object"}}}),
                &["keys"],
            ),
        ),
        (
            "AttestationRequest",
            object(
                json!({
                    "verification_requests": {
                        "type": "array", "items": reference("IndividualRequest"), "minItems": 1, "maxItems": 16,
                    },
                    "policy_ids": {"type": "array", "items": text, "maxItems": 1},
                }),
                &["verification_requests"],
            ),
        ),
        (
            "IndividualRequest",
            object(
                json!({
                    "tee": reference("Tee"),
                    "evidence": text,
                    "runtime_data": {"oneOf": [
                        object(json!({"raw": text}), &["raw"]),
                        object(json!({"structured": any}), &["structured"]),
                    ]},
                    "init_data": {"oneOf": [
                        object(json!({"init_data_digest": text}), &["init_data_digest"]),
                        object(json!({"init_data_toml": text}), &["init_data_toml"]),
                    ]},
                    "runtime_data_hash_algorithm": {"enum": ["sha256", "sha384", "sha512"]},
                }),
                &["tee", "evidence"],
            ),
        ),
        (
            "ChallengeRequest",
            object(
                json!({"tee": reference("Tee"), "tee_params": text}),
                &["tee", "tee_params"],
            ),
        ),
        (
            "PolicyEntry",
            object(json!({"policy-id": text}), &["policy-id"]),
        ),
        (
            "SetReleasePolicy",
            object(
                json!({"policy": {"type": "string", "contentEncoding": "base64url"}}),
                &["policy"],
            ),
        ),
        (
            "SetAppraisalPolicy",
            object(
                json!({
                    "policy_id": {"type": "string", "pattern": "^[a-zA-Z0-9.-]{1,64}_(cpu|gpu)$"},
                    "policy": {"type": "string", "contentEncoding": "base64url"},
                }),
                &["policy_id", "policy"],
            ),
        ),
        (
            "ReferenceValueMessage",
            object(
                json!({
                    "version": {"const": "0.1.0"}, "type": {"enum": ["sample", "swid", "corim"]},
                    "payload": {"type": "string", "contentEncoding": "base64"},
                }),
                &["version", "type", "payload"],
            ),
        ),
        (
            "Provenance",
            object(
                json!({"message_type": text, "registered": number, "registered_by": text, "signer": text}),
                &[],
            ),
        ),
        (
            "ReferenceValue",
            object(named_value, &["name", "value", "expires", "provenance"]),
        ),
        (
            "ReferenceValueVersion",
            object(
                json!({
                    "version": number, "set_at": number, "set_by": text,
                    "value": {"anyOf": [
                        object(value, &["value", "expires", "provenance"]),
                        {"type": "null"},
                    ]},
                }),
                &["version", "value", "set_at", "set_by"],
            ),
        ),
        (
            "Reason",
            object(reason, &["rule", "claim", "expected", "actual"]),
        ),
        (
            "Entry",
            object(
                json!({
                    "seq": number, "event": text, "at": number,
                    "kind": {"enum": ["start", "attestation", "release", "admin"]},
                    "outcome": {"enum": ["allowed", "denied", "missing", "failed"]},
                    "action": text, "admin": text, "tee": reference("Tee"), "tee_key": text, "token": text,
                    "measurement": text, "init_data": text,
                    "resource": text, "query": {"type": "object", "additionalProperties": text},
                    "query_left_out": {"type": "boolean"}, "version": number,
                    "source": text, "digest": text, "policy_id": text, "policy": text, "reasons": list("Reason"),
                    "detail": text, "loosenings": {"type": "array", "items": text}, "suppressed": number,
                    "minimum_index": number,
                }),
                &["seq", "event", "at", "kind", "outcome", "action"],
            ),
        ),
        (
            "Advice",
            object(advice, &["rule", "claim", "expected", "actual"]),
        ),
        (
            "Explanation",
            object(
                json!({
                    "entry": reference("Entry"), "attestation": reference("Entry"), "summary": text,
                    "advice": list("Advice"), "now": text,
                }),
                &["entry", "summary", "advice"],
            ),
        ),
        (
            "Changes",
            json!({
                "type": "object",
                "properties": {
                    "policies": {"type": "object", "additionalProperties": {"type": ["string", "null"]}},
                    "reference_values": {"type": "object", "additionalProperties": any},
                    "limit": {"type": ["integer", "null"], "minimum": 0, "maximum": u32::MAX},
                },
                "additionalProperties": false,
            }),
        ),
        (
            "Flip",
            object(
                json!({
                    "event": text, "at": number, "kind": text, "resource": text, "was": text, "now": text,
                    "would_be": text,
                    "reasons": list("Reason"),
                }),
                &["event", "at", "kind", "was", "now", "would_be", "reasons"],
            ),
        ),
        (
            "Rehearsal",
            object(
                json!({
                    "decisions": number, "forgotten": number, "otherwise_already": number, "flips": list("Flip"),
                }),
                &["decisions", "forgotten", "otherwise_already", "flips"],
            ),
        ),
        ("ResourceMetadata", object(metadata, &metadata_members)),
        (
            "ListedResource",
            json!({"anyOf": [
                object(stored, &metadata_members),
                object(
                    json!({
                        "path": text, "size": number, "stored_at": number, "source": text,
                        "shadowed": {"type": "boolean"},
                    }),
                    &["path", "size", "stored_at", "source", "shadowed"],
                ),
            ]}),
        ),
        (
            "PolicySummary",
            object(summary, &["id", "version", "set_at", "set_by"]),
        ),
        (
            "Policy",
            object(
                policy,
                &["id", "version", "set_at", "set_by", "text", "versions"],
            ),
        ),
        (
            "Readiness",
            object(
                json!({"ready": {"type": "boolean"}, "reasons": {"type": "array", "items": text}}),
                &["ready", "reasons"],
            ),
        ),
        (
            "NewAdmin",
            object(
                json!({"role": {"enum": ["admin", "policy", "secrets", "auditor"]}, "public_key": text}),
                &["role", "public_key"],
            ),
        ),
        (
            "AdminChange",
            object(
                json!({"name": text, "version": number}),
                &["name", "version"],
            ),
        ),
        (
            "Pruned",
            object(
                json!({"entries": number, "first": number}),
                &["entries", "first"],
            ),
        ),
        (
            "Rotated",
            object(
                json!({"key": text, "rewrapped": number}),
                &["key", "rewrapped"],
            ),
        ),
        ("Stored", object(json!({"version": number}), &["version"])),
    ];
    let named = schemas.map(|(name, schema)| (name.to_owned(), schema));
    Value::Object(named.into_iter().collect())
}

fn object(members: Value, required: &[&str]) -> Value {
    let mut schema = json!({"type": "object", "properties": members});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}
